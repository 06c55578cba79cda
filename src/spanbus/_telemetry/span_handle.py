"""The span identity that a span sink stores on a record: sampling decision, trace state and the live span, if any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spanbus._correlation.span_state import SpanState
from spanbus._telemetry.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, TraceState
    from opentelemetry.util.types import AttributeValue


class SpanHandle:
    """A sampling decision, shared by our spans of a run. A span of another provider has a handle with its own context."""

    __slots__ = ("context", "own_provider", "sampled", "sampler_attributes", "span", "trace_state")

    def __init__(
        self,
        sampled: bool,
        trace_state: TraceState | None = None,
        *,
        context: SpanContext | None = None,
        span: Span | None = None,
        sampler_attributes: dict[str, AttributeValue] | None = None,
        own_provider: bool = False,
    ) -> None:
        self.sampled, self.trace_state = sampled, trace_state
        self.context, self.span = context, span
        self.sampler_attributes = sampler_attributes
        self.own_provider = own_provider
        """The live span is of our provider: code in the phase writes to the record instead, where texts are redacted."""


def handle_of(record: SpanState) -> SpanHandle | None:
    """Return the handle of ``record``, None if no sink made a span of it."""
    handle = record.handle
    return handle if isinstance(handle, SpanHandle) else None


def span_context_of(record: SpanState) -> SpanContext | None:
    """Return the span context of ``record``, None if no sink made a span of it."""
    handle = handle_of(record)
    if handle is None:
        return None
    if handle.context is not None:
        return handle.context
    from opentelemetry.trace import SpanContext, TraceFlags  # lazy: exporting needs no API

    flags = TraceFlags(TraceFlags.SAMPLED if handle.sampled else TraceFlags.DEFAULT)
    return SpanContext(record.trace_id, record.span_id, False, flags, handle.trace_state)


def remote_context_of(record: SpanState) -> SpanContext | None:
    """Return the span context of the record's remote parent, if any."""
    remote = record.remote_parent
    if remote is None:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    flags = TraceFlags(TraceFlags.SAMPLED if remote.sampled else TraceFlags.DEFAULT)
    state = trace_state(record.tracestate) or TraceState()
    return SpanContext(remote.trace_id, remote.span_id, True, flags, state)


def trace_state(header: str | None) -> TraceState | None:
    """Parse a ``tracestate`` header; invalid entries are dropped, as W3C Trace Context says. None if nothing is left."""
    if not header:
        return None
    from opentelemetry.trace import TraceState

    return TraceState.from_header([header]) or None


def context_of(
    record: SpanState, base: Context | None = None, redactor: Redactor | None = None
) -> Context:
    """Return a context in which the record's span is current; with a redactor, a span that records what code adds to it."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    handle, context = handle_of(record), span_context_of(record)
    if handle is None or context is None:
        return base if base is not None else Context()
    span = handle.span
    own = span is None or handle.own_provider
    if own and handle.sampled and redactor is not None and record.result is None:
        from spanbus._telemetry.phase_span import PhaseSpan

        span = PhaseSpan(record, context, redactor)
    return set_span_in_context(span or NonRecordingSpan(context), base)
