"""Jobs of a queue: their dialect, and the jobs that wait for their next attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spanbus._attaching.work import Work

if TYPE_CHECKING:
    from spanbus import Handle

_KEPT = 1_000
_ENDS = {
    "completed": "success",
    "failed": "failure",
    "timeout": "timeout",
    "cancelled": "cancellation",
    "skipped": "skip",
}
JOBS: dict[str, object] = {
    "name": "jobs",
    "extends": "generic",
    "run": "each",
    "rules": [
        {"type": "job.started", "level": "phase", "verb": "start", "name": ["job"]},
        {
            "type": "job.retrying",
            "level": "phase",
            "verb": "retry",
            "name": ["job"],
            "result": "failure",
        },
        {
            "type": [f"job.{word}" for word in _ENDS],
            "level": "phase",
            "verb": "end",
            "final": True,
            "name": ["job"],
            "result_by_word": _ENDS,
        },
    ],
}
"""Dialect of job queues: each job is a run with one phase."""


class Jobs:
    """Jobs of a worker in this process. All attempts of a job in this process belong to the same run."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._waiting: dict[str, Work] = {}

    def begin(self, job_id: str, name: str) -> Work:
        """Start a job or its next attempt."""
        known = self._waiting.pop(job_id, None)
        work = known or Work(self._handle, "job", name, {"run_id": job_id})
        work.begin()
        return work

    def again(self, job_id: str, work: Work, error: BaseException | None = None) -> None:
        """End a failed attempt that is followed by another one, here or in another process. At most 1,000 jobs wait."""
        work.retry(error)
        self._waiting[job_id] = work
        while len(self._waiting) > _KEPT:
            del self._waiting[next(iter(self._waiting))]
