"""Records get the identity that their spans have, and none are made: an observer elsewhere makes them."""

from __future__ import annotations

from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._otlp.resource import PlainResource, Scope
from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template


class ContextOnly:
    """A sink after which phases can be current, and what is made inside them has its parent in the observer's spans."""

    def __init__(self, template: Template, sampler: EnvironmentSampler) -> None:
        self._spans = DirectSpans(_Nothing(), template, sampler=sampler, resource=PlainResource({}))

    def opened(self, record: SpanState) -> None:
        self._spans.opened(record)

    def closed(self, record: SpanState) -> None:
        """The observer tells it."""

    def late(self, note: SpanEvent) -> None:
        """The observer counts it."""


class _Nothing:
    """Takes no spans."""

    def put_encoded(self, span_id: int, span: bytes, resource: object, scope: Scope) -> None:
        """Not called: nothing is ever closed."""

    def dropped_of(self, trace_id: int) -> int:
        """No span of a trace was dropped."""
        del trace_id
        return 0
