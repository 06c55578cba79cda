"""The three kinds of telemetry."""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """As OTLP's paths name them."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
