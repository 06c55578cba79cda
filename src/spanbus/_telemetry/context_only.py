"""A sink that gives records their span identity without making spans, because an observer process makes them."""

from __future__ import annotations

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._otlp.resource import PlainResource, Scope
from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template


class ContextOnly:
    """Makes phases usable as current spans: spans of application code become children of the observer's spans."""

    def __init__(self, template: Template, sampler: EnvironmentSampler) -> None:
        self._spans = DirectSpans(
            _NullSpans(), template, sampler=sampler, resource=PlainResource({})
        )

    def opened(self, record: SpanState) -> None:
        self._spans.opened(record)

    def closed(self, record: SpanState) -> None:
        """Do nothing: the observer makes the span."""

    def late(self, note: SpanEvent) -> None:
        """Do nothing: the observer counts the event."""


class _NullSpans:
    """Destination that receives no spans."""

    def put_encoded(self, span_id: int, span: bytes, resource: object, scope: Scope) -> None:
        """Never called, because nothing is closed."""

    def dropped_of(self, trace_id: int) -> int:
        """Return 0."""
        del trace_id
        return 0
