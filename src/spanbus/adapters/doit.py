"""doit: each run of a runner is a run, and each executed or skipped task a phase, from the calls of its reporter."""

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
    """Record all runs of this process, also those with tasks in other threads or processes."""
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
        undo = tasks.observe(getattr(runner, "reporter", None))
        try:
            with work.inside():
                result = method(*arguments, **options)
        except BaseException as error:
            tasks.end_open(error)
            work.end(error)
            raise
        finally:
            undo()
        tasks.end_open(None)
        if result:
            work.fail()
        else:
            work.end()
        return result

    return run_all


class _Tasks:
    """Tasks of one run. If they are executed ``here``, in this thread, the span of each is current inside."""

    def __init__(self, handle: Handle, run: Work, *, here: bool) -> None:
        self._handle, self._run, self._here = handle, run, here
        self._open: dict[str, tuple[Work, Callable[[], None] | None]] = {}

    def observe(self, reporter: Any) -> Callable[[], None]:
        """Wrap the methods of a reporter. Returns a function that undoes it."""
        recorders = {
            "execute_task": self._begin,
            "add_success": self._succeeded,
            "add_failure": self._failed,
            "skip_uptodate": functools.partial(self._skipped, "up to date"),
            "skip_ignore": functools.partial(self._skipped, "ignored"),
        }
        undo = [
            replaced(reporter, name, functools.partial(self._recording, record))
            for name, record in recorders.items()
            if hasattr(reporter, name)
        ]

        def undo_all() -> None:
            for one in undo:
                one()

        return undo_all

    def end_open(self, error: BaseException | None) -> None:
        """End the tasks that were interrupted."""
        while self._open:
            self._leave(next(iter(self._open))).end(error)

    def _recording(
        self, record: Callable[..., None], method: Callable[..., Any]
    ) -> Callable[..., Any]:
        @functools.wraps(method)
        def report(*arguments: Any, **options: Any) -> Any:
            try:
                record(*arguments, **options)
            except Exception as problem:
                self._handle.failed(problem)
            return method(*arguments, **options)

        return report

    def _begin(self, task: Any) -> None:
        if task.actions:  # a group has no actions of its own
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
