"""Oneiric: an execution of a workflow's DAG is a run, each node a phase and each try an attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _bridge

if TYPE_CHECKING:
    from spanbus import Handle

_HOOKS = (
    "on_run_start",
    "on_run_complete",
    "on_run_error",
    "on_node_start",
    "on_node_complete",
    "on_node_skip",
    "on_node_error",
)
_OPEN_KEPT = 10_000


def attach(target: Any, handle: Handle) -> Any:
    """Record a workflow bridge (an object, the class, or the orchestrator that has it), or the hooks of an execution.

    Event dispatchers and event bridges are instrumented like any other bus.
    """
    bridge = target if isinstance(target, type) else getattr(target, "workflow_bridge", target)
    if hasattr(bridge, "execute_dag") and hasattr(bridge, "_build_task_definitions"):
        for undo in _bridge.watched(bridge, handle):
            handle.add_undo(undo)
        return None
    if not isinstance(target, type) and all(hasattr(target, name) for name in _HOOKS):
        _wrap_hooks(target, handle)
        return None
    return NotImplemented


def _wrap_hooks(hooks: Any, handle: Handle) -> None:
    """Wrap the hooks of ``execute_dag(…, hooks=hooks)``. Existing hooks are still called."""
    recorder = _Hooks(handle)
    for name in _HOOKS:
        handle.add_undo(_wrap_hook(hooks, name, getattr(recorder, name), handle))


def _wrap_hook(
    hooks: Any, name: str, record: Callable[..., None], handle: Handle
) -> Callable[[], None]:
    before = getattr(hooks, name)

    def hook(**details: Any) -> Any:
        try:
            record(**details)
        except Exception as error:
            handle.failed(error)
        return before(**details) if before is not None else None

    setattr(hooks, name, hook)

    def undo() -> None:
        if getattr(hooks, name) is hook:
            setattr(hooks, name, before)

    return undo


class _Hooks:
    """Records runs and nodes from the hooks. Start and end of each are called in the same task."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._open: dict[tuple[str, str | None], tuple[Work, Callable[[], None]]] = {}

    def on_run_start(self, *, run_id: str, workflow_key: str, **_: Any) -> None:
        self._begin("run", run_id, None, workflow_key)

    def on_run_complete(self, *, run_id: str, **_: Any) -> None:
        if (work := self._left(run_id, None)) is not None:
            work.end()

    def on_run_error(self, *, run_id: str, error: str = "", **_: Any) -> None:
        if (work := self._left(run_id, None)) is not None:
            work.fail(error)

    def on_node_start(self, *, run_id: str, node: str, **_: Any) -> None:
        self._begin("phase", run_id, node, node)

    def on_node_complete(self, *, run_id: str, node: str, attempts: int = 1, **_: Any) -> None:
        if (work := self._left(run_id, node)) is not None:
            work.end(attempts=attempts)

    def on_node_skip(self, *, run_id: str, node: str, **_: Any) -> None:
        if (work := self._left(run_id, node)) is not None:
            work.skip(reason="in the checkpoint")

    def on_node_error(
        self, *, run_id: str, node: str, attempts: int = 1, error: str = "", **_: Any
    ) -> None:
        if (work := self._left(run_id, node)) is not None:
            work.fail(error, attempts=attempts)

    def _begin(self, kind: Any, run_id: str, node: str | None, name: str) -> None:
        work = Work(self._handle, kind, str(name), {"run_id": run_id}, of_task=True)
        work.begin()
        self._open[run_id, node] = (work, work.enter())
        while len(self._open) > _OPEN_KEPT:  # there is no hook for a cancellation
            del self._open[next(iter(self._open))]

    def _left(self, run_id: str, node: str | None) -> Work | None:
        work, leave = self._open.pop((run_id, node), (None, None))
        if leave is not None:
            leave()
        return work
