"""What is current in this task: the bus to publish on, with the run and phase that the work belongs to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from spanbus.workflow.bus import WorkflowEventBus


class RunScope(NamedTuple):
    """The identity that events published here carry, unless they say another."""

    run_id: str
    workflow: str
    phase: str | None = None
    attempt: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


_bus: ContextVar[WorkflowEventBus | None] = ContextVar("spanbus_bus", default=None)
current_scope: ContextVar[RunScope | None] = ContextVar("spanbus_run_scope", default=None)


def current_bus() -> WorkflowEventBus | None:
    """The bus bound by :func:`use_bus` or by a running engine, None without one."""
    return _bus.get()


@contextmanager
def use_bus(bus: WorkflowEventBus | None) -> Generator[WorkflowEventBus | None]:
    """Bind ``bus`` for actions in this task and in the tasks that it starts; None unbinds."""
    token = _bus.set(bus)
    try:
        yield bus
    finally:
        _bus.reset(token)


@contextmanager
def within(scope: RunScope) -> Generator[RunScope]:
    """Events published here belong to ``scope``."""
    token = current_scope.set(scope)
    try:
        yield scope
    finally:
        current_scope.reset(token)
