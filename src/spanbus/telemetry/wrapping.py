"""Phases become current for the task that publishes their start, until it publishes their end."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from spanbus.telemetry.current import Attached, attached_here, fed_here
from spanbus.telemetry.facts import Fact, Verb
from spanbus.telemetry.names import Level
from spanbus.telemetry.records import Record
from spanbus.telemetry.rendering import context_of
from spanbus.workflow.bus import Receipt, WorkflowEventBus

_ENDED_KEPT = 16


def publishing(kind: type) -> str:
    """The method that every event passes: on our own bus, ``publish`` and what the engine calls both end in ``dispatch``."""
    return "dispatch" if issubclass(kind, WorkflowEventBus) else "publish"


def wrapping(
    publish: Callable[..., object], feed: Callable[[tuple[object, ...], Mapping[str, object]], None] | None = None
) -> Callable[..., object]:
    """``publish`` so that the phases it starts are current afterwards in the caller's task, and only there."""
    if inspect.iscoroutinefunction(publish):  # and it stays one, for those who ask

        @functools.wraps(publish)
        async def published_later(*arguments: object, **options: object) -> object:
            result = cast("Awaitable[object]", publish(*arguments, **options))
            if feed is not None:
                fed: list[tuple[Fact, Record]] = []
                token = fed_here.set(fed)
                try:
                    feed(arguments, options)
                finally:
                    fed_here.reset(token)
                return await _continued(result, fed)
            return await _continued(result, [])

        return published_later

    @functools.wraps(publish)
    def published(*arguments: object, **options: object) -> object:
        fed: list[tuple[Fact, Record]] = []
        token = fed_here.set(fed)
        try:
            result = publish(*arguments, **options)
            if feed is not None:
                feed(arguments, options)
        finally:
            fed_here.reset(token)
        if inspect.isawaitable(result) and not isinstance(result, Receipt):
            return _continued(result, fed)
        follow(fed)
        return result

    return published


async def _continued(result: Awaitable[object], fed: list[tuple[Fact, Record]]) -> object:
    token = fed_here.set(fed)
    try:
        value = await result
    finally:
        fed_here.reset(token)
        follow(fed)
    return value


def follow(fed: Iterable[tuple[Fact, Record]]) -> None:
    """Make the innermost phase that this task started, and nobody ended, the current span of this task.

    When it ends, what was current before it is current again. A span that the application made current in between is its
    own to take back, and what else it keeps in its context stays.
    """
    attached = attached_here.get()
    known = [one.record for one in attached]
    started = [
        record for fact, record in fed
        if fact.verb in (Verb.START, Verb.RETRY) and record.level in (Level.RUN, Level.PHASE, Level.ATTEMPT) and not record.resting
        and record not in known
    ]
    if not started and not any(record.resting for record in known):
        return
    context = otel_context.get_current()
    attached, wanted = _left(attached, context)
    for record in started:
        before = trace.get_current_span(wanted)
        wanted = context_of(_deepest(record), wanted)
        attached = (*attached, Attached(record, _span_id(wanted), before))
    if wanted is not context:
        otel_context.attach(wanted)
    attached_here.set(attached)


def _left(attached: tuple[Attached, ...], context: Context) -> tuple[tuple[Attached, ...], Context]:
    """What is attached still, and the context that goes with it, once phases have ended."""
    own = {one.span_id: one for one in attached}
    here = own.pop(_span_id(context), None)
    if here is None or not here.record.resting:
        # the span of one that has ended may become current once more, when the application takes back one of its own
        forgotten = [one for one in attached if one.record.result is not None][:-_ENDED_KEPT]
        return tuple(one for one in attached if one not in forgotten), context
    before = here.before
    while (outer := own.pop(before.get_span_context().span_id, None)) is not None and outer.record.resting:
        before = outer.before
    left = tuple(one for one in attached if not one.record.resting)
    return left, context_of(_deepest(outer.record), context) if outer is not None else trace.set_span_in_context(before, context)


def _span_id(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().span_id



def _deepest(record: Record) -> Record:
    """The running attempt of a phase, where it has one."""
    attempts = [child for child in record.children[-4:] if child.level is Level.ATTEMPT and child.result is None]
    return attempts[-1] if attempts else record
