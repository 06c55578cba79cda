"""The kinds of records that a spool holds: OTLP's three signals, and events on their way to a broker."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Signal(StrEnum):
    """OTLP's as its paths name them. The order is that of the spool's files: new ones come at the end."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
    EVENTS = "events"
    """Bus events that a destination outside of OTLP takes; they lie in a spool of their own."""


OTLP_SIGNALS: Final = (Signal.TRACES, Signal.METRICS, Signal.LOGS)
