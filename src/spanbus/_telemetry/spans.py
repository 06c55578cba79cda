"""The correlator's output becomes finished spans in OTLP bytes, with the correlator's own ids.

Where the application has set a provider, :class:`~spanbus._telemetry.tracer_spans.TracerSpans` goes through that instead. Both
render by one template. Nothing of the API is loaded here unless a sampler of the SDK or a trace state asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._otlp.resource import PlainResource, Scope
from spanbus._semantics import Level, names
from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._telemetry.span_handle import (
    SpanHandle,
    handle_of,
    remote_context_of,
    span_context_of,
    trace_state,
)
from spanbus._telemetry.template import Template
from spanbus._version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, TraceState
    from opentelemetry.util.types import AttributeValue

SCOPE: Final = Scope(names.SCOPE, __version__, names.SCHEMA_URL)

_USUAL: Final = SpanHandle(True)
_LEFT_OUT: Final = SpanHandle(False)
"""Shared by all spans of which a sampler says nothing more."""
_RUN: Final = Level.RUN


class FinishedSpans(Protocol):
    """Takes spans that ended and are sampled, in OTLP bytes."""

    def put_encoded(
        self, span_id: int, span: bytes, resource: Resource | PlainResource, scope: Scope
    ) -> None: ...

    def dropped_of(self, trace_id: int) -> int:
        """Number of this trace's spans that could not be kept."""
        ...


def _decides_for_traces(sampler: Sampler) -> bool:
    from opentelemetry.sdk.trace.sampling import ParentBased, StaticSampler, TraceIdRatioBased

    return isinstance(sampler, ParentBased | StaticSampler | TraceIdRatioBased)


class DirectSpans:
    """Finished spans with deterministic ids, made at the end and handed on.

    The sampler is asked at the start of every run; what lies beneath a run follows its decision, unless the sampler is
    one of its own making, which is then asked for every span.
    """

    def __init__(
        self,
        spans: FinishedSpans,
        template: Template,
        *,
        sampler: Sampler | EnvironmentSampler,
        resource: Resource | PlainResource,
    ) -> None:
        self._spans = spans
        self._template = template
        self._sampler = sampler
        self._resource = resource
        self._inherit = isinstance(sampler, EnvironmentSampler) or _decides_for_traces(sampler)

    def opened(self, record: SpanState) -> None:
        parent = record.parent
        above = parent.handle if parent is not None else None
        if isinstance(above, SpanHandle) and self._inherit:
            record.handle = (
                SpanHandle(above.sampled, above.trace_state) if above.sampler_attributes else above
            )
        elif isinstance(self._sampler, EnvironmentSampler):
            keeps = self._sampler.keeps(record.trace_id, record.remote_parent)
            state = self._state_above(record)
            record.handle = SpanHandle(keeps, state) if state else _USUAL if keeps else _LEFT_OUT
        else:
            record.handle = self._sampled(record, self._sampler)

    def _sampled(self, record: SpanState, sampler: Sampler) -> SpanHandle:
        """The decision of a sampler of the SDK's kind."""
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        above = (
            span_context_of(record.parent)
            if record.parent is not None
            else remote_context_of(record)
        )
        own = self._template.opening(record)
        result = sampler.should_sample(
            set_span_in_context(NonRecordingSpan(above)) if above is not None else Context(),
            record.trace_id,
            self._template.name(record),
            self._template.kind(record),
            own,
            _links(record),
        )
        state = result.trace_state or (above.trace_state if above is not None else None)
        attributes = cast("Mapping[str, AttributeValue] | None", result.attributes)  # pyright: ignore[reportUnknownMemberType]
        # The SDK's samplers give back the attributes that they were asked about.
        more = {key: value for key, value in (attributes or {}).items() if own.get(key) != value}
        sampled = result.decision.is_sampled()
        if state or more:
            return SpanHandle(sampled, state or None, sampler_attributes=more or None)
        return _USUAL if sampled else _LEFT_OUT

    def closed(self, record: SpanState) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or not handle.sampled:
            return
        parent, state, more = None, handle.trace_state, handle.sampler_attributes
        dropped = 0
        if record.parent is None:
            parent = record.remote_parent
        if record.level is _RUN:
            dropped = self._spans.dropped_of(record.trace_id)
        span = self._template.encode(
            record,
            parent=parent,
            state=state or None,
            sampler_attributes=more or {},
            dropped_records=dropped,
        )
        self._spans.put_encoded(record.span_id, span, self._resource, SCOPE)

    def late(self, note: SpanEvent) -> None:
        """No span keeps it; metrics count it."""

    def _state_above(self, record: SpanState) -> TraceState | None:
        if record.parent is not None:
            handle = handle_of(record.parent)
            return handle.trace_state if handle is not None else None
        return trace_state(record.tracestate) if record.remote_parent is not None else None


def _links(record: SpanState) -> Sequence[Link]:
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    sampled = TraceFlags(TraceFlags.SAMPLED)
    return [
        Link(SpanContext(link.trace_id, link.span_id, True, sampled), {names.LINK_TYPE: link.kind})
        for link in record.links
    ]
