"""The rendering of records before one table served attributes and bytes, frozen as the oracle of property tests.

It does not follow later changes of names or of the order of attributes. The tests list the intended differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import cast

from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._semantics import (
    EVENTS_KEPT_FIRST,
    EVENTS_KEPT_LAST,
    ErrorType,
    Failure,
    Flag,
    Level,
    Result,
    names,
)
from spanbus._telemetry.redaction import Redactor

Attributes = dict[str, AttributeValue]

_ERROR_TYPES = frozenset(ErrorType)
_UNSET = Status(StatusCode.UNSET)
_SERVER, _INTERNAL = SpanKind.SERVER, SpanKind.INTERNAL
_RUN, _PHASE = Level.RUN, Level.PHASE
_TEXTS: Mapping[str, str] = {
    **{level: level.value for level in Level},
    **{result: result.value for result in Result},
}
"""Plain texts of what is asked for at every span: an enumeration's ``value`` is looked up by a descriptor."""
_RESULT_ATTRIBUTE = {
    Level.RUN: names.PIPELINE_RESULT,
    Level.PHASE: names.TASK_RESULT,
    Level.ATTEMPT: names.TASK_RESULT,
}


def span_end_ns(record: SpanState) -> int:
    """Return the end of the record's span. It is at least 1 ns after the start: Jaeger takes a span of 0 ns for clock skew."""
    return max(record.ended_at_ns or 0, record.started_at_ns + 1)


class Rendering:
    """Attributes, events and status of a record's span. Every text goes through the redactor."""

    def __init__(
        self,
        redactor: Redactor,
        *,
        span_events: bool = True,
        exception_events: bool = True,
        limits: SpanLimits | None = None,
    ) -> None:
        self.redactor = self._redactor = redactor
        self._span_events = span_events
        self._exception_events = exception_events
        limits = limits or SpanLimits()
        self._max_events = limits.max_events
        self._max_attributes = limits.max_span_attributes
        self._max_length = limits.max_span_attribute_length
        self._max_event_attributes = limits.max_event_attributes
        self._max_event_length = limits.max_attribute_length
        self.unlimited = (
            span_events
            and self._max_length is self._max_event_length is None
            and all(
                most is None or most >= needed
                for most, needed in (
                    (self._max_events, EVENTS_KEPT_FIRST + EVENTS_KEPT_LAST),
                    (self._max_attributes, 32),
                    (self._max_event_attributes, 64),
                )
            )
        )
        """A phase that simply succeeded stays within the limits, whatever it is."""

    def name(self, record: SpanState) -> str:
        level = record.level
        if level is _RUN:
            return f"{names.ACTION_RUN} {record.name}"
        if level is Level.HOOK or level is Level.STRATEGY:
            return f"{level} {record.name}"
        return record.name

    def kind(self, record: SpanState) -> SpanKind:
        return _SERVER if record.level is _RUN else _INTERNAL

    def opening(self, record: SpanState) -> Attributes:
        """Return the attributes known at the start, which samplers and searches need."""
        level = record.level
        attributes: Attributes = {
            names.PIPELINE_NAME: record.workflow,
            names.PIPELINE_RUN_ID: record.run_id,
            names.LEVEL: _TEXTS[level],
        }
        if level is _RUN:
            attributes[names.PIPELINE_ACTION_NAME] = names.ACTION_RUN
        elif level is _PHASE or level is Level.ATTEMPT:
            phase = record if level is _PHASE or record.parent is None else record.parent
            attributes[names.TASK_NAME] = phase.name
            attributes[names.TASK_RUN_ID] = f"{phase.span_id:016x}"
            if record.task_type is not None:
                attributes[names.TASK_TYPE] = record.task_type
            if level is Level.ATTEMPT:
                attributes[names.PHASE_ATTEMPT] = record.attempt
        else:
            attributes[names.PHASE_ATTEMPT] = record.attempt
            self._process(record, attributes)
        return attributes

    def closing(self, record: SpanState) -> Attributes:
        """Return the attributes known at the end."""
        attributes: Attributes = {}
        result = record.result
        if result is not None:
            attributes[_RESULT_ATTRIBUTE.get(record.level, names.HOOK_RESULT)] = _TEXTS[result]
        if record.failure is not None:
            attributes[names.ERROR_TYPE] = str(record.failure.error_type)
        if record.level is _PHASE:
            attributes[names.PHASE_ATTEMPTS] = record.attempts
            if record.skip_reason:
                attributes[names.SKIP_REASON] = self._redactor.text(record.skip_reason)
        if record.attributes:
            self._process(record, attributes)
        flags = record.flags
        if flags:
            if Flag.AMBIGUOUS in flags:
                attributes[names.MATCH] = "ambiguous"
            if Flag.ORPHAN_END in flags:
                attributes[names.ORPHAN] = "end"
            if Flag.CLOCK in flags:
                attributes[names.CLOCK] = "clamped"
        log = record.events
        attributes[names.EVENTS_TOTAL] = log.total
        if log.dropped:
            attributes[names.EVENTS_DROPPED] = log.dropped
            for event_type, count in log.dropped_by_type.items():
                attributes[f"{names.EVENTS_SUMMARY_PREFIX}{event_type}"] = count
        return attributes

    def _process(self, record: SpanState, attributes: Attributes) -> None:
        for key, value in record.attributes.items():
            if key == names.OUTPUT_TAIL:
                if (
                    record.result is None
                    or record.result.failed
                    or record.result is Result.CANCELLATION
                ):
                    attributes[key] = self._redactor.end_of(str(value), names.ERROR_TEXT_LIMIT)
            elif isinstance(value, tuple):
                attributes[key] = self._redactor.arguments(value)
            elif isinstance(value, str):
                attributes[key] = self._redactor.text(value)
            else:
                attributes[key] = value

    def status(self, record: SpanState) -> Status:
        if record.result is None or not record.result.failed:
            return _UNSET
        failure = record.failure
        if failure is None:
            return Status(StatusCode.ERROR)
        text = (
            self._redactor.text(failure.message, names.ERROR_TEXT_LIMIT)
            if failure.message
            else str(failure.error_type)
        )
        return Status(StatusCode.ERROR, text)

    def events(self, record: SpanState) -> Iterator[tuple[str, int, Attributes]]:
        """Return name, time and attributes of the span events, oldest first."""
        exception = self.exception(record)
        if self._span_events:
            notes = record.events.kept()
            if cut := self.events_cut(record):
                first = (len(notes) - cut) // 2
                notes = notes[:first] + notes[first + cut :]
            for note in notes:
                yield note.name, note.at_ns, self.event(note)
        if exception is not None and self._exception_events:
            yield "exception", record.ended_at_ns or record.started_at_ns, exception

    def events_cut(self, record: SpanState) -> int:
        """Return the number of kept events above the SDK's limit for spans; those in the middle are dropped."""
        if self._max_events is None or not self._span_events:
            return 0
        exception = self._exception_events and self.exception(record) is not None
        return max(0, len(record.events) - max(0, self._max_events - exception))

    def event(self, note: SpanEvent) -> Attributes:
        attributes: Attributes = {names.EVENT_ID: note.event_id}
        if note.source:
            attributes[names.EVENT_SOURCE] = note.source
        payload = self._redactor.attributes(note.payload)
        return attributes | {names.EVENT_PAYLOAD_PREFIX + key: payload[key] for key in payload}

    def exception(self, record: SpanState) -> Attributes | None:
        """Return the exception of a failure, only for the innermost span that failed by it."""
        failure = record.failure
        if (
            failure is None
            or failure.error_type in _ERROR_TYPES
            or record.level is Level.RUN
            or (
                record.level is Level.PHASE
                and any(child.level is Level.ATTEMPT for child in record.children)
            )
        ):
            return None
        return self.exception_attributes(failure)

    def exception_attributes(self, failure: Failure) -> Attributes:
        attributes: Attributes = {names.EXCEPTION_TYPE: str(failure.error_type)}
        if failure.message:
            attributes[names.EXCEPTION_MESSAGE] = self._redactor.text(
                failure.message, names.ERROR_TEXT_LIMIT
            )
        if failure.stacktrace:
            attributes[names.EXCEPTION_STACKTRACE] = self._redactor.text(
                failure.stacktrace, names.ERROR_TEXT_LIMIT * 4
            )
        return attributes

    def limited(self, attributes: Attributes) -> Attributes:
        """Apply the SDK's limits for spans. Attributes that identify the span come first, so that they stay."""
        return _limited(attributes, self._max_attributes, self._max_length)

    def limited_event(self, attributes: Attributes) -> Attributes:
        """Apply the SDK's limits for events."""
        return _limited(attributes, self._max_event_attributes, self._max_event_length)


def _limited(attributes: Attributes, most: int | None, length: int | None) -> Attributes:
    if length is not None:
        attributes = {key: _cut(value, length) for key, value in attributes.items()}
    if most is not None and len(attributes) > most:
        attributes = dict(list(attributes.items())[:most])
    return attributes


def _cut(value: AttributeValue, length: int) -> AttributeValue:
    if isinstance(value, str):
        return value[:length]
    if isinstance(value, tuple | list):
        return [item[:length] if isinstance(item, str) else item for item in value]  # pyright: ignore[reportReturnType]
    return value


def span_of(
    rendering: Rendering,
    record: SpanState,
    *,
    parent: SpanContext | None = None,
    state: TraceState | None = None,
    sampler_attributes: Mapping[str, AttributeValue] | None = None,
    dropped_records: int = 0,
) -> ReadableSpan:
    """Return the finished span of a record as an object like the SDK's ReadableSpan."""
    attributes = rendering.opening(record)
    attributes.update(sampler_attributes or {})
    attributes.update(rendering.closing(record))
    if dropped_records:
        attributes[names.DELIVERY_DROPPED] = dropped_records
    kept = rendering.limited(attributes)
    above = record.parent
    if above is not None:
        parent = SpanContext(above.trace_id, above.span_id, False)
    return cast(
        "ReadableSpan",
        SimpleNamespace(
            name=rendering.name(record),
            context=SpanContext(record.trace_id, record.span_id, False, TraceFlags(1), state),
            parent=parent,
            kind=rendering.kind(record),
            start_time=record.started_at_ns,
            end_time=span_end_ns(record),
            attributes=kept,
            dropped_attributes=len(attributes) - len(kept),
            events=[_event(rendering, *event) for event in rendering.events(record)],
            dropped_events=rendering.events_cut(record),
            links=[
                Link(SpanContext(link.trace_id, link.span_id, True), {names.LINK_TYPE: link.kind})
                for link in record.links
            ],
            dropped_links=0,
            status=rendering.status(record),
        ),
    )


def _event(rendering: Rendering, name: str, at_ns: int, attributes: Attributes) -> SimpleNamespace:
    kept = rendering.limited_event(attributes)
    dropped = len(attributes) - len(kept)
    return SimpleNamespace(name=name, timestamp=at_ns, attributes=kept, dropped_attributes=dropped)
