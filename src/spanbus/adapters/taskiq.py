"""TaskIQ: a task that code inside a span sent is an execution beneath it; any other is a run with one phase, its attempts beneath
it. Both are told by a middleware of the broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _jobs
from spanbus.errors import InputError
from spanbus.integrations._messages import Messages
from spanbus.integrations.executions import SENT_NS, Execution

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS
_REQUEUED = "X-Taskiq-requeue"


def attach(broker: Any, handle: Handle) -> None:
    """Add a middleware to a broker: the last, so that it hears of an error before those that try again."""
    if not hasattr(broker, "add_middlewares"):
        raise InputError(f"instrument a broker, not {type(broker).__name__}")
    base: Any = import_module("taskiq").TaskiqMiddleware
    middleware = type("SpanbusMiddleware", (_Tasks, base), {})(handle)
    broker.add_middlewares(middleware)

    def undo() -> None:
        if middleware in broker.middlewares:
            broker.middlewares.remove(middleware)

    handle.add_undo(undo)


class _Execution:
    """One execution of a task, as ``told`` or as ``work`` of its own; ``before`` is the one within which it is executed, where a
    broker does that in place.
    """

    def __init__(
        self, message: Any, before: _Execution | None, work: Work | None, told: Execution | None
    ) -> None:
        self.task_id: str = message.task_id
        self.requeued = str(message.labels.get(_REQUEUED, 0))
        self.work, self.told, self.before = work, told, before
        self.error: BaseException | None = None
        self.leave: Callable[[], None] | None = work.enter() if work is not None else None


class _Tasks:
    """The tasks that are executed here, and those that wait for their next attempt."""

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self._handle = handle
        self._messages = Messages(handle, "taskiq")
        self._here: ContextVar[_Execution | None] = ContextVar("spanbus_taskiq", default=None)
        self._running: dict[str, _Execution] = {}
        self._jobs = _jobs.Jobs(handle)

    def pre_execute(self, message: Any) -> Any:
        try:
            task_id = message.task_id
            told = self._messages.begin(
                message.labels,
                task_id,
                message.task_name,
                retries=message.labels.get("_retries"),
                redelivered=bool(message.labels.get(_REQUEUED)),
            )
            if told is not None:
                self._here.set(_Execution(message, self._here.get(), None, told))
                return message
            if (
                task_id in self._running
            ):  # requeued, and begun before the end of this attempt is told
                self._again(self._running[task_id])
            work = self._jobs.begin(task_id, message.task_name)
            execution = _Execution(message, self._here.get(), work, None)
            self._running[task_id] = execution
            self._here.set(execution)
        except Exception as problem:
            self._handle.failed(problem)
        return message

    def on_error(self, message: Any, result: Any, exception: BaseException) -> None:
        execution = self._here.get()
        if execution is not None:
            execution.error = exception

    def pre_send(self, message: Any) -> Any:
        """A task that failed here just now, and is sent: its next attempt may begin before the end of this one is told.

        Any other is sent by whoever is at work here.
        """
        execution = self._here.get()
        if execution is None or execution.told is not None or execution.task_id != message.task_id:
            self._messages.send(message.labels, message.task_id)
        else:
            message.labels[SENT_NS] = time.time_ns()
            self._again(execution)
        return message

    def post_execute(self, message: Any, result: Any) -> None:
        execution = self._here.get()
        if execution is None:
            return
        self._here.set(execution.before)
        requeued = str(message.labels.get(_REQUEUED, 0)) != execution.requeued
        if execution.told is not None:
            self._told(execution, execution.told, requeued=requeued)
            return
        if execution.leave is not None:
            execution.leave()
        if (work := execution.work) is None:
            return
        error, kind = execution.error, type(result.error).__name__
        if requeued or (kind == "NoResultError" and type(error).__name__ != kind):
            self._again(execution)
            return
        self._forget(execution)
        if type(error).__name__ == "TaskRejectedError":
            work.skip(reason="rejected")
        else:
            work.end(None if type(error).__name__ == "NoResultError" else error)

    def _told(self, execution: _Execution, told: Execution, *, requeued: bool) -> None:
        """The end of a task that a span sent."""
        kind = type(execution.error).__name__
        if kind == "TaskRejectedError":
            self._messages.skip(told)
        elif kind == "NoResultError":
            self._messages.end(told, None, again=requeued)
        else:
            self._messages.end(told, execution.error)

    def _again(self, execution: _Execution) -> None:
        """Its attempt is over, and the next one comes."""
        if (work := execution.work) is None:
            return
        self._forget(execution)
        error = None if type(execution.error).__name__ == "NoResultError" else execution.error
        self._jobs.again(execution.task_id, work, error)

    def _forget(self, execution: _Execution) -> None:
        execution.work = None
        if self._running.get(execution.task_id) is execution:
            del self._running[execution.task_id]
