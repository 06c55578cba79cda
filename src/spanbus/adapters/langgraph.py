"""LangGraph: an invocation of a compiled graph is a run, and each execution of a node a phase."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._attaching.methods import is_coroutine_function
from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle


def attach(graph: Any, handle: Handle) -> None:
    """Wrap a compiled graph: its streams, which invocations use too, and its nodes."""
    if not hasattr(graph, "nodes") or not hasattr(graph, "astream"):
        raise InputError(f"{type(graph).__name__} is not compiled; instrument graph.compile()")
    watched = _Graph(handle, graph)
    handle.add_undo(replaced(graph, "stream", watched.stream))
    handle.add_undo(replaced(graph, "astream", watched.astream))
    for name, node in graph.nodes.items():
        if name != "__start__":
            watched.node(name, node)


class _Graph:
    """Runs of one graph."""

    def __init__(self, handle: Handle, graph: Any) -> None:
        self._handle, self._graph = handle, graph
        self._cancelled: dict[str | None, list[tuple[str, Work]]] = {}
        """Cancelled nodes by run. Their own time limit may be the cause, which is known later."""

    def stream(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return self._run(method, _watching.stream)

    def astream(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return self._run(method, _watching.async_stream)

    def _run(self, method: Callable[..., Any], passed: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def streamed(*arguments: Any, **options: Any) -> Any:
            work = _watching.begun(self._handle, "run", self._graph.get_name())
            return passed(method(*arguments, **options), work, functools.partial(self._end, work))

        return streamed

    def _end(self, run: Work, error: BaseException | None) -> None:
        late = type(error).__name__ == "NodeTimeoutError"
        for name, work in self._cancelled.pop(run.run_id, []):
            timed_out = late and getattr(error, "node", name) == name
            work.end(TimeoutError(str(error)) if timed_out else CancelledError())
        run.end(TimeoutError(str(error)) if late else error)

    def node(self, name: str, node: Any) -> None:
        """Wrap the function of a node, or its runnable if it has none."""
        names = [one for one in ("func", "afunc") if getattr(node.bound, one, None) is not None]
        for method in names or ["invoke", "ainvoke"]:
            original = getattr(node.bound, method)
            after = original.func if isinstance(original, functools.partial) else original
            later = method.startswith("a") or is_coroutine_function(after)
            undo = replaced(
                node.bound, method, lambda call, later=later: self._node(name, call, later)
            )
            self._handle.add_undo(undo)

    def _node(self, name: str, call: Callable[..., Any], later: bool) -> Callable[..., Any]:
        if later:

            async def called_later(*arguments: Any, **options: Any) -> Any:
                work = self._begun(name)
                with _watching.recorded(work, functools.partial(self._end_node, name, work)):
                    return await call(*arguments, **options)

            return called_later

        def called(*arguments: Any, **options: Any) -> Any:
            work = self._begun(name)
            with _watching.recorded(work, functools.partial(self._end_node, name, work)):
                return call(*arguments, **options)

        return called

    def _begun(self, name: str) -> Work:
        work = Work(self._handle, "phase", name, {}, doer=_task_id())
        cancelled = self._cancelled.get(work.run_id, [])
        for earlier in [one for one in cancelled if one[0] == name]:
            cancelled.remove(earlier)  # it is retried, so its time limit was the cause
            earlier[1].retry(TimeoutError("node timed out"))
        work.begin()
        return work

    def _end_node(self, name: str, work: Work, error: BaseException | None) -> None:
        """End the work of a node by its exception. An interrupt pauses it; a command to the parent graph is a result."""
        kind = type(error).__name__
        if kind == "ParentCommand":
            work.end()
        elif kind in ("GraphInterrupt", "NodeInterrupt"):
            work.end(CancelledError())
        elif isinstance(error, CancelledError):  # by its time limit, or with the run
            self._cancelled.setdefault(work.run_id, []).append((name, work))
        else:
            work.end(error)


def _task_id() -> str | None:
    """Return the id of the task that executes the current node; its attempts share it."""
    config: Any = import_module("langgraph.config")
    try:
        return str(config.get_config()["configurable"]["checkpoint_ns"])
    except (KeyError, RuntimeError):
        return None
