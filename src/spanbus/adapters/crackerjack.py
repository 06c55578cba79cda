"""crackerjack 0.74 and later: its workflow, which Oneiric executes, and the event bus of its AI fixes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spanbus.adapters import _bridge, _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_RUNS_KEPT = 1_000
_FIXES: Mapping[str, object] = {
    "name": "crackerjack-fixes",
    "extends": "generic",
    "rules": [
        {"type": "run_started", "level": "run", "verb": "start"},
        {"type": "run_finished", "level": "run", "verb": "end"},
        {
            "type": ["preflight_started", "iteration_started"],
            "level": "phase",
            "verb": "start",
            "name": ["word:0"],
        },
        {
            "type": ["preflight_finished", "iteration_finished"],
            "level": "phase",
            "verb": "end",
            "name": ["word:0"],
        },
        {"type": "agent_dispatched", "level": "hook", "verb": "start", "name": ["agent"]},
        {"type": "issue_resolved", "level": "hook", "verb": "end", "name": ["agent"]},
        {
            "type": "issue_failed",
            "level": "hook",
            "verb": "end",
            "name": ["agent"],
            "result": "failure",
        },
        {"type": "*", "level": "phase", "verb": "event"},
    ],
}


def DIALECT(target: object) -> Mapping[str, object] | None:
    """Return the dialect of the AI fix bus; other buses of crackerjack have the default one."""
    return _FIXES if type(target).__name__ == "AIFixEventBus" else None


def attach(target: Any, handle: Handle) -> Any:
    """Record a workflow pipeline (an object, or the class for all of them), or subscribe to an AI fix bus."""
    name = target.__name__ if isinstance(target, type) else type(target).__name__
    if name == "AIFixEventBus" and not isinstance(target, type):
        sink = _Fixes(handle)
        target.subscribe(sink)
        handle.add_undo(lambda: target.unsubscribe(sink))
        return None
    if name != "WorkflowPipeline":
        return NotImplemented
    if not hasattr(target, "_wire_event_publisher"):
        raise InputError("this is not the WorkflowPipeline of crackerjack 0.74 or later")
    handle.add_undo(
        _watching.wrapped(target, "_wire_event_publisher", functools.partial(_wired, handle))
    )
    return None


def _wired(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    """Instrument the runtime that each run of a pipeline creates."""

    @functools.wraps(method)
    def wire(runtime: Any, *arguments: Any, **options: Any) -> Any:
        try:
            bridge = runtime.workflow_bridge
            for undo in _bridge.watched(bridge, handle):
                handle.subscribed(bridge, undo)
        except Exception as error:
            handle.failed(error)
        return method(runtime, *arguments, **options)

    return wire


class _Fixes:
    """A sink of the fix bus. A repeated start of a run is only an event. A run without an end event ends with its task."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._open: dict[str, bool | None] = {}

    async def handle(self, event: Any) -> None:
        try:
            self._forward(event)
        except Exception as error:
            self._handle.failed(error)

    def _forward(self, event: Any) -> None:
        kind, run = str(event.kind), str(event.run_id)
        details: dict[str, object] = asdict(event)
        if kind == "run_started":
            details["workflow"] = f"fixes {event.stage}".strip()
            if run in self._open:
                kind = "run_announced_again"
            else:
                self._began(run)
        elif kind == "run_finished":
            self._open.pop(run, None)
        elif kind == "iteration_finished" and run in self._open:
            self._open[run] = bool(event.success)
        self._handle.tell(kind, **details)

    def _began(self, run: str) -> None:
        self._open[run] = None
        while len(self._open) > _RUNS_KEPT:
            del self._open[next(iter(self._open))]
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(functools.partial(self._task_ended, run))

    def _task_ended(self, run: str, task: asyncio.Task[Any]) -> None:
        """End a run with the result of its last iteration. The handle ends runs of cancelled and failed tasks itself."""
        if run not in self._open:
            return
        success = self._open.pop(run)
        if not task.cancelled() and getattr(task, "_exception", None) is None:
            self._handle.tell("run_finished", run_id=run, success=success is not False)
