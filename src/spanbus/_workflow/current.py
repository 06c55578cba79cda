"""Context of the current task: the bus to publish on, and the run and phase that events belong to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING

from spanbus._named_tuple import NamedTuple

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus


class RunScope(NamedTuple):
    """The default identity of events published in a context."""

    run_id: str
    workflow: str
    phase: str | None = None
    attempt: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


_bus: ContextVar[WorkflowEventBus | None] = ContextVar("spanbus_bus", default=None)
current_scope: ContextVar[RunScope | None] = ContextVar("spanbus_run_scope", default=None)
_anchor_ns: ContextVar[int | None] = ContextVar("spanbus_run_anchor", default=None)
"""Wall clock minus monotonic clock, at the start of a run."""


def current_bus() -> WorkflowEventBus | None:
    """Return the bus bound by :func:`use_bus` or by a running engine, None without one."""
    return _bus.get()


@contextmanager
def use_bus(bus: WorkflowEventBus | None) -> Generator[WorkflowEventBus | None]:
    """Context manager that binds ``bus`` for actions in this task and its child tasks; None unbinds."""
    token = _bus.set(bus)
    try:
        yield bus
    finally:
        _bus.reset(token)


@contextmanager
def within(scope: RunScope) -> Generator[RunScope]:
    """Context manager in which events belong to ``scope``. The outermost one reads the wall clock once for all of them."""
    token = current_scope.set(scope)
    anchor = (
        None if _anchor_ns.get() is not None else _anchor_ns.set(_wall_ns() - perf_counter_ns())
    )
    try:
        yield scope
    finally:
        current_scope.reset(token)
        if anchor is not None:
            _anchor_ns.reset(anchor)


def now_ns() -> int:
    """Return Unix time in nanoseconds; inside a run it advances by the monotonic clock, even if the wall clock is set."""
    anchor_ns = _anchor_ns.get()
    return _wall_ns() if anchor_ns is None else anchor_ns + perf_counter_ns()


def _wall_ns() -> int:
    return max(time_ns(), 1)  # a clock before 1970
