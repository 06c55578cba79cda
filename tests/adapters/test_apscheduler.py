"""APScheduler 3: what is recorded of a scheduler, by the one line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler import events
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from opentelemetry import trace

import spanbus

Drawn = Callable[[], list[str]]
DONE = events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR | events.EVENT_JOB_MISSED


def work() -> str:
    return "done"


def fail() -> None:
    raise ValueError("no")


def late() -> None:
    raise TimeoutError("30 s")


def ran(scheduler: Any, jobs: int) -> None:
    """Start it, wait for so many jobs, shut it down."""
    done = threading.Semaphore(0)
    scheduler.add_listener(lambda event: done.release(), DONE)
    scheduler.start()
    for _ in range(jobs):
        assert done.acquire(timeout=20)
    scheduler.shutdown(wait=True)


@pytest.fixture
def scheduler(runtime: spanbus.Runtime) -> Any:
    scheduler = BackgroundScheduler(timezone=UTC)
    runtime.instrument(scheduler)
    return scheduler


def test_success_and_failure(scheduler: Any, drawn: Drawn) -> None:
    for job in (work, fail, late):
        scheduler.add_job(job)
    ran(scheduler, 3)
    assert drawn() == [
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "RUN late timeout timeout",
        "  late timeout timeout",
        "RUN work success",
        "  work success",
    ]


def test_the_same_job_twice_is_two_runs(scheduler: Any, drawn: Drawn) -> None:
    scheduler.add_job(work, "interval", seconds=0.05, id="nightly", max_instances=20)
    done = threading.Semaphore(0)
    scheduler.add_listener(lambda event: done.release(), events.EVENT_JOB_EXECUTED)
    scheduler.start()
    assert done.acquire(timeout=20) and done.acquire(timeout=20)
    scheduler.shutdown(wait=True)
    lines = drawn()
    assert set(lines) == {"RUN work success", "  work success"}
    assert lines.count("RUN work success") >= 2


def test_two_at_once_and_their_current_spans(scheduler: Any, drawn: Drawn) -> None:
    together = threading.Barrier(2)
    seen: set[int] = set()

    def meet() -> None:
        together.wait(20)
        seen.add(trace.get_current_span().get_span_context().span_id)

    for number in range(2):
        scheduler.add_job(meet, name=f"meet {number}")
    ran(scheduler, 2)
    assert len(seen) == 2 and 0 not in seen
    assert drawn() == [
        "RUN meet 0 success",
        "  meet 0 success",
        "RUN meet 1 success",
        "  meet 1 success",
    ]


def test_a_missed_job_is_skipped(scheduler: Any, drawn: Drawn) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    scheduler.add_job(work, "date", run_date=yesterday, misfire_grace_time=1)
    ran(scheduler, 1)
    assert drawn() == ["RUN work skip", "  work skip"]


def test_jobs_of_another_process(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    scheduler = BackgroundScheduler(executors={"default": ProcessPoolExecutor(1)}, timezone=UTC)
    runtime.instrument(scheduler)
    scheduler.add_job("math:sqrt", args=(4,), id="root", name="root", misfire_grace_time=None)
    scheduler.add_job(
        "math:sqrt", args=(-1,), id="no root", name="no root", misfire_grace_time=None
    )
    ran(scheduler, 2)
    assert drawn() == [
        "RUN no root failure ValueError",
        "  no root failure ValueError",
        "RUN root success",
        "  root success",
    ]


def test_on_asyncio_and_a_job_that_is_cut(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        began, done = asyncio.Event(), asyncio.Event()

        async def short() -> None:
            done.set()

        async def long() -> None:
            began.set()
            await asyncio.sleep(60)

        scheduler = AsyncIOScheduler(timezone=UTC)
        runtime.instrument(scheduler)
        scheduler.add_job(short, name="short")
        scheduler.add_job(long, name="long")
        scheduler.start()
        await began.wait()
        await done.wait()
        await asyncio.sleep(0)
        scheduler.shutdown()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert drawn() == [
        "RUN long cancellation",
        "  long cancellation",
        "RUN short success",
        "  short success",
    ]


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    scheduler = BackgroundScheduler(timezone=UTC)
    runtime.instrument(scheduler).detach()
    scheduler.add_job(work)
    ran(scheduler, 1)
    assert drawn() == []
