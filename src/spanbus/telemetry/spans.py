"""The recorder's output becomes spans with span events.

Two sinks, one rendering. :class:`DirectSpans` makes finished spans with the recorder's own ids for a provider that is
ours; :class:`TracerSpans` goes through the tracer of a provider that the application has set, which chooses the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from spanbus.telemetry import names
from spanbus.telemetry.names import Level
from spanbus.telemetry.plain_phases import PlainPhases
from spanbus.telemetry.records import EventNote, Record
from spanbus.telemetry.rendering import Attributes, Rendering, SpanHandle, context_of, span_context_of, span_end_ns
from spanbus.version import __version__

SCOPE = InstrumentationScope(names.SCOPE, __version__, names.SCHEMA_URL)

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_RUN = Level.RUN


class RenderedEvent(NamedTuple):
    """A span event, with the names that the SDK's has."""

    name: str
    timestamp: int
    attributes: Attributes
    dropped_attributes: int = 0


class RenderedSpan:
    """A finished span, with the names that the SDK's ReadableSpan has; nothing in it is copied or checked again."""

    __slots__ = ("attributes", "context", "dropped_attributes", "dropped_events", "end_time", "events", "kind", "links", "name", "parent", "resource", "start_time", "status")

    dropped_links = 0
    instrumentation_scope = SCOPE

    def __init__(
        self, name: str, context: SpanContext, parent: SpanContext | None, kind: SpanKind, start_time: int, end_time: int, attributes: Attributes,
        events: Sequence[RenderedEvent], links: Sequence[trace.Link], status: Status, resource: Resource, dropped_attributes: int = 0, dropped_events: int = 0,
    ) -> None:
        self.name, self.context, self.parent, self.kind = name, context, parent, kind
        self.start_time, self.end_time = start_time, end_time
        self.attributes, self.events, self.links, self.status, self.resource = attributes, events, links, status, resource
        self.dropped_attributes, self.dropped_events = dropped_attributes, dropped_events

    def get_span_context(self) -> SpanContext:
        return self.context


class FinishedSpans(Protocol):
    """Takes spans that ended and are sampled."""

    def put_span(self, span: RenderedSpan) -> None: ...

    def put_encoded(self, span_id: int, span: bytes, resource: Resource, scope: InstrumentationScope) -> None:
        """One that is in OTLP bytes already."""
        ...

    def dropped_of(self, trace_id: int) -> int:
        """How many spans of this trace could not be kept."""
        ...


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
        self._plain = PlainPhases(rendering) if rendering.unlimited else None

    def opened(self, record: Record) -> None:
        parent = record.parent
        above = parent.handle if parent is not None else None
        if isinstance(above, SpanHandle) and self._inherit:
            record.handle = SpanHandle(record.trace_id, record.span_id, above.trace_flags, above.trace_state)
            return
        parent_context = self._parent_context(record)
        result = self._sampler.should_sample(
            trace.set_span_in_context(NonRecordingSpan(parent_context)) if parent_context is not None else Context(),
            record.trace_id, self._rendering.name(record), self._rendering.kind(record), self._rendering.opening(record), _links(record),
        )
        flags = _SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else _NOT_SAMPLED
        state = result.trace_state or (parent_context.trace_state if parent_context is not None else None)
        attributes = cast("Mapping[str, AttributeValue] | None", result.attributes)  # pyright: ignore[reportUnknownMemberType]
        record.handle = SpanHandle(record.trace_id, record.span_id, flags, state, None, dict(attributes) if attributes else None)

    def closed(self, record: Record) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or not handle.sampled:
            return
        if self._plain is not None and not handle.trace_state and not handle.sampler_attributes and record.parent is not None and record.parent.handle is not None:
            encoded = self._plain.encode(record)
            if encoded is not None:
                self._spans.put_encoded(record.span_id, encoded, self._resource, SCOPE)
                return
        rendering = self._rendering
        attributes = rendering.opening(record)
        if handle.sampler_attributes:
            attributes.update(handle.sampler_attributes)
        attributes.update(rendering.closing(record))
        if record.level is _RUN and (dropped := self._spans.dropped_of(record.trace_id)):
            attributes[names.DELIVERY_DROPPED] = dropped
        kept = rendering.limited(attributes)
        self._spans.put_span(RenderedSpan(
            rendering.name(record), handle.context, self._parent_context(record), rendering.kind(record), record.started_at_ns, span_end_ns(record),
            kept, [self._event(*event) for event in rendering.events(record)], _links(record) if record.links else (),
            rendering.status(record), self._resource, len(attributes) - len(kept), rendering.events_cut(record),
        ))

    def _event(self, name: str, at_ns: int, attributes: Attributes) -> RenderedEvent:
        kept = self._rendering.limited_event(attributes)
        return RenderedEvent(name, at_ns, kept, len(attributes) - len(kept))

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
        made = span.get_span_context()
        record.handle = SpanHandle(made.trace_id, made.span_id, made.trace_flags, made.trace_state, span)

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
