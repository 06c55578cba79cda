"""Procrastinate: each job is a run with one phase, its attempts beneath it, told by a middleware of the workers of an app."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _jobs
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS


def attach(app: Any, handle: Handle) -> None:
    """Give the workers that an app makes from now on a middleware: the outermost."""
    if not hasattr(app, "_worker"):
        raise InputError(f"instrument an App of Procrastinate, not {type(app).__name__}")
    if not hasattr(import_module("procrastinate"), "middleware"):
        raise InputError("this version of Procrastinate has no worker middleware; use a newer one")
    jobs = _AppJobs(handle)
    handle.add_undo(replaced(app, "_worker", jobs.made))


class _AppJobs:
    """The jobs that are executed here, until it is known what becomes of them."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._jobs = _jobs.Jobs(handle)
        self._over: dict[str, tuple[Work, BaseException | None]] = {}

    def made(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def worker(**options: Any) -> Any:
            made = method(**options)
            try:
                made.worker_middleware = [self.execute, *made.worker_middleware]
                replaced(made, "_persist_job_status", self._persisting)
            except Exception as problem:
                self._handle.failed(problem)
            return made

        return worker

    async def execute(self, call_next: Callable[[], Any], context: Any, worker: Any) -> Any:
        """The middleware: a job is at work."""
        del worker
        job_id = str(context.job.id)
        work = self._jobs.begin(job_id, context.job.task_name)
        error: BaseException | None = None
        try:
            with work.inside():
                return await call_next()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._over[job_id] = work, error

    def _persisting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The worker has decided: the job is over, or will be tried again."""

        @functools.wraps(method)
        async def persist(*arguments: Any, **options: Any) -> Any:
            job = options["job"] if "job" in options else arguments[0]
            work, error = self._over.pop(str(job.id), (None, None))
            if work is None:  # no middleware is called for a task that the app does not have
                told = {"type": "TaskNotFound", "message": job.task_name}
                self._jobs.begin(str(job.id), job.task_name).fail(told)
            elif options.get("retry_decision") is not None:
                self._jobs.again(str(job.id), work, error)
            else:
                work.end(CancelledError() if type(error).__name__ == "JobAborted" else error)
            return await method(*arguments, **options)

        return persist
