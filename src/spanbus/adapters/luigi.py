"""luigi: each run of a worker is a run, and each executed task a phase, also in forked processes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle


def attach(target: Any, handle: Handle) -> None:
    """Record all workers of this process, as created by `luigi.build`, `luigi.run` and the command."""
    if not isinstance(target, ModuleType):
        raise InputError(f"instrument luigi itself, not {_name(target)}: spanbus.instrument(luigi)")
    from importlib import import_module

    kind = import_module("luigi.worker").Worker
    workers = _Workers(handle)
    for name, wrap in (
        ("run", workers.run),
        ("_run_task", workers.run_task),
        ("_add_task", workers.add_task),
    ):
        handle.add_undo(_watching.wrapped(kind, name, wrap))


def _name(target: object) -> str:
    return target.__name__ if isinstance(target, type) else type(target).__name__


def _family(worker: Any, task_id: object) -> str | None:
    """Return the family of a scheduled task, if luigi tells it."""
    task = getattr(worker, "_scheduled_tasks", {}).get(task_id)
    family = getattr(task, "task_family", None)
    return None if family is None else str(family)


class _Workers:
    """Runs of workers and their open tasks."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._runs: dict[int, Work] = {}
        self._tasks: dict[tuple[int, str], Work] = {}

    def run(self, method: Any) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*arguments: Any, **options: Any) -> Any:
            worker = method.__self__
            first = _family(worker, getattr(worker, "_first_task", None))
            work = _watching.begun(self._handle, "run", first or "luigi")
            self._runs[id(worker)] = work
            try:
                with work.inside():
                    succeeded = method(*arguments, **options)
            except BaseException as error:
                self._end_open(worker, error)
                work.end(error)
                raise
            finally:
                del self._runs[id(worker)]
            self._end_open(worker, None)
            if succeeded:
                work.end()
            else:
                work.fail()
            return succeeded

        return run

    def _end_open(self, worker: Any, error: BaseException | None) -> None:
        """End the tasks that are open at the worker's end: they were interrupted, or wait for failed tasks."""
        for key in [one for one in self._tasks if one[0] == id(worker)]:
            work = self._tasks.pop(key)
            work.end(error) if error is not None else work.fail("not completed")

    def run_task(self, method: Any) -> Callable[..., Any]:
        """Wrap the execution of a task, here or in a forked process. A task that waited for dependencies is resumed."""

        @functools.wraps(method)
        def run_task(task_id: str, *arguments: Any, **options: Any) -> Any:
            worker = method.__self__
            work = self._tasks.get((id(worker), task_id))
            run = self._runs.get(id(worker))
            if work is None and run is not None:
                name = _family(worker, task_id) or str(task_id)
                work = Work(self._handle, "phase", name, {"run_id": run.run_id}, doer=str(task_id))
                work.begin()
                self._tasks[id(worker), task_id] = work
            if work is None:
                return method(task_id, *arguments, **options)
            with work.inside():
                return method(task_id, *arguments, **options)

        return run_task

    def add_task(self, method: Any) -> Callable[..., Any]:
        """Wrap the report of a task's status to the scheduler."""

        @functools.wraps(method)
        def add_task(*arguments: Any, **options: Any) -> Any:
            try:
                self._ended(id(method.__self__), **options)
            except Exception as problem:
                self._handle.failed(problem)
            return method(*arguments, **options)

        return add_task

    def _ended(
        self, worker: int, /, *, task_id: str, status: str, expl: str = "", **_: object
    ) -> None:
        key = worker, task_id
        if key not in self._tasks or status not in ("DONE", "FAILED"):
            return
        work = self._tasks.pop(key)
        if status == "DONE":
            work.end()
            return
        text = str(json.loads(expl) if expl else "").rstrip()
        last = text.rpartition("\n")[2]
        if last.startswith("Task ") and " timed out after " in last:
            work.end(TimeoutError(last))
        elif last.startswith("Task ") and " died unexpectedly " in last:
            work.fail({"type": "killed", "message": last})
        else:
            work.fail(last)
