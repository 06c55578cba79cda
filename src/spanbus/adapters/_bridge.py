"""Workflow bridges of Oneiric, which crackerjack uses too: DAG executions, nodes and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from spanbus.adapters import _watching

if TYPE_CHECKING:
    from spanbus import Handle


def watched(bridge: Any, handle: Handle) -> list[Callable[[], None]]:
    """Wrap the methods of a workflow bridge. Returns functions that undo it."""
    wrappers = {
        "execute_dag": _run,
        "_build_task_definitions": _nodes,
        "_execute_with_checkpoint": _skipped,
    }
    return [
        _watching.wrapped(bridge, name, functools.partial(wrap, handle))
        for name, wrap in wrappers.items()
    ]


def _run(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def executed(workflow_key: str, *, run_id: str | None = None, **options: Any) -> Any:
        run_id = run_id or uuid4().hex  # the default of Oneiric
        work = _watching.begun(handle, "run", str(workflow_key), run_id=run_id)
        with _watching.recorded(work):
            return await method(workflow_key, run_id=run_id, **options)

    return executed


def _nodes(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def built(*arguments: Any, **options: Any) -> Any:
        tasks = method(*arguments, **options)
        for task in tasks:
            begun = functools.partial(_watching.begun, handle, "phase", str(task.key))
            task.runner = _watching.around(task.runner, begun)
        return tasks

    return built


def _skipped(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    """Record nodes with a result in the checkpoint as skipped."""

    @functools.wraps(method)
    def execute(graph: Any, key: str, checkpoint: Any, *arguments: Any, **options: Any) -> Any:
        for node in [one for one in graph.nodes if one in (checkpoint or ())]:
            _watching.begun(handle, "phase", str(node)).skip(reason="in the checkpoint")
        return method(graph, key, checkpoint, *arguments, **options)

    return execute
