"""Bus events as log events, for more events than a span may hold.

Opt-in by ``SPANBUS_EVENTS=log`` or ``both``. Exceptions are logged too if ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` is
``logs`` or ``logs/dup``. A log event is a log record with an event name, by the OpenTelemetry log data model.
"""

from __future__ import annotations

import time

from opentelemetry._logs import Logger, SeverityNumber

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._semantics import Level, names
from spanbus._telemetry.span_handle import context_of
from spanbus._telemetry.template import Template


class LogSink:
    """Emits each event immediately, with the trace context of its span."""

    def __init__(
        self, logger: Logger, template: Template, *, events: bool, exceptions: bool
    ) -> None:
        self._logger = logger
        self._template = template
        self._events = events
        self._exceptions = exceptions

    def noted(self, record: SpanState, note: SpanEvent) -> None:
        self._emit(note, record)

    def opened(self, record: SpanState) -> None:
        """Do nothing: the start event is emitted by :meth:`noted`."""

    def closed(self, record: SpanState) -> None:
        if not self._exceptions or record.level is Level.RUN:
            return
        exception = self._template.exception(record)
        if exception is not None:
            self._logger.emit(
                timestamp=record.ended_at_ns,
                observed_timestamp=time.time_ns(),
                context=context_of(record),
                severity_number=SeverityNumber.ERROR,
                severity_text="ERROR",
                body=str(exception.get("exception.message", record.name)),
                attributes=exception,
                event_name="exception",
            )

    def late(self, note: SpanEvent) -> None:
        self._emit(note, None)

    def _emit(self, note: SpanEvent, record: SpanState | None) -> None:
        if self._events:
            self._logger.emit(
                timestamp=note.at_ns,
                observed_timestamp=time.time_ns(),
                context=context_of(record) if record is not None else None,
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=note.name,
                attributes=self._template.event(note),
                event_name=note.name,
            )


def send_output(logger: Logger, record: SpanState, line: str) -> None:
    """Emit one line of a command's output, already redacted, in the context of the command's span."""
    now_ns = time.time_ns()
    logger.emit(
        timestamp=now_ns,
        observed_timestamp=now_ns,
        context=context_of(record),
        severity_number=SeverityNumber.INFO,
        severity_text="INFO",
        body=line,
        attributes={
            names.PIPELINE_NAME: record.workflow,
            names.PIPELINE_RUN_ID: record.run_id,
            names.TASK_NAME: _phase_of(record),
            names.PROCESS_EXECUTABLE: str(record.attributes.get(names.PROCESS_EXECUTABLE, "")),
        },
    )


def _phase_of(record: SpanState) -> str:
    above: SpanState | None = record
    while above is not None and above.level is not Level.PHASE:
        above = above.parent
    return above.name if above is not None else ""
