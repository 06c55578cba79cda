"""huey: each task is a run with one phase and its attempts, from huey's signals in the worker."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _jobs

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS
_NOT_RUN = ("revoked", "expired")


def attach(huey: Any, handle: Handle) -> None:
    """Connect to the signals of a Huey instance."""
    tasks = _Tasks(handle)
    huey.signal()(tasks.on_signal)
    handle.add_undo(lambda: huey.disconnect_signal(tasks.on_signal))


class _Tasks:
    """Tasks in progress, and tasks that wait for their next attempt."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._running: dict[str, tuple[Work, AbstractContextManager[None]]] = {}
        self._jobs = _jobs.Jobs(handle)

    def on_signal(self, signal: str, task: Any, error: BaseException | None = None) -> None:
        """Handle a signal. Never raises: huey would log the error for every task."""
        try:
            self._apply(signal, task, error)
        except Exception as problem:
            self._handle.failed(problem)

    def _apply(self, signal: str, task: Any, error: BaseException | None) -> None:
        if signal == "executing":
            work = self._jobs.begin(task.id, task.name)
            inside = work.inside()
            inside.__enter__()
            self._running[task.id] = (work, inside)
            return
        if signal in _NOT_RUN:
            self._jobs.begin(task.id, task.name).skip(reason=signal)
            return
        if task.id not in self._running:
            return
        if signal == "complete":
            self._leave(task).end()
        elif signal == "error":
            self._failed(task, error)
        elif signal == "timeout":
            self._failed(task, TimeoutError(f"timed out after {task.timeout} s"))
        elif signal in ("canceled", "interrupted"):
            self._failed(task, CancelledError())
        elif signal in ("locked", "rate-limited"):
            if task.retries:
                self._failed(task, None)
            else:
                self._leave(task).skip(reason=signal)
        elif signal == "retrying":  # the task raised RetryTask, which sends no other signal
            self._failed(task, None)

    def _failed(self, task: Any, error: BaseException | None) -> None:
        """End an attempt; the task is retried if ``task.retries`` attempts are left, as in huey itself."""
        work = self._leave(task)
        if task.retries:
            self._jobs.again(task.id, work, error)
        else:
            work.end(error)

    def _leave(self, task: Any) -> Work:
        work, inside = self._running.pop(task.id)
        inside.__exit__(None, None, None)
        return work
