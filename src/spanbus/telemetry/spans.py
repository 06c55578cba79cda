"""The recorder's output becomes spans with span events.

Two sinks, one rendering. :class:`DirectSpans` makes finished spans with the recorder's own ids for a provider that is
ours; :class:`TracerSpans` goes through the tracer of a provider that the application has set, which chooses the ids.
Conventions: OpenTelemetry semantic conventions 1.44.0, CI/CD and exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from spanbus.telemetry import names
from spanbus.telemetry.names import ErrorType, Flag, Level, Result
from spanbus.telemetry.records import EventNote, Failure, Record
from spanbus.telemetry.redaction import Redactor
from spanbus.version import __version__

Attributes = dict[str, AttributeValue]

SCOPE = InstrumentationScope(names.SCOPE, __version__, names.SCHEMA_URL)

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_ERROR_TYPES = frozenset(ErrorType)
_UNSET = Status(StatusCode.UNSET)
_SERVER, _INTERNAL = SpanKind.SERVER, SpanKind.INTERNAL
_RUN, _PHASE = Level.RUN, Level.PHASE
_TEXTS: Mapping[str, str] = {**{level: level.value for level in Level}, **{result: result.value for result in Result}}
"""Plain texts of what is asked for at every span: an enumeration's ``value`` is looked up by a descriptor."""
_RESULT_ATTRIBUTE = {
    Level.RUN: names.PIPELINE_RESULT,
    Level.PHASE: names.TASK_RESULT,
    Level.ATTEMPT: names.TASK_RESULT,
}


class SpanHandle:
    """What a sink keeps on a record: the context of its span, and the live span where there is one."""

    __slots__ = ("context", "sampler_attributes", "span")

    def __init__(self, context: SpanContext, span: trace.Span | None = None, sampler_attributes: Attributes | None = None) -> None:
        self.context = context
        self.span = span
        self.sampler_attributes = sampler_attributes


def span_context_of(record: Record) -> SpanContext | None:
    """The context of the span that renders ``record``, None when no sink made one."""
    handle = record.handle
    return handle.context if isinstance(handle, SpanHandle) else None


def context_of(record: Record, base: Context | None = None) -> Context:
    """A context in which the record's span is current."""
    handle = record.handle
    if not isinstance(handle, SpanHandle):
        return base if base is not None else Context()
    return trace.set_span_in_context(handle.span or NonRecordingSpan(handle.context), base)


def span_end_ns(record: Record) -> int:
    """When the record's span ends: a moment has one nanosecond, because Jaeger takes a span of none for a mistake of a clock."""
    return max(record.ended_at_ns or 0, record.started_at_ns + 1)


class RenderedEvent(NamedTuple):
    """A span event, with the names that the SDK's has."""

    name: str
    timestamp: int
    attributes: Attributes
    dropped_attributes = 0


class RenderedSpan:
    """A finished span, with the names that the SDK's ReadableSpan has; nothing in it is copied or checked again."""

    __slots__ = ("attributes", "context", "end_time", "events", "kind", "links", "name", "parent", "resource", "start_time", "status")

    dropped_attributes = dropped_events = dropped_links = 0
    instrumentation_scope = SCOPE

    def __init__(
        self, name: str, context: SpanContext, parent: SpanContext | None, kind: SpanKind, start_time: int, end_time: int, attributes: Attributes,
        events: Sequence[RenderedEvent], links: Sequence[trace.Link], status: Status, resource: Resource,
    ) -> None:
        self.name, self.context, self.parent, self.kind = name, context, parent, kind
        self.start_time, self.end_time = start_time, end_time
        self.attributes, self.events, self.links, self.status, self.resource = attributes, events, links, status, resource

    def get_span_context(self) -> SpanContext:
        return self.context


class FinishedSpans(Protocol):
    """Takes spans that ended and are sampled."""

    def put_span(self, span: RenderedSpan) -> None: ...

    def dropped_of(self, trace_id: int) -> int:
        """How many spans of this trace could not be kept."""
        ...


# --- rendering --------------------------------------------------------------------------------------------------------


class Rendering:
    """How a record looks as a span; every text that leaves the process goes through the redactor."""

    def __init__(self, redactor: Redactor, *, span_events: bool = True, exception_events: bool = True, limits: SpanLimits | None = None) -> None:
        self._redactor = redactor
        self._span_events = span_events
        self._exception_events = exception_events
        limits = limits or SpanLimits()
        self._max_events = limits.max_events
        self._max_attributes = limits.max_span_attributes
        self._max_length = limits.max_span_attribute_length

    def name(self, record: Record) -> str:
        level = record.level
        if level is _RUN:
            return f"{names.ACTION_RUN} {record.name}"
        if level is Level.HOOK or level is Level.STRATEGY:
            return f"{level} {record.name}"
        return record.name

    def kind(self, record: Record) -> SpanKind:
        return _SERVER if record.level is _RUN else _INTERNAL

    def opening(self, record: Record) -> Attributes:
        """The attributes that are known at the start, those that search and sampling need."""
        level = record.level
        attributes: Attributes = {names.PIPELINE_NAME: record.workflow, names.PIPELINE_RUN_ID: record.run_id, names.LEVEL: _TEXTS[level]}
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

    def closing(self, record: Record) -> Attributes:
        """The attributes that are known at the end."""
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

    def _process(self, record: Record, attributes: Attributes) -> None:
        for key, value in record.attributes.items():
            if key == names.OUTPUT_TAIL:
                if record.result is None or record.result.failed:
                    attributes[key] = self._redactor.text(str(value), names.ERROR_TEXT_LIMIT)
            elif isinstance(value, tuple):
                attributes[key] = self._redactor.arguments(value)
            elif isinstance(value, str):
                attributes[key] = self._redactor.text(value)
            else:
                attributes[key] = value

    def status(self, record: Record) -> Status:
        if record.result is None or not record.result.failed:
            return _UNSET
        failure = record.failure
        if failure is None:
            return Status(StatusCode.ERROR)
        text = self._redactor.text(failure.message, names.ERROR_TEXT_LIMIT) if failure.message else str(failure.error_type)
        return Status(StatusCode.ERROR, text)

    def events(self, record: Record) -> Iterator[tuple[str, int, Attributes]]:
        """Name, time and attributes of the span events, oldest first."""
        exception = self.exception(record)
        if self._span_events:
            notes = record.events.kept()
            room = self._max_events if self._max_events is None else max(0, self._max_events - (exception is not None))
            if room is not None and len(notes) > room:
                first = room // 2
                notes = notes[:first] + notes[len(notes) - (room - first):]
            for note in notes:
                yield note.name, note.at_ns, self.event(note)
        if exception is not None and self._exception_events:
            yield "exception", record.ended_at_ns or record.started_at_ns, exception

    def event(self, note: EventNote) -> Attributes:
        attributes: Attributes = {names.EVENT_ID: note.event_id}
        if note.source:
            attributes[names.EVENT_SOURCE] = note.source
        self._redactor.collect(names.EVENT_PAYLOAD_PREFIX, note.payload, attributes)
        return attributes

    def exception(self, record: Record) -> Attributes | None:
        """The exception of a failure, on the innermost span that failed by it only."""
        failure = record.failure
        if failure is None or failure.error_type in _ERROR_TYPES or record.level is Level.RUN or (record.level is Level.PHASE and record.attempts > 1):
            return None
        return self.exception_attributes(failure)

    def exception_attributes(self, failure: Failure) -> Attributes:
        attributes: Attributes = {names.EXCEPTION_TYPE: str(failure.error_type)}
        if failure.message:
            attributes[names.EXCEPTION_MESSAGE] = self._redactor.text(failure.message, names.ERROR_TEXT_LIMIT)
        if failure.stacktrace:
            attributes[names.EXCEPTION_STACKTRACE] = self._redactor.text(failure.stacktrace, names.ERROR_TEXT_LIMIT * 4)
        return attributes

    def limited(self, attributes: Attributes) -> Attributes:
        """Within the SDK's limits for spans; what identifies the span comes first and stays."""
        length = self._max_length
        if length is not None:
            attributes = {key: value[:length] if isinstance(value, str) else value for key, value in attributes.items()}
        if self._max_attributes is not None and len(attributes) > self._max_attributes:
            attributes = dict(list(attributes.items())[: self._max_attributes])
        return attributes


# --- our own provider -------------------------------------------------------------------------------------------------


class DirectSpans:
    """Finished spans with deterministic ids, made at the end and handed on.

    The sampler is asked at the start of every run; what lies beneath a run follows its decision, unless the sampler is
    one of its own making, which is then asked for every span.
    """

    def __init__(self, spans: FinishedSpans, rendering: Rendering, *, sampler: Sampler, resource: Resource) -> None:
        self._spans = spans
        self._rendering = rendering
        self._sampler = sampler
        self._resource = resource
        self._inherit = isinstance(sampler, ParentBased | StaticSampler | TraceIdRatioBased)

    def opened(self, record: Record) -> None:
        parent = record.parent
        above = parent.handle if parent is not None else None
        if isinstance(above, SpanHandle) and self._inherit:
            context = above.context
            record.handle = SpanHandle(SpanContext(record.trace_id, record.span_id, False, context.trace_flags, context.trace_state))
            return
        parent_context = self._parent_context(record)
        result = self._sampler.should_sample(
            trace.set_span_in_context(NonRecordingSpan(parent_context)) if parent_context is not None else Context(),
            record.trace_id, self._rendering.name(record), self._rendering.kind(record), self._rendering.opening(record), _links(record),
        )
        flags = _SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else _NOT_SAMPLED
        state = result.trace_state or (parent_context.trace_state if parent_context is not None else None)
        context = SpanContext(record.trace_id, record.span_id, False, flags, state)
        attributes = cast("Mapping[str, AttributeValue] | None", result.attributes)  # pyright: ignore[reportUnknownMemberType]
        record.handle = SpanHandle(context, None, dict(attributes) if attributes else None)

    def closed(self, record: Record) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or not handle.context.trace_flags.sampled:
            return
        rendering = self._rendering
        attributes = rendering.opening(record)
        if handle.sampler_attributes:
            attributes.update(handle.sampler_attributes)
        attributes.update(rendering.closing(record))
        if record.level is _RUN and (dropped := self._spans.dropped_of(record.trace_id)):
            attributes[names.DELIVERY_DROPPED] = dropped
        self._spans.put_span(RenderedSpan(
            rendering.name(record), handle.context, self._parent_context(record), rendering.kind(record), record.started_at_ns, span_end_ns(record),
            rendering.limited(attributes), [RenderedEvent(*event) for event in rendering.events(record)], _links(record) if record.links else (),
            rendering.status(record), self._resource,
        ))

    def late(self, note: EventNote) -> None:
        """No span keeps it; metrics count it."""

    def _parent_context(self, record: Record) -> SpanContext | None:
        parent = record.parent
        if parent is not None:
            return span_context_of(parent)
        remote = record.remote_parent
        if remote is None:
            return None
        return SpanContext(remote.trace_id, remote.span_id, True, _SAMPLED if remote.sampled else _NOT_SAMPLED, trace_state(record.tracestate))


def trace_state(header: str | None) -> TraceState:
    """The ``tracestate`` header as the API's type; what is not valid is left out, as the standard says."""
    return TraceState.from_header([header]) if header else TraceState()


def _links(record: Record) -> Sequence[trace.Link]:
    return [
        trace.Link(SpanContext(link.trace_id, link.span_id, True, _SAMPLED), {names.LINK_TYPE: link.kind}) for link in record.links
    ]


# --- a provider of the application ------------------------------------------------------------------------------------


class TracerSpans:
    """Live spans through a tracer; ids, sampling and limits are those of the provider behind it."""

    def __init__(self, tracer: trace.Tracer, rendering: Rendering, *, ambient: Callable[[], Context] | None = None) -> None:
        self._tracer = tracer
        self._rendering = rendering
        self._ambient = ambient

    def opened(self, record: Record) -> None:
        parent = record.parent
        if parent is not None:
            context = context_of(parent)
        elif record.remote_parent is not None:
            remote = record.remote_parent
            flags = _SAMPLED if remote.sampled else _NOT_SAMPLED
            context = trace.set_span_in_context(
                NonRecordingSpan(SpanContext(remote.trace_id, remote.span_id, True, flags, trace_state(record.tracestate)))
            )
        else:
            context = self._ambient() if self._ambient is not None else Context()
        span = self._tracer.start_span(
            self._rendering.name(record), context=context, kind=self._rendering.kind(record), attributes=self._rendering.opening(record),
            links=[link for link in self._live_links(record)], start_time=record.started_at_ns,
            record_exception=False, set_status_on_exception=False,
        )
        record.handle = SpanHandle(span.get_span_context(), span)

    def closed(self, record: Record) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or handle.span is None:
            return
        span, rendering = handle.span, self._rendering
        if span.is_recording():
            for name, at_ns, attributes in rendering.events(record):
                span.add_event(name, attributes, at_ns)
            span.set_attributes(rendering.closing(record))
            status = rendering.status(record)
            if status.status_code is not StatusCode.UNSET:
                span.set_status(status)
        span.end(span_end_ns(record))

    def late(self, note: EventNote) -> None:
        """No span keeps it; metrics count it."""

    def _live_links(self, record: Record) -> Iterator[trace.Link]:
        """Links by the ids that the provider gave, where the linked span is one of the same run."""
        actual: Mapping[int, SpanContext] = {}
        if record.links and record.parent is not None:
            actual = {
                child.span_id: context for child in record.parent.children if (context := span_context_of(child)) is not None
            }
        for link in record.links:
            context = actual.get(link.span_id) or SpanContext(link.trace_id, link.span_id, True, _SAMPLED)
            yield trace.Link(context, {names.LINK_TYPE: link.kind})
