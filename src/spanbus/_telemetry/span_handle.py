"""The identity that a span sink keeps on a record: sampling decision, trace state, and the live span where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spanbus._correlation.span_state import SpanState
from spanbus._telemetry.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, TraceState
    from opentelemetry.util.types import AttributeValue


class SpanHandle:
    """A sampling decision. Spans of ours share that of their run; a span of another provider has one with its own context."""

    __slots__ = ("context", "ours", "sampled", "sampler_attributes", "span", "trace_state")

    def __init__(
        self,
        sampled: bool,
        trace_state: TraceState | None = None,
        *,
        context: SpanContext | None = None,
        span: Span | None = None,
        sampler_attributes: dict[str, AttributeValue] | None = None,
        ours: bool = False,
    ) -> None:
        self.sampled, self.trace_state = sampled, trace_state
        self.context, self.span = context, span
        self.sampler_attributes = sampler_attributes
        self.ours = ours
        """The live span is of our own provider: code records on the record, whose texts are redacted."""


def handle_of(record: SpanState) -> SpanHandle | None:
    """The handle of ``record``, None when no sink made a span of it."""
    handle = record.handle
    return handle if isinstance(handle, SpanHandle) else None


def span_context_of(record: SpanState) -> SpanContext | None:
    """The context of the span that stands for ``record``, None when no sink made one."""
    handle = handle_of(record)
    if handle is None:
        return None
    if handle.context is not None:
        return handle.context
    from opentelemetry.trace import (  # a command whose spans are only written does without
        SpanContext,
        TraceFlags,
    )

    flags = TraceFlags(TraceFlags.SAMPLED if handle.sampled else TraceFlags.DEFAULT)
    return SpanContext(record.trace_id, record.span_id, False, flags, handle.trace_state)


def remote_context_of(record: SpanState) -> SpanContext | None:
    """The context of the record's remote parent."""
    remote = record.remote_parent
    if remote is None:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    flags = TraceFlags(TraceFlags.SAMPLED if remote.sampled else TraceFlags.DEFAULT)
    state = trace_state(record.tracestate) or TraceState()
    return SpanContext(remote.trace_id, remote.span_id, True, flags, state)


def trace_state(header: str | None) -> TraceState | None:
    """The ``tracestate`` header as the API's type; invalid ones left out, as the standard says. None where none is left."""
    if not header:
        return None
    from opentelemetry.trace import TraceState

    return TraceState.from_header([header]) or None


def context_of(
    record: SpanState, base: Context | None = None, redactor: Redactor | None = None
) -> Context:
    """A context in which the record's span is current; with a redactor, one that records what is put on it."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    handle, context = handle_of(record), span_context_of(record)
    if handle is None or context is None:
        return base if base is not None else Context()
    span = handle.span
    own = span is None or handle.ours
    if own and handle.sampled and redactor is not None and record.result is None:
        from spanbus._telemetry.phase_span import PhaseSpan

        span = PhaseSpan(record, context, redactor)
    return set_span_in_context(span or NonRecordingSpan(context), base)
