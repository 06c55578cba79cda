"""Render a record as a span: name, kind, attributes, events and status, as OpenTelemetry objects or as OTLP bytes.

Follows the OpenTelemetry semantic conventions 1.44.0, CI/CD and exceptions. Both forms use the attribute tables of
:mod:`.fields` and :mod:`.event_fields`. Every text is redacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._otlp import encode as wire
from spanbus._otlp.values import attributes as encoded_attributes
from spanbus._otlp.values import varint
from spanbus._semantics import (
    EVENTS_KEPT_FIRST,
    EVENTS_KEPT_LAST,
    ErrorType,
    Failure,
    Level,
    Result,
    names,
)
from spanbus._telemetry import fields
from spanbus._telemetry.event_fields import EventFields, without_repeats
from spanbus._telemetry.fields import KEYS, SPAN_ATTRIBUTE, TABLES
from spanbus._telemetry.limits import Limits, SpanLimits
from spanbus._telemetry.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.trace import SpanKind, Status
    from opentelemetry.util.types import AttributeValue

Attributes = dict[str, "AttributeValue"]
Event = tuple[str, int, Attributes]
"""A span event: its name, Unix nanoseconds, attributes."""

_EVENT_ATTRIBUTE: Final = b"\x1a"
_ERROR_TYPES: Final = frozenset(ErrorType)
_RUN: Final = Level.RUN
_PHASE: Final = Level.PHASE
_EXECUTION: Final = Level.EXECUTION
_SKIP: Final = Result.SKIP
_CANCELLATION: Final = Result.CANCELLATION
_RESULT_ROOM: Final = 16
_USUAL_ATTRIBUTES: Final = 64
_NAMES: Final = 2_000
_NO_SAMPLER_ATTRIBUTES: Final[Mapping[str, AttributeValue]] = {}


def span_end_ns(record: SpanState) -> int:
    """Return the end time of the record's span, at least one nanosecond after its start.

    Jaeger treats a span of zero length as a clock error.
    """
    ended_at_ns, least_ns = record.ended_at_ns, record.started_at_ns + 1
    return ended_at_ns if ended_at_ns is not None and ended_at_ns > least_ns else least_ns


class RemoteParent(Protocol):
    """A span of another process: a parsed ``traceparent`` or a SpanContext of the API."""

    @property
    def span_id(self) -> int: ...


class Template:
    """Renders records as spans; ``span_events`` and ``exception_events`` add bus events and exceptions to them."""

    def __init__(
        self,
        redactor: Redactor,
        *,
        span_events: bool = True,
        exception_events: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.redactor = self._redactor = redactor
        self._event_fields = EventFields(redactor)
        self._names: Callable[[str], bytes] = bounded_cache(wire.span_name, _NAMES)
        self._span_events = span_events
        self._exception_events = exception_events
        limits = limits if limits is not None else SpanLimits()
        self._max_events = limits.max_events
        self._max_attributes = limits.max_span_attributes
        self._max_length = limits.max_span_attribute_length
        self._max_event_attributes = limits.max_event_attributes
        self._max_event_length = limits.max_attribute_length
        self._limited_spans = _may_apply(self._max_attributes, self._max_length)
        self._limited_events = _may_apply(self._max_event_attributes, self._max_event_length)
        self._cuts_events = self._max_events is not None and self._max_events <= (
            EVENTS_KEPT_FIRST + EVENTS_KEPT_LAST
        )
        self._unlimited = span_events and not self._cuts_events and not self._limited_events

    # --- name, kind, status ---------------------------------------------------------------------------------------------

    def name(self, record: SpanState) -> str:
        """Return the span's name. It shows a skip and a cancelled run, which a span status cannot express."""
        level, result = record.level, record.result
        if level is _PHASE:
            return f"{record.name} ({result})" if result is _SKIP else record.name
        if level is _RUN:
            name = f"{names.ACTION_RUN} {record.name}"
            return f"{name} ({result})" if result is _SKIP or result is _CANCELLATION else name
        if level is Level.HOOK or level is Level.STRATEGY:
            return f"{level} {record.name}"
        return record.name

    def kind(self, record: SpanState) -> SpanKind:
        """Return SERVER for a run, CONSUMER for the execution of a task, else INTERNAL."""
        from opentelemetry.trace import SpanKind  # lazy: encoding needs no API

        if record.level is _RUN:
            return SpanKind.SERVER
        return SpanKind.CONSUMER if record.level is _EXECUTION else SpanKind.INTERNAL

    def status(self, record: SpanState) -> Status:
        """Return ERROR with the message for a failure, else the status set by code, else unset."""
        from opentelemetry.trace import Status, StatusCode

        result, failure = record.result, record.failure
        if result is None or not result.failed:
            status = record.added.status if record.added is not None else None
            return Status(StatusCode(status[0]), status[1]) if status is not None else Status()
        return Status(StatusCode.ERROR, self._error_text(record, failure))

    def _error_text(self, record: SpanState, failure: Failure | None) -> str | None:
        """Return the error message of a record; for a run prefixed with its result."""
        run = record.level is _RUN
        if failure is None:
            return str(record.result) if run else None
        text = str(failure.error_type)
        if failure.message:
            limit = names.ERROR_TEXT_LIMIT - (_RESULT_ROOM if run else 0)
            text = self._redactor.text(failure.message, limit)
        return f"{record.result}: {text}" if run else text

    # --- attributes -------------------------------------------------------------------------------------------------------

    def opening(self, record: SpanState) -> Attributes:
        """Return the attributes that are known at the start."""
        found = fields.read(record, at_start=True)
        if record.attributes:
            found.update(self._described(record))
        return found

    def closing(self, record: SpanState) -> Attributes:
        """Return the attributes that are known only at the end."""
        found = fields.read(record, at_start=False)
        self._add_further(record, found)
        return found

    def attributes(self, record: SpanState) -> Attributes:
        """Return all attributes of an ended record."""
        found = fields.read(record)
        self._add_further(record, found)
        return found

    def _add_further(self, record: SpanState, found: Attributes) -> None:
        if record.skip_reason and record.level is _PHASE:
            found[names.SKIP_REASON] = self._redactor.text(record.skip_reason)
        if record.attributes:
            found.update(self._described(record))
        if record.flags or record.events.dropped:
            found.update(fields.rare(record))

    def _described(self, record: SpanState) -> Attributes:
        """Return the record's own attributes, redacted: executable, arguments, exit code, output."""
        found: Attributes = {}
        for key, value in record.attributes.items():
            if key == names.OUTPUT_TAIL:
                result = record.result
                if result is None or result.failed or result is _CANCELLATION:
                    found[key] = self._redactor.end_of(str(value), names.ERROR_TEXT_LIMIT)
            elif isinstance(value, tuple):
                texts = all(isinstance(one, str) for one in value)  # pyright: ignore[reportUnnecessaryIsInstance] - set by the application
                found[key] = self._redactor.arguments(value) if texts else value
            elif isinstance(value, str):
                found[key] = self._redactor.text(value)
            else:
                found[key] = value
        return found

    # --- events -----------------------------------------------------------------------------------------------------------

    def event(self, event: SpanEvent) -> Attributes:
        """Return the attributes of a bus event."""
        return self._event_fields.attributes(event)

    def events(self, record: SpanState) -> Iterator[Event]:
        """Yield the span's events, oldest first."""
        for event in self._shown(record):
            yield event.name, event.at_ns, self.event(event)
        if record.added is not None:
            for name, at_ns, attributes in record.added.events:
                yield name, at_ns, dict(attributes)
        exception = self.exception(record) if self._exception_events else None
        if exception is not None:
            yield "exception", record.ended_at_ns or record.started_at_ns, exception

    def _shown(self, record: SpanState) -> list[SpanEvent]:
        """Return the events to put on the span; beyond the SDK's limit those in the middle are dropped."""
        if not self._span_events:
            return []
        kept = self._kept_events(record)
        if cut := self._events_cut(record):
            first = (len(kept) - cut) // 2
            return kept[:first] + kept[first + cut :]
        return kept

    def _kept_events(self, record: SpanState) -> list[SpanEvent]:
        """Return the kept events; for a failure, without repeats by a second publisher."""
        kept = record.events.kept()
        if record.failure is not None and len({event.name for event in kept}) < len(kept):
            return without_repeats(kept)
        return kept

    def _events_cut(self, record: SpanState) -> int:
        if not self._cuts_events or self._max_events is None or not self._span_events:
            return 0
        exception = self._exception_events and self.exception(record) is not None
        return max(0, len(self._kept_events(record)) - max(0, self._max_events - exception))

    def exception(self, record: SpanState) -> Attributes | None:
        """Return the exception of a failure, None unless this is the innermost span with that failure."""
        failure = record.failure
        if (
            failure is None
            or failure.error_type in _ERROR_TYPES
            or record.level is _RUN
            or (
                record.level is _PHASE
                and any(child.level is Level.ATTEMPT for child in record.children)
            )
            or _is_recorded(record, failure)
        ):
            return None
        found: Attributes = {names.EXCEPTION_TYPE: str(failure.error_type)}
        if failure.message:
            found[names.EXCEPTION_MESSAGE] = self._redactor.text(
                failure.message, names.ERROR_TEXT_LIMIT
            )
        if failure.stacktrace:
            found[names.EXCEPTION_STACKTRACE] = self._redactor.text(
                failure.stacktrace, names.ERROR_TEXT_LIMIT * 4
            )
        return found

    # --- bytes --------------------------------------------------------------------------------------------------------------

    def encode(
        self,
        record: SpanState,
        *,
        parent: RemoteParent | None = None,
        state: Mapping[str, str] | None = None,
        sampler_attributes: Mapping[str, AttributeValue] = _NO_SAMPLER_ATTRIBUTES,
        dropped_records: int = 0,
    ) -> bytes:
        """Return the OTLP ``Span`` message of an ended record.

        ``parent`` is a remote parent, ``state`` the trace state, ``dropped_records`` the number of spans of the run that were
        dropped.
        """
        above = record.parent
        body, dropped = self._encoded_attributes(record, sampler_attributes, dropped_records)
        return wire.span_message(
            wire.span_ids(
                record.trace_id,
                record.span_id,
                state,
                above.span_id
                if above is not None
                else parent.span_id
                if parent is not None
                else None,
            ),
            self._names(self.name(record)),
            2 if record.level is _RUN else 5 if record.level is _EXECUTION else 1,
            record.started_at_ns,
            span_end_ns(record),
            body,
            dropped,
            self._encoded_events(record),
            self._events_cut(record) if self._cuts_events else 0,
            _encoded_links(record) if record.links or record.added is not None else (),
            self._encoded_status(record),
            above is None and parent is not None,
        )

    def _encoded_attributes(
        self,
        record: SpanState,
        sampler_attributes: Mapping[str, AttributeValue],
        dropped_records: int,
    ) -> tuple[bytes, int]:
        """Return the encoded attributes, and how many of them a limit dropped."""
        encoded = b""
        for group in TABLES[record.level]:
            encoded += group.encoded(group.values(record))
        if not (
            record.attributes
            or record.flags
            or record.skip_reason
            or dropped_records
            or sampler_attributes
            or record.events.dropped
            or self._limited_spans
        ):
            return encoded, 0
        further: Attributes = {}
        self._add_further(record, further)
        if dropped_records:
            further[names.DELIVERY_DROPPED] = dropped_records
        apart = KEYS[record.level].isdisjoint(further)
        if apart and not sampler_attributes and not self._limited_spans:
            return encoded + encoded_attributes(SPAN_ATTRIBUTE, further), 0
        found = {**fields.read(record, at_start=True), **sampler_attributes}
        found.update(fields.read(record, at_start=False))
        found.update(further)
        kept = _limited(found, self._max_attributes, self._max_length)
        return encoded_attributes(SPAN_ATTRIBUTE, kept), len(found) - len(kept)

    def _encoded_events(self, record: SpanState) -> list[bytes]:
        plain = self._unlimited and record.failure is None and record.added is None
        encoded, found = self._event_fields.encoded, list[bytes]()
        for event in record.events.kept() if plain else self._shown(record):
            found.append(
                self._limited_event(event.name, event.at_ns, self.event(event))
                if self._limited_events
                else encoded(event)
            )
        if plain:
            return found
        if record.added is not None:
            found += [
                self._limited_event(name, at_ns, dict(more))
                for name, at_ns, more in record.added.events
            ]
        exception = self.exception(record) if self._exception_events else None
        if exception is not None:
            at_ns = record.ended_at_ns or record.started_at_ns
            found.append(self._limited_event("exception", at_ns, exception))
        return found

    def _limited_event(self, name: str, at_ns: int, found: Attributes) -> bytes:
        kept = _limited(found, self._max_event_attributes, self._max_event_length)
        body = self._event_fields.head(name, at_ns) + encoded_attributes(_EVENT_ATTRIBUTE, kept)
        dropped = len(found) - len(kept)
        return body + b"\x20" + varint(dropped) if dropped else body

    def _encoded_status(self, record: SpanState) -> bytes:
        result, failure = record.result, record.failure
        if result is None or not result.failed:
            status = record.added.status if record.added is not None else None
            return wire.status_message(*status) if status is not None else wire.NO_STATUS
        return wire.status_message(2, self._error_text(record, failure))


def _is_recorded(record: SpanState, failure: Failure) -> bool:
    """Whether code in the phase has recorded this exception itself."""
    return record.added is not None and any(
        name == "exception" and more.get(names.EXCEPTION_TYPE) == str(failure.error_type)
        for name, _, more in record.added.events
    )


def _encoded_links(record: SpanState) -> list[bytes]:
    links = [
        wire.link_message(link.trace_id, link.span_id, True, {names.LINK_TYPE: link.kind})
        for link in record.links
    ]
    if record.added is not None:
        links += [
            wire.link_message(trace_id, span_id, remote, dict(more))
            for trace_id, span_id, remote, more in record.added.links
        ]
    return links


def _may_apply(most: int | None, length: int | None) -> bool:
    """Whether a limit may affect a usual span or event."""
    return length is not None or (most is not None and most < _USUAL_ATTRIBUTES)


def _limited(attributes: Attributes, most: int | None, length: int | None) -> Attributes:
    """Return the attributes within the limits; the first ones are kept."""
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
