"""Procrastinate: each job is a run with one phase and its attempts, recorded by a middleware of an app's workers."""

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
    """Add an outermost middleware to the workers that an app creates from now on."""
    if not hasattr(app, "_worker"):
        raise InputError(f"instrument an App of Procrastinate, not {type(app).__name__}")
    if not hasattr(import_module("procrastinate"), "middleware"):
        raise InputError("this version of Procrastinate has no worker middleware; use a newer one")
    jobs = _AppJobs(handle)
    handle.add_undo(replaced(app, "_worker", jobs.made))


class _AppJobs:
    """Jobs of an app's workers, until their outcome is decided."""

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
        """Execute a job as the middleware of a worker."""
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
        """Wrap the worker's decision: the job has ended or is retried."""

        @functools.wraps(method)
        async def persist(*arguments: Any, **options: Any) -> Any:
            try:
                job = options["job"] if "job" in options else arguments[0]
                self._decided(job, retried=options.get("retry_decision") is not None)
            except Exception as problem:
                self._handle.failed(problem)
            return await method(*arguments, **options)

        return persist

    def _decided(self, job: Any, *, retried: bool) -> None:
        work, error = self._over.pop(str(job.id), (None, None))
        if work is None:  # the middleware is not called for an unknown task
            failure = {"type": "TaskNotFound", "message": job.task_name}
            self._jobs.begin(str(job.id), job.task_name).fail(failure)
        elif retried:
            self._jobs.again(str(job.id), work, error)
        else:
            work.end(CancelledError() if type(error).__name__ == "JobAborted" else error)
