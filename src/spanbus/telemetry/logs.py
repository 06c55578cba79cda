"""Bus events as log events, for streams that are longer than a span may hold.

Opt-in (``SPANBUS_EVENTS=log`` or ``both``); exceptions go here too where ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` asks for
``logs`` or ``logs/dup``. An event is a log record with an event name, as the OpenTelemetry log data model has it.
"""

from __future__ import annotations

import time

from opentelemetry._logs import Logger, SeverityNumber

from spanbus.telemetry.names import Level
from spanbus.telemetry.records import EventNote, Record
from spanbus.telemetry.rendering import Rendering, context_of


class LogSink:
    """Emits each event at once, with the trace context of the span that it belongs to."""

    def __init__(self, logger: Logger, rendering: Rendering, *, events: bool, exceptions: bool) -> None:
        self._logger = logger
        self._rendering = rendering
        self._events = events
        self._exceptions = exceptions

    def noted(self, record: Record, note: EventNote) -> None:
        if self._events:
            self._logger.emit(
                timestamp=note.at_ns, observed_timestamp=time.time_ns(), context=context_of(record), severity_number=SeverityNumber.INFO,
                severity_text="INFO", body=note.name, attributes=self._rendering.event(note), event_name=note.name,
            )

    def opened(self, record: Record) -> None:
        """Starts are events of their own."""

    def closed(self, record: Record) -> None:
        if not self._exceptions or record.level is Level.RUN:
            return
        exception = self._rendering.exception(record)
        if exception is not None:
            self._logger.emit(
                timestamp=record.ended_at_ns, observed_timestamp=time.time_ns(), context=context_of(record), severity_number=SeverityNumber.ERROR,
                severity_text="ERROR", body=str(exception.get("exception.message", record.name)), attributes=exception, event_name="exception",
            )

    def late(self, note: EventNote) -> None:
        if self._events:
            self._logger.emit(
                timestamp=note.at_ns, observed_timestamp=time.time_ns(), severity_number=SeverityNumber.INFO, severity_text="INFO", body=note.name,
                attributes=self._rendering.event(note), event_name=note.name,
            )
