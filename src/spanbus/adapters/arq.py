"""arq: each job is a run with one phase and its attempts, recorded in the worker that executes it."""

from __future__ import annotations

import functools
from asyncio import CancelledError, Task, current_task
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from spanbus.adapters import _jobs, _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS
_UNKNOWN = "<unknown>"


def attach(target: Any, handle: Handle) -> None:
    """Record the jobs of a worker, of a worker class, or of all workers of this process if it is the module."""
    worker = import_module("arq.worker").Worker if isinstance(target, ModuleType) else target
    if not hasattr(worker, "run_job"):
        raise InputError(
            f"{type(target).__name__} executes no jobs; in the module of your WorkerSettings: spanbus.instrument(arq)"
        )
    workers = _Workers(handle)
    handle.add_undo(_watching.wrapped(worker, "run_job", workers.running))
    handle.add_undo(_watching.wrapped(worker, "finish_failed_job", workers.not_run))


class _Running:
    """A job in progress; a worker runs each job in its own task."""

    def __init__(self, worker: Any, job_id: str) -> None:
        self.worker, self.job_id = worker, job_id
        self.task: Task[Any] | None = current_task()
        self.begun = False


class _Workers:
    """Jobs of the instrumented workers. The functions of a worker are wrapped at its first job."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._jobs = _jobs.Jobs(handle)
        self._known: WeakSet[Any] = WeakSet()
        self._current: ContextVar[_Running | None] = ContextVar("spanbus_arq", default=None)

    def running(self, method: Any) -> Callable[..., Any]:
        @functools.wraps(method)
        async def run_job(job_id: str, score: int) -> None:
            worker = method.__self__
            try:
                self._watch(worker)
            except Exception as problem:
                self._handle.failed(problem)
            self._current.set(_Running(worker, job_id))  # context of this job's task
            await method(job_id, score)

        return run_job

    def not_run(self, method: Any) -> Callable[..., Any]:
        """Record jobs that are given up, mostly before they started."""

        @functools.wraps(method)
        async def finish_failed_job(job_id: str, result_data: bytes | None) -> None:
            try:
                self._given_up(method.__self__, job_id, result_data)
            except Exception as problem:
                self._handle.failed(problem)
            await method(job_id, result_data)

        return finish_failed_job

    def _watch(self, worker: Any) -> None:
        if worker in self._known:
            return
        self._known.add(worker)
        for function in worker.functions.values():
            original = function.coroutine
            function.coroutine = self._watched(function, original)
            self._handle.add_undo(functools.partial(setattr, function, "coroutine", original))

    def _watched(self, function: Any, coroutine: Callable[..., Any]) -> Callable[..., Any]:
        name = function.name.removeprefix("cron:")

        @functools.wraps(coroutine)
        async def run(context: Any, *arguments: Any, **options: Any) -> Any:
            running = self._current.get()
            if running is None or running.begun:  # called by another job
                return await coroutine(context, *arguments, **options)
            running.begun = True
            work = self._jobs.begin(running.job_id, name)
            try:
                with work.inside():
                    result = await coroutine(context, *arguments, **options)
            except BaseException as error:
                if _again(error, running.worker, function, context):
                    self._jobs.again(running.job_id, work, error)
                else:
                    work.end(_meant(error, running))
                raise
            work.end()
            return result

        return run

    def _given_up(self, worker: Any, job_id: str, result_data: bytes | None) -> None:
        """Record a job that was not run: aborted before its start, or with an unknown function.

        Of an expired job only the id is left, and a job with too many attempts is recorded already.
        """
        if result_data is None:
            return
        read = import_module("arq.jobs").deserialize_result
        job = read(result_data, deserializer=worker.job_deserializer)
        if isinstance(job.result, CancelledError):
            self._jobs.begin(job_id, job.function).skip(reason="aborted")
        elif job.function not in worker.functions and job.function != _UNKNOWN:
            self._jobs.begin(job_id, job.function).end(job.result)


def _again(error: BaseException, worker: Any, function: Any, context: Any) -> bool:
    """Whether a job is retried after this error."""
    if not worker.retry_jobs or type(error).__name__ not in ("Retry", "RetryJob"):
        return False
    most = worker.max_tries if function.max_tries is None else function.max_tries
    return bool(context["job_try"] < most)


def _meant(error: BaseException, running: _Running) -> BaseException:
    """Convert a cancellation to a timeout, unless it was caused by an abort, by the worker's end or by the task itself."""
    here = current_task()
    if not isinstance(error, CancelledError) or here is None or not here.cancelling():
        return error
    if running.job_id in running.worker.aborting_tasks:
        return error
    if running.task is not None and running.task.cancelling():
        return error
    return TimeoutError("the time limit of its function")
