"""Finished spans as OTLP bytes, with the correlator's deterministic ids.

If the application has set a provider, :class:`~spanbus._telemetry.tracer_spans.TracerSpans` is used instead; both use the same
template. The OpenTelemetry API is imported only for a sampler of the SDK or a trace state.
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

_SAMPLED: Final = SpanHandle(True)
_NOT_SAMPLED: Final = SpanHandle(False)
"""Shared by all spans to which a sampler adds nothing."""
_RUN: Final = Level.RUN


class FinishedSpans(Protocol):
    """Receives sampled, finished spans as OTLP bytes."""

    def put_encoded(
        self, span_id: int, span: bytes, resource: Resource | PlainResource, scope: Scope
    ) -> None: ...

    def dropped_of(self, trace_id: int) -> int:
        """Return the number of dropped spans of this trace."""
        ...


def _decides_for_traces(sampler: Sampler) -> bool:
    from opentelemetry.sdk.trace.sampling import ParentBased, StaticSampler, TraceIdRatioBased

    return isinstance(sampler, ParentBased | StaticSampler | TraceIdRatioBased)


class DirectSpans:
    """A span sink that encodes each span when it ends.

    The sampler is called at the start of each run, and the spans of the run follow its decision. A custom sampler, which may
    decide otherwise, is called for every span.
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
            state = self._parent_trace_state(record)
            record.handle = (
                SpanHandle(keeps, state) if state else _SAMPLED if keeps else _NOT_SAMPLED
            )
        else:
            record.handle = self._sampled(record, self._sampler)

    def _sampled(self, record: SpanState, sampler: Sampler) -> SpanHandle:
        """Return the decision of an SDK sampler."""
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
        # the SDK's samplers return the attributes that they were given
        more = {key: value for key, value in (attributes or {}).items() if own.get(key) != value}
        sampled = result.decision.is_sampled()
        if state or more:
            return SpanHandle(sampled, state or None, sampler_attributes=more or None)
        return _SAMPLED if sampled else _NOT_SAMPLED

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
        """Do nothing: no span keeps the event, metrics count it."""

    def _parent_trace_state(self, record: SpanState) -> TraceState | None:
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
