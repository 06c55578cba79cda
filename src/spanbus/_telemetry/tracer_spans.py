"""Live spans through the application's own tracer provider, which decides on ids, sampling and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._semantics import Result, names
from spanbus._telemetry.span_handle import (
    SpanHandle,
    context_of,
    remote_context_of,
    span_context_of,
)
from spanbus._telemetry.template import Template, span_end_ns

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NAMED_RESULTS = frozenset({Result.SKIP, Result.CANCELLATION})


class RecordIds(Protocol):
    """An id generator that takes the ids of the next span to be started."""

    def use(self, trace_id: int, span_id: int) -> None: ...

    def done(self) -> None: ...


class TracerSpans:
    """A span sink that starts and ends live spans of a tracer."""

    def __init__(
        self,
        tracer: Tracer,
        template: Template,
        *,
        ambient: Callable[[], Context] | None = None,
        ids: RecordIds | None = None,
    ) -> None:
        self._tracer = tracer
        self._ids = ids
        self._template = template
        self._ambient = ambient

    def opened(self, record: SpanState) -> None:
        parent = record.parent
        if parent is not None:
            context = context_of(parent)
        elif (remote := remote_context_of(record)) is not None:
            context = set_span_in_context(NonRecordingSpan(remote))
        else:
            context = self._ambient() if self._ambient is not None else Context()
        if self._ids is not None:
            self._ids.use(record.trace_id, record.span_id)
        span = self._tracer.start_span(
            self._template.name(record),
            context=context,
            kind=self._template.kind(record),
            attributes=self._template.opening(record),
            links=list(self._live_links(record)),
            start_time=record.started_at_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        if self._ids is not None:
            self._ids.done()
        made = span.get_span_context()
        record.handle = SpanHandle(
            made.trace_flags.sampled,
            made.trace_state,
            context=made,
            span=span,
            own_provider=self._ids is not None,
        )

    def closed(self, record: SpanState) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or handle.span is None:
            return
        span, template = handle.span, self._template
        if span.is_recording():
            for name, at_ns, attributes in template.events(record):
                span.add_event(name, attributes, at_ns)
            span.set_attributes(template.closing(record))
            for trace_id, span_id, remote, more in record.added.links if record.added else ():
                span.add_link(SpanContext(trace_id, span_id, remote, _SAMPLED), more)
            if record.result in _NAMED_RESULTS:
                span.update_name(template.name(record))
            status = template.status(record)
            if status.status_code is not StatusCode.UNSET:
                span.set_status(status)
        span.end(span_end_ns(record))

    def late(self, note: SpanEvent) -> None:
        """Do nothing: no span keeps the event, metrics count it."""

    def _live_links(self, record: SpanState) -> Iterator[Link]:
        """Yield the links, with the ids that the provider gave to linked spans of the same run."""
        actual: Mapping[int, SpanContext] = {}
        if record.links and record.parent is not None:
            actual = {
                child.span_id: context
                for child in record.parent.children
                if (context := span_context_of(child)) is not None
            }
        for link in record.links:
            context = actual.get(link.span_id) or SpanContext(
                link.trace_id, link.span_id, True, _SAMPLED
            )
            yield Link(context, {names.LINK_TYPE: link.kind})
