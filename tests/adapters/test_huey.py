"""huey: what is recorded of its tasks in a consumer with two workers, by the one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any

import pytest
from huey import MemoryHuey
from huey.exceptions import CancelExecution, RetryTask, TaskException
from opentelemetry import trace

import spanbus

Drawn = Callable[[], list[str]]


@pytest.fixture
def huey(runtime: spanbus.Runtime) -> Generator[Any]:
    huey = MemoryHuey()
    handle = runtime.instrument(huey)
    yield huey
    assert handle.state().errors == 0


class Consuming:
    """A consumer of two threads, while this is entered."""

    def __init__(self, huey: Any) -> None:
        self._consumer = huey.create_consumer(
            workers=2, initial_delay=0.01, max_delay=0.01, scheduler_interval=1
        )

    def __enter__(self) -> None:
        self._consumer.start()

    def __exit__(self, *_: object) -> None:
        self._consumer.stop(graceful=True)


def test_success_and_failure(huey: Any, drawn: Drawn) -> None:
    @huey.task()
    def add(a: int, b: int) -> int:
        return a + b

    @huey.task()
    def fail() -> None:
        raise ValueError("no")

    with Consuming(huey):
        assert add(1, 2).get(blocking=True, timeout=20) == 3
        with pytest.raises(TaskException):
            fail().get(blocking=True, timeout=20)
    assert drawn() == [
        "RUN add success",
        "  add success",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
    ]


def test_retries_are_attempts_of_one_run(huey: Any, drawn: Drawn) -> None:
    calls: list[int] = []

    @huey.task(retries=2)
    def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        if len(calls) == 2:
            raise RetryTask("not yet")
        return "ok"

    with Consuming(huey):
        assert flaky().get(blocking=True, timeout=20) == "ok"
    assert drawn() == [
        "RUN flaky success",
        "  flaky success",
        "    flaky attempt 1 failure ConnectionError",
        "    flaky attempt 2 failure unsuccessful",
        "    flaky attempt 3 success",
    ]


def test_retries_that_do_not_help(huey: Any, drawn: Drawn) -> None:
    @huey.task(retries=1)
    def fail() -> None:
        raise ValueError("no")

    done = threading.Semaphore(0)
    huey.signal("error")(lambda signal, task, error: done.release())
    with Consuming(huey):
        fail()
        assert done.acquire(timeout=20) and done.acquire(timeout=20)
    assert drawn() == [
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "    fail attempt 1 failure ValueError",
        "    fail attempt 2 failure ValueError",
    ]


def test_a_time_limit(huey: Any, drawn: Drawn) -> None:
    @huey.task(timeout=0.05, context=True)
    def slow(task: Any) -> None:
        while True:
            task.check_timeout()

    with Consuming(huey), pytest.raises(TaskException):
        slow().get(blocking=True, timeout=20)
    assert drawn() == ["RUN slow timeout timeout", "  slow timeout timeout"]


def test_cancelled_revoked_expired(huey: Any, drawn: Drawn) -> None:
    @huey.task()
    def gives_up() -> None:
        raise CancelExecution(retry=False)

    @huey.task()
    def never() -> None:
        raise AssertionError

    @huey.task()
    def too_late() -> None:
        raise AssertionError

    @huey.task()
    def last() -> str:
        return "ok"

    never().revoke()
    huey.enqueue(too_late.s(expires=datetime.now() - timedelta(seconds=30)))  # noqa: DTZ005 (huey takes local time)
    with Consuming(huey):
        with pytest.raises(TaskException):
            gives_up().get(blocking=True, timeout=20)
        assert last().get(blocking=True, timeout=20) == "ok"
    assert drawn() == [
        "RUN gives_up cancellation",
        "  gives_up cancellation",
        "RUN last success",
        "  last success",
        "RUN never skip",
        "  never skip",
        "RUN too_late skip",
        "  too_late skip",
    ]


def test_two_at_once_and_their_current_spans(huey: Any, drawn: Drawn) -> None:
    together = threading.Barrier(2)
    seen: dict[str, int] = {}

    @huey.task(context=True)
    def meet(task: Any) -> None:
        together.wait(20)
        seen[task.id] = trace.get_current_span().get_span_context().span_id
        together.wait(20)

    done = threading.Semaphore(0)
    huey.signal("complete")(lambda signal, task: done.release())
    with Consuming(huey):
        for _ in range(2):
            meet()
        assert done.acquire(timeout=20) and done.acquire(timeout=20)
    assert len(set(seen.values())) == 2 and 0 not in seen.values()
    assert drawn() == ["RUN meet success", "  meet success"] * 2


def test_a_locked_task_is_skipped(huey: Any, drawn: Drawn) -> None:
    @huey.task()
    @huey.lock_task("one")
    def alone() -> None:
        raise AssertionError

    with huey.lock_task("one"), Consuming(huey), pytest.raises(TaskException):
        alone().get(blocking=True, timeout=20)
    assert drawn() == ["RUN alone skip", "  alone skip"]


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    huey = MemoryHuey(immediate=True)
    runtime.instrument(huey).detach()

    @huey.task()
    def add(a: int, b: int) -> int:
        return a + b

    assert add(1, 2)() == 3
    assert drawn() == []
