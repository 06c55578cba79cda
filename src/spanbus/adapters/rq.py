"""RQ: each job is a run with one phase and its attempts, recorded in the worker. The work-horse reports the outcome."""

from __future__ import annotations

import functools
import json
import os
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus._runtime.opened import close_all
from spanbus._semantics import class_name, error_text
from spanbus.adapters import _jobs, _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS
_PIPE_BYTES = 65_536  # capacity of a pipe: one write of a shorter text blocks nobody, one read takes all of it
_TEXT_AT_MOST = 1_000


def attach(target: Any, handle: Handle) -> None:
    """Record the jobs of a worker, of a worker class, or of all workers of this process if it is the module."""
    if isinstance(target, ModuleType):
        rq: Any = import_module("rq")
        kinds = [rq.Worker, rq.SimpleWorker]
        workers = [kind for kind in kinds if "execute_job" in vars(kind)]
    else:
        workers = [target]
    for worker in workers:
        if not hasattr(worker, "perform_job"):
            raise InputError(
                f"{type(worker).__name__} performs no jobs; instrument the worker, or rq"
            )
        watched = _Workers(handle)
        handle.add_undo(_watching.wrapped(worker, "execute_job", watched.executing))
        handle.add_undo(_watching.wrapped(worker, "perform_job", watched.performing))


class _Execution:
    """An attempt of a job, with a pipe by which the performing process reports the outcome."""

    def __init__(self, job: Any, work: Work) -> None:
        self.job_id, self.work, self.pid = str(job.id), work, os.getpid()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)

    def report(self, word: str, error: BaseException | None) -> None:
        """Report the outcome, in the performing process."""
        name = "" if error is None else class_name(type(error))[:_TEXT_AT_MOST]
        text = "" if error is None else error_text(error)[:_TEXT_AT_MOST]
        os.write(self._writes, json.dumps([word, name, text]).encode())

    def outcome(self) -> tuple[str, str, str] | None:
        """Return the reported outcome, in the worker, or None. Closes the pipe."""
        text = b""
        with suppress(BlockingIOError):
            text = os.read(self._reads, _PIPE_BYTES)
        os.close(self._reads)
        os.close(self._writes)
        if not text:
            return None
        return cast("tuple[str, str, str]", tuple(json.loads(text)))


class _Workers:
    """Jobs of the instrumented workers, one at a time in each."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._jobs = _jobs.Jobs(handle)
        self._running: dict[str, _Execution] = {}

    def executing(self, method: Any) -> Callable[..., Any]:
        """Wrap the execution of a job in the worker, which usually forks a process and waits for it."""

        @functools.wraps(method)
        def execute_job(job: Any, *arguments: Any, **options: Any) -> Any:
            try:
                execution = _Execution(job, self._jobs.begin(str(job.id), str(job.func_name)))
                self._running[execution.job_id] = execution
            except Exception as problem:
                self._handle.failed(problem)
                return method(job, *arguments, **options)
            try:
                with execution.work.inside():
                    return method(job, *arguments, **options)
            finally:
                self._over(method.__self__, job, execution)

        return execute_job

    def performing(self, method: Any) -> Callable[..., Any]:
        """Wrap the job's function in the performing process."""

        @functools.wraps(method)
        def perform_job(job: Any, *arguments: Any, **options: Any) -> Any:
            execution = self._running.get(str(job.id))
            if execution is None:
                return method(job, *arguments, **options)
            undo = replaced(job, "perform", functools.partial(self._reporting, execution, job))
            try:
                return method(job, *arguments, **options)
            finally:
                undo()
                if os.getpid() != execution.pid:
                    close_all()  # the process leaves by os._exit

        return perform_job

    def _reporting(
        self, execution: _Execution, job: Any, perform: Callable[..., Any]
    ) -> Callable[..., Any]:
        @functools.wraps(perform)
        def performed(*arguments: Any, **options: Any) -> Any:
            word, error = "failed", None
            try:
                result = perform(*arguments, **options)
                word = "retry" if type(result).__name__ == "Retry" else "ok"
                return result
            except BaseException as raised:
                word, error = "retry" if job.should_retry else "failed", raised
                raise
            finally:
                try:
                    execution.report(word, error)
                except Exception as problem:
                    self._handle.failed(problem)

        return performed

    def _over(self, worker: Any, job: Any, execution: _Execution) -> None:
        try:
            del self._running[execution.job_id]
            work = execution.work
            word, name, text = execution.outcome() or self._status(worker, job)
            if word == "retry":
                error = {"type": name, "message": text} if name else None
                self._jobs.again(execution.job_id, work, cast("Any", error))
            elif word == "cancelled":
                work.end(CancelledError())
            elif name == "rq.timeouts.JobTimeoutException":
                work.end(TimeoutError(text))
            elif word == "failed":
                work.fail({"type": name or "failed", "message": text})
            else:
                work.end()
        except Exception as problem:
            self._handle.failed(problem)

    def _status(self, worker: Any, job: Any) -> tuple[str, str, str]:
        """Find the outcome of a job that was not reported: its process was killed, or was not forked by this worker."""
        if getattr(worker, "_stopped_job_id", None) == job.id:
            return "cancelled", "", ""
        try:
            status = str(job.get_status(refresh=True).value)
            trace = str(getattr(job.latest_result(), "exc_string", None) or "").rstrip()
        except Exception:  # deleted, as jobs are if their result is not kept
            return "ok", "", ""
        word = {"finished": "ok", "failed": "failed", "stopped": "cancelled"}.get(status, "retry")
        name, _, text = trace.rpartition("\n")[2].partition(": ")
        return (word, "killed", trace) if trace.startswith("Work-horse ") else (word, name, text)
