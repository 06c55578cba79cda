"""The kinds of records in a spool: OTLP's three signals, and events for a broker."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Signal(StrEnum):
    """Signals, named as in OTLP paths. The spool's files rely on this order: append new members at the end."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
    EVENTS = "events"
    """Bus events for a destination other than OTLP; they have a spool of their own."""


OTLP_SIGNALS: Final = (Signal.TRACES, Signal.METRICS, Signal.LOGS)
