"""APScheduler 3 and 4: each execution of a job is a run with one phase."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _apscheduler4, _jobs, _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS
_NAMES_KEPT = 1_000


def attach(scheduler: Any, handle: Handle) -> None:
    """Record the jobs that a scheduler's executors run, and those that it skips."""
    later = getattr(scheduler, "_async_scheduler", scheduler)
    if hasattr(later, "job_executors") and not isinstance(later, type):
        _apscheduler4.attach(later, handle)
        return
    if not hasattr(scheduler, "_lookup_executor"):
        raise InputError(f"{type(scheduler).__name__} is not a scheduler of APScheduler 3 or 4")
    watched = _Scheduler(scheduler, handle)
    handle.add_undo(replaced(scheduler, "_lookup_executor", watched.looked_up))
    scheduler.add_listener(watched.on_event)
    handle.add_undo(lambda: scheduler.remove_listener(watched.on_event))


class _Scheduler:
    """Jobs of one scheduler."""

    def __init__(self, scheduler: Any, handle: Handle) -> None:
        self._events: Any = import_module("apscheduler.events")
        self._scheduler, self._handle = scheduler, handle
        self._executors: list[Any] = []
        self._in_processes: dict[tuple[str, object], Work] = {}
        """Submitted jobs of process pools, by job id and scheduled time."""
        self._names: dict[str, str] = {}

    def looked_up(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the lookup of executors, which are created late, and wrap each executor at its first use."""

        def lookup(alias: str) -> Any:
            executor = method(alias)
            if not any(executor is one for one in self._executors):
                self._executors.append(executor)
                is_pool = type(executor).__name__ == "ProcessPoolExecutor"
                wrap = self._submitting_to_process if is_pool else self._submitting
                self._handle.add_undo(replaced(executor, "_do_submit_job", wrap))
            return executor

        return lookup

    def _submitting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def submit(job: Any, run_times: Any) -> Any:
            self._remember(job)
            return method(_Job(job, self._handle), run_times)

        return submit

    def _submitting_to_process(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Record jobs of another process from their submission until the event of their end."""

        def submit(job: Any, run_times: Any) -> Any:
            self._remember(job)
            for at in run_times:
                work = _watching.begun(self._handle, "job", str(job.name))
                self._in_processes[job.id, at] = work
            return method(job, run_times)

        return submit

    def on_event(self, event: Any) -> None:
        """Record jobs that were not run, and the ends of jobs in other processes."""
        events = self._events
        missed: bool = event.code == events.EVENT_JOB_MISSED
        if missed or event.code == events.EVENT_JOB_MAX_INSTANCES:
            begun = self._in_processes.pop(_key(event), None)
            work = begun or _watching.begun(self._handle, "job", self._name(event.job_id))
            work.skip(reason="missed" if missed else "too many instances")
        elif event.code in (events.EVENT_JOB_EXECUTED, events.EVENT_JOB_ERROR):
            work = self._in_processes.pop(_key(event), None)
            if work is not None:
                work.end(event.exception)

    def _remember(self, job: Any) -> None:
        """Remember a job's name: a one-time job is deleted before its event arrives."""
        self._names[job.id] = str(job.name)
        while len(self._names) > _NAMES_KEPT:
            del self._names[next(iter(self._names))]

    def _name(self, job_id: str) -> str:
        return self._names.get(job_id) or str(
            getattr(self._scheduler.get_job(job_id), "name", job_id)
        )


def _key(event: Any) -> tuple[str, object]:
    return event.job_id, getattr(event, "scheduled_run_time", None)


class _Job:
    """A job for its executor, with its function wrapped."""

    def __init__(self, job: Any, handle: Handle) -> None:
        self._job = job
        self.func = _watching.around(
            job.func, lambda: _watching.begun(handle, "job", str(job.name))
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def __str__(self) -> str:
        return str(self._job)
