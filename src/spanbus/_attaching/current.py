"""Make the span of a phase current in the task that publishes its start, until it publishes the end."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from spanbus._correlation.span_state import SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._semantics import Flag, Level
from spanbus._telemetry.span_handle import context_of

_ENDED_KEPT = 16


class Attached(NamedTuple):
    """A phase whose span was made current in this task: the id of the span, and the previous current span."""

    record: SpanState
    span_id: int
    before: Span


attached_here: contextvars.ContextVar[tuple[Attached, ...]] = contextvars.ContextVar(
    "spanbus_attached", default=()
)


def follow(opened: Sequence[SpanState]) -> None:
    """Make the span of the innermost open phase that this task started the current span of the task.

    When the phase ends, the previous span becomes current again. A span that the application made current in between stays
    current until the application detaches it; other context values are kept.
    """
    attached = attached_here.get()
    if not opened and not attached:
        return
    known = [one.record for one in attached]
    started = [
        record
        for record in opened
        if not record.resting and record not in known and Flag.INFERRED not in record.flags
    ]
    if not started and not any(record.resting for record in known):
        return
    context = otel_context.get_current()
    attached, wanted = _detach_ended(attached, context)
    for record in started:
        before = trace.get_current_span(wanted)
        wanted = context_of(deepest(record), wanted)
        attached = (*attached, Attached(record, _span_id(wanted), before))
    if wanted is not context:
        otel_context.attach(wanted)
    attached_here.set(attached)


def _detach_ended(
    attached: tuple[Attached, ...], context: Context
) -> tuple[tuple[Attached, ...], Context]:
    """Drop the phases that have ended; return the remaining ones and the context for them."""
    own = {one.span_id: one for one in attached}
    here = own.pop(_span_id(context), None)
    if here is None or not here.record.resting:
        # the span of an ended phase may become current again when the application detaches its own span
        forgotten = [one for one in attached if one.record.result is not None][:-_ENDED_KEPT]
        return tuple(one for one in attached if one not in forgotten), context
    before = here.before
    while (
        outer := own.pop(before.get_span_context().span_id, None)
    ) is not None and outer.record.resting:
        before = outer.before
    left = tuple(one for one in attached if not one.record.resting)
    return left, context_of(
        deepest(outer.record), context
    ) if outer is not None else trace.set_span_in_context(before, context)


def _span_id(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().span_id


def deepest(record: SpanState) -> SpanState:
    """Return the running attempt of a phase, else the record itself."""
    attempts = [
        child
        for child in record.children[-4:]
        if child.level is Level.ATTEMPT and child.result is None
    ]
    return attempts[-1] if attempts else record
