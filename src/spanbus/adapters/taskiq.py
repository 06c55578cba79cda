"""TaskIQ: a task sent inside a span is executed below that span; any other task is a run with one phase and its attempts.
Recorded by a middleware of the broker.
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
    """Add a middleware to a broker. It is the last, so it sees an error before the retry middlewares."""
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
    """One execution of a task: a ``span`` below the sender's, or ``work`` of its own run.

    ``before`` is the enclosing execution, if the broker executes a task in place.
    """

    def __init__(
        self, message: Any, before: _Execution | None, work: Work | None, span: Execution | None
    ) -> None:
        self.task_id: str = message.task_id
        self.requeued = str(message.labels.get(_REQUEUED, 0))
        self.work, self.span, self.before = work, span, before
        self.error: BaseException | None = None
        self.leave: Callable[[], None] | None = work.enter() if work is not None else None


class _Tasks:
    """Tasks in progress, and tasks that wait for their next attempt."""

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self._handle = handle
        self._messages = Messages(handle, "taskiq")
        self._current: ContextVar[_Execution | None] = ContextVar("spanbus_taskiq", default=None)
        self._running: dict[str, _Execution] = {}
        self._jobs = _jobs.Jobs(handle)

    def pre_execute(self, message: Any) -> Any:
        try:
            task_id = message.task_id
            span = self._messages.begin(
                message.labels,
                task_id,
                message.task_name,
                retries=message.labels.get("_retries"),
                redelivered=bool(message.labels.get(_REQUEUED)),
            )
            if span is not None:
                self._current.set(_Execution(message, self._current.get(), None, span))
                return message
            if task_id in self._running:  # requeued, and started before this attempt is reported
                self._end_attempt(self._running[task_id])
            work = self._jobs.begin(task_id, message.task_name)
            execution = _Execution(message, self._current.get(), work, None)
            self._running[task_id] = execution
            self._current.set(execution)
        except Exception as problem:
            self._handle.failed(problem)
        return message

    def on_error(self, message: Any, result: Any, exception: BaseException) -> None:
        execution = self._current.get()
        if execution is not None:
            execution.error = exception

    def pre_send(self, message: Any) -> Any:
        """If the current task failed and is sent again, end its attempt now: the next one may start before this one is
        reported. Any other task is sent by the current work.
        """
        execution = self._current.get()
        if execution is None or execution.span is not None or execution.task_id != message.task_id:
            self._messages.send(message.labels, message.task_id)
        else:
            message.labels[SENT_NS] = time.time_ns()
            self._end_attempt(execution)
        return message

    def post_execute(self, message: Any, result: Any) -> None:
        execution = self._current.get()
        if execution is None:
            return
        self._current.set(execution.before)
        requeued = str(message.labels.get(_REQUEUED, 0)) != execution.requeued
        if execution.span is not None:
            self._end_span(execution, execution.span, requeued=requeued)
            return
        if execution.leave is not None:
            execution.leave()
        if (work := execution.work) is None:
            return
        error, kind = execution.error, type(result.error).__name__
        if requeued or (kind == "NoResultError" and type(error).__name__ != kind):
            self._end_attempt(execution)
            return
        self._forget(execution)
        if type(error).__name__ == "TaskRejectedError":
            work.skip(reason="rejected")
        else:
            work.end(None if type(error).__name__ == "NoResultError" else error)

    def _end_span(self, execution: _Execution, span: Execution, *, requeued: bool) -> None:
        """End the execution of a task that was sent inside a span."""
        kind = type(execution.error).__name__
        if kind == "TaskRejectedError":
            self._messages.skip(span)
        elif kind == "NoResultError":
            self._messages.end(span, None, again=requeued)
        else:
            self._messages.end(span, execution.error)

    def _end_attempt(self, execution: _Execution) -> None:
        """End an attempt that is followed by another one."""
        if (work := execution.work) is None:
            return
        self._forget(execution)
        error = None if type(execution.error).__name__ == "NoResultError" else execution.error
        self._jobs.again(execution.task_id, work, error)

    def _forget(self, execution: _Execution) -> None:
        execution.work = None
        if self._running.get(execution.task_id) is execution:
            del self._running[execution.task_id]
