"""doit: each run of a runner is a run, each task that it executes or skips a phase of it, as its reporter is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle


def attach(target: Any, handle: Handle) -> None:
    """Watch every run of this process, also those whose tasks are executed by other threads or processes."""
    if not isinstance(target, ModuleType):
        raise InputError(
            f"instrument doit itself, not {type(target).__name__}: spanbus.instrument(doit)"
        )
    kind = import_module("doit.runner").Runner
    handle.add_undo(_watching.wrapped(kind, "run_all", functools.partial(_run, handle, kind)))


def _run(handle: Handle, kind: type, method: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def run_all(*arguments: Any, **options: Any) -> Any:
        runner = method.__self__
        work = _watching.begun(handle, "run", "doit")
        tasks = _Tasks(handle, work, here=type(runner) is kind)
        undo = tasks.heard(runner.reporter)
        try:
            with work.inside():
                result = method(*arguments, **options)
        except BaseException as error:
            tasks.left(error)
            work.end(error)
            raise
        finally:
            undo()
        tasks.left(None)
        if result:
            work.fail()
        else:
            work.end()
        return result

    return run_all


class _Tasks:
    """The tasks of one run. Where they are executed ``here`` the span of each is current inside."""

    def __init__(self, handle: Handle, run: Work, *, here: bool) -> None:
        self._handle, self._run, self._here = handle, run, here
        self._open: dict[str, tuple[Work, Callable[[], None] | None]] = {}

    def heard(self, reporter: Any) -> Callable[[], None]:
        """Hear of a reporter's tasks, what it is told of them; what is returned takes that back."""
        told = {
            "execute_task": self._begin,
            "add_success": self._succeeded,
            "add_failure": self._failed,
            "skip_uptodate": functools.partial(self._skipped, "up to date"),
            "skip_ignore": functools.partial(self._skipped, "ignored"),
        }
        undo = [
            replaced(reporter, name, functools.partial(self._telling, tell))
            for name, tell in told.items()
            if hasattr(reporter, name)
        ]

        def take_back() -> None:
            for one in undo:
                one()

        return take_back

    def left(self, error: BaseException | None) -> None:
        """End the tasks that were cut."""
        while self._open:
            self._leave(next(iter(self._open))).end(error)

    def _telling(self, tell: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def report(*arguments: Any, **options: Any) -> Any:
            try:
                tell(*arguments, **options)
            except Exception as problem:
                self._handle.failed(problem)
            return method(*arguments, **options)

        return report

    def _begin(self, task: Any) -> None:
        if task.actions:  # a group has none: its tasks have
            work = self._begun(task)
            self._open[task.name] = work, work.enter() if self._here else None

    def _begun(self, task: Any) -> Work:
        work = Work(
            self._handle, "phase", task.name, {"run_id": self._run.run_id}, doer=str(task.name)
        )
        work.begin()
        return work

    def _succeeded(self, task: Any) -> None:
        if task.name in self._open:
            self._leave(task.name).end()

    def _failed(self, task: Any, failure: Any) -> None:
        kind, text = failure.get_name(), str(failure.message)
        executed = task.name in self._open
        work = self._leave(task.name) if executed else self._begun(task)
        last = "".join(failure.traceback).rstrip().rpartition("\n")[2]
        if kind == "UnmetDependency":
            work.skip(reason=f"unmet dependency: {text}")
        else:
            work.fail(last or {"type": kind, "message": text})

    def _skipped(self, reason: str, task: Any) -> None:
        if task.actions:
            self._begun(task).skip(reason=reason)

    def _leave(self, name: str) -> Work:
        work, leave = self._open.pop(name)
        if leave is not None:
            leave()
        return work
