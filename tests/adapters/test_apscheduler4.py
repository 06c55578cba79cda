"""APScheduler 4: what is recorded of a scheduler, by the one line, on asyncio and trio."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from apscheduler import AsyncScheduler, JobOutcome, JobReleased, Scheduler
from apscheduler.triggers.date import DateTrigger
from opentelemetry import trace

import spanbus

Drawn = Callable[[], list[str]]


def work() -> str:
    return "done"


def fail() -> None:
    raise ValueError("no")


async def late() -> None:
    raise TimeoutError("30 s")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_how_jobs_end(runtime: spanbus.Runtime, drawn: Drawn, backend: str) -> None:
    seen: list[int] = []

    async def cut() -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)
        await anyio.sleep_forever()

    async def main() -> None:
        with anyio.fail_after(20):
            scheduler = AsyncScheduler()
            handle = runtime.instrument(scheduler)
            async with scheduler:
                for function in (work, fail, late, cut):
                    await scheduler.configure_task(function.__name__, func=function)
                await scheduler.start_in_background()
                assert await scheduler.run_job("work") == "done"
                with pytest.raises(ValueError, match="no"):
                    await scheduler.run_job("fail")
                with pytest.raises(TimeoutError):
                    await scheduler.run_job("late")
                await scheduler.add_job("cut")
                while not seen:
                    await anyio.sleep(0.001)
                await scheduler.stop()
                await scheduler.wait_until_stopped()
            assert handle.state().errors == 0

    anyio.run(main, backend=backend)
    assert seen != [0]
    assert drawn() == [
        "RUN cut cancellation",
        "  cut cancellation",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "RUN late timeout timeout",
        "  late timeout timeout",
        "RUN work success",
        "  work success",
    ]


def test_the_same_task_twice_at_once_is_two_runs(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen: set[int] = set()
    released: list[JobReleased] = []

    async def main() -> None:
        together = anyio.Event()

        async def meet() -> None:
            seen.add(trace.get_current_span().get_span_context().span_id)
            if len(seen) == 2:
                together.set()
            await together.wait()

        with anyio.fail_after(20):
            scheduler = AsyncScheduler()
            runtime.instrument(scheduler)
            async with scheduler:
                scheduler.subscribe(released.append, {JobReleased})
                await scheduler.configure_task("meet", func=meet, max_running_jobs=2)
                await scheduler.start_in_background()
                await scheduler.add_job("meet")
                await scheduler.add_job("meet")
                while len(released) < 2:
                    await anyio.sleep(0.001)

    anyio.run(main)
    assert len(seen) == 2 and 0 not in seen
    assert drawn() == ["RUN meet success", "  meet success"] * 2


def test_a_missed_job_is_skipped(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    released: list[JobReleased] = []

    async def main() -> None:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        with anyio.fail_after(20):
            scheduler = AsyncScheduler()
            runtime.instrument(scheduler)
            async with scheduler:
                scheduler.subscribe(released.append, {JobReleased})
                await scheduler.configure_task("work", func=work)
                await scheduler.add_schedule(
                    "work", DateTrigger(yesterday), misfire_grace_time=timedelta(seconds=1)
                )
                await scheduler.start_in_background()
                while not released:
                    await anyio.sleep(0.001)

    anyio.run(main)
    assert [one.outcome for one in released] == [JobOutcome.missed_start_deadline]
    assert drawn() == ["RUN work skip", "  work skip"]


def test_the_scheduler_for_threads_and_jobs_of_another_process(
    runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    scheduler = Scheduler()
    runtime.instrument(scheduler)
    with scheduler:
        scheduler.configure_task("work", func=work)
        scheduler.configure_task("math:sqrt", func=math.sqrt, job_executor="processpool")
        scheduler.start_in_background()
        assert scheduler.run_job("work") == "done"
        assert scheduler.run_job("math:sqrt", args=(4,)) == 2
        with pytest.raises(ValueError, match=r"math domain|nonnegative"):
            scheduler.run_job("math:sqrt", args=(-1,))
    assert drawn() == [
        "RUN math:sqrt failure ValueError",
        "  math:sqrt failure ValueError",
        "RUN math:sqrt success",
        "  math:sqrt success",
        "RUN work success",
        "  work success",
    ]


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    with Scheduler() as scheduler:
        runtime.instrument(scheduler).detach()
        scheduler.configure_task("work", func=work)
        scheduler.start_in_background()
        assert scheduler.run_job("work") == "done"
    assert drawn() == []


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("APScheduler 4")
    assert drawn() == expected
