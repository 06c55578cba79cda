"""Adapter for schedulers of APScheduler 4, whose executors run each job in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._attaching.replace import replaced
from spanbus.adapters import _watching

if TYPE_CHECKING:
    from spanbus import Handle


def attach(scheduler: Any, handle: Handle) -> None:
    """Record the jobs that a scheduler's executors run, and those that missed their deadline."""
    for executor in scheduler.job_executors.values():
        handle.add_undo(replaced(executor, "run_job", functools.partial(_run, handle)))

    def released(event: Any) -> None:
        if (
            event.outcome.name == "missed_start_deadline"
            and event.scheduler_id == scheduler.identity
        ):
            work = _watching.begun(handle, "job", str(event.task_id), run_id=event.job_id)
            work.skip(reason="missed its deadline")

    events: Any = import_module("apscheduler")
    subscription = scheduler.event_broker.subscribe(released, {events.JobReleased})
    handle.add_undo(subscription.unsubscribe)


def _run(handle: Handle, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def run(func: Callable[..., Any], job: Any) -> Any:
        work = _watching.begun(handle, "job", str(job.task_id), run_id=job.id)
        with _watching.recorded(work):
            return await method(func, job)

    return run
