"""Hamilton: each execution of a driver is a run, and each executed node a phase."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spanbus._attaching.replace import replaced
from spanbus.adapters import _watching
from spanbus.adapters._lifecycle import Hooks, join
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_RUN = ("pre_graph_execute",), ("post_graph_execute",)
_NODES = ("pre_node_execute",), ("post_node_execute",)


def attach(driver: Any, handle: Handle) -> None:
    """Add lifecycle hooks to a driver. An asynchronous driver runs hooks beside its nodes, so its nodes are wrapped instead."""
    if not hasattr(driver, "graph_executor") or isinstance(driver, type):
        kind = driver.__name__ if hasattr(driver, "__name__") else type(driver).__name__
        raise InputError(
            f"{kind} executes nothing; instrument the driver, as Builder().build() gives it"
        )
    sets = [
        driver.adapter,
        driver.graph.adapter,
        getattr(driver.graph_executor, "adapter", driver.adapter),
    ]
    hooks = _Driver(handle, "+".join(module.__name__ for module in driver.graph_modules))
    handle.add_undo(join(sets, hooks, *_RUN))
    later = [
        one
        for one in driver.adapter.adapters
        if hasattr(one, "do_node_execute") and hasattr(one, "adapter")
    ]
    if not later:
        handle.add_undo(join(sets, hooks, *_NODES))
    for one in later:
        handle.add_undo(
            replaced(one, "do_node_execute", functools.partial(_executed_later, handle))
        )


class _Driver(Hooks):
    """Executions of one driver."""

    def __init__(self, handle: Handle | None, name: str = "") -> None:
        super().__init__(handle)
        self._name = name

    def pre_graph_execute(self, *, run_id: str, **_: object) -> None:
        self.begin(run_id, "run", self._name, run_id)

    def post_graph_execute(self, *, run_id: str, error: BaseException | None, **_: object) -> None:
        self.end(run_id, error)

    def pre_node_execute(
        self, *, run_id: str, node_: Any, task_id: str | None, **_: object
    ) -> None:
        self.begin(
            (run_id, node_.name, task_id),
            "phase",
            node_.name,
            run_id,
            doer=f"{task_id}:{node_.name}",
        )

    def post_node_execute(
        self,
        *,
        run_id: str,
        node_: Any,
        task_id: str | None,
        error: BaseException | None,
        **_: object,
    ) -> None:
        self.end((run_id, node_.name, task_id), error)


def _executed_later(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    """Execute a copy of the node with its function wrapped. The function is called when its dependencies are done."""

    @functools.wraps(method)
    def execute(*, run_id: str, node_: Any, **options: Any) -> Any:
        watched = copy.copy(node_)
        begun = functools.partial(_watching.begun, handle, "phase", node_.name, run_id=run_id)
        watched._callable = _watching.around(node_.callable, begun)
        return method(run_id=run_id, node_=watched, **options)

    return execute
