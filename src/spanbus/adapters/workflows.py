"""llama-index-workflows: each ``run()`` of a workflow is a run, and each execution of a step a phase."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.methods import is_coroutine_function
from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_STOPPED = ("WaitingForEvent", "WorkflowCancelledByUser")


def attach(workflow: Any, handle: Handle) -> None:
    """Wrap a workflow's ``run()`` and its steps."""
    if isinstance(workflow, type) or not hasattr(workflow, "_get_steps"):
        raise InputError("instrument an instance of a Workflow")

    def run(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def started(*arguments: Any, **options: Any) -> Any:
            name = getattr(workflow, "workflow_name", None) or type(workflow).__name__
            work = _watching.begun(handle, "run", str(name).rpartition(".")[2])
            try:
                with work.inside():
                    handler = method(*arguments, **options)
            except BaseException as error:
                work.end(error)
                raise
            handler._result_task.add_done_callback(functools.partial(_done, work))
            return handler

        return started

    handle.add_undo(replaced(workflow, "run", run))
    for name, step in workflow._get_steps().items():
        if isinstance(step, MethodType):
            handle.add_undo(replaced(workflow, name, functools.partial(_step, handle, name)))


def _step(handle: Handle, name: str, step: Any) -> Any:
    """Wrap a step. The result is a bound method, because the workflow finds its steps by that."""
    if is_coroutine_function(step):

        @functools.wraps(step.__func__)
        async def awaited(_self: Any, *arguments: Any, **options: Any) -> Any:
            work = _watching.begun(handle, "phase", name)
            with _watching.recorded(work, functools.partial(_end, work)):
                return await step(*arguments, **options)

        return MethodType(awaited, step.__self__)

    @functools.wraps(step.__func__)
    def called(_self: Any, *arguments: Any, **options: Any) -> Any:
        work = _watching.begun(handle, "phase", name)
        with _watching.recorded(work, functools.partial(_end, work)):
            return step(*arguments, **options)

    return MethodType(called, step.__self__)


def _end(work: Work, error: BaseException | None) -> None:
    kind = type(error).__name__
    if kind == "WorkflowTimeoutError":
        error = TimeoutError(str(error))
    work.end(CancelledError() if kind in _STOPPED else error)


def _done(work: Work, task: Any) -> None:
    # task.exception() would mark the exception as retrieved, and asyncio would no longer log it
    _end(work, CancelledError() if task.cancelled() else getattr(task, "_exception", None))
