"""Many open phases of one name, as of a map over thousands of things."""

from __future__ import annotations

import random
import sys

import pytest

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader

START_NS = 1_700_000_000_000_000_000


class Told:
    """A run whose phases are published by one task each."""

    def __init__(self) -> None:
        dialect = load("generic")
        self.runs: list[SpanState] = []
        self.correlator = Correlator(policy=dialect.policy, on_run_ended=self.runs.append)
        self._reader, self._number = Reader(dialect), 0
        self.tell("pipeline.started")

    def tell(self, event_type: str, by: int | None = None, **payload: object) -> None:
        self._number += 1
        at_ns = START_NS + self._number * 1_000_000
        event = {"event_type": event_type, "at_ns": at_ns, "payload": {"run_id": "r", **payload}}
        publisher = None if by is None else f"task-{by}"
        self.correlator.apply(self._reader.read(event), task=publisher)


@pytest.mark.parametrize("order", ["as they began", "the last one first", "at random"])
def test_each_ends_the_phase_that_its_publisher_opened(order: str) -> None:
    told, numbers = Told(), list(range(40))
    for number in numbers:
        told.tell("task.started", number, task="fetch")
    if order == "the last one first":
        numbers.reverse()
    elif order == "at random":
        random.Random(7).shuffle(numbers)
    for number in numbers:
        told.tell("task.failed" if number % 4 == 0 else "task.completed", number, task="fetch")
    told.tell("pipeline.completed")
    (run,) = told.runs
    by_start = sorted(run.children, key=lambda one: one.started_at_ns)
    assert [str(one.result) for one in by_start] == ["failure", *["success"] * 3] * 10
    state = told.correlator.state()
    assert (state.phases_ended, state.retries, state.abandoned) == (40, 0, 0)


def test_one_of_many_is_tried_again() -> None:
    told = Told()
    for number in range(20):
        told.tell("task.started", number, task="fetch")
    for number in (3, 7):
        told.tell("task.retrying", number, task="fetch")
    told.tell("task.started", 7, task="fetch")
    told.tell("task.started", 3, task="fetch")
    for number in range(20):
        told.tell("task.completed", number, task="fetch")
    told.tell("pipeline.completed")
    (run,) = told.runs
    by_start = sorted(run.children, key=lambda one: one.started_at_ns)
    assert [at for at, one in enumerate(by_start) if one.attempts == 2] == [3, 7]
    assert (len(by_start), told.correlator.state().retries) == (20, 2)


def test_four_times_as_many_take_four_times_the_calls() -> None:
    def calls(size: int) -> int:
        told, count = Told(), 0

        def called(frame: object, what: str, about: object) -> None:
            nonlocal count
            count += what == "call"

        sys.setprofile(called)
        try:
            for word in ("started", "completed"):
                for number in range(size):
                    told.tell(f"task.{word}", number, task="fetch")
        finally:
            sys.setprofile(None)
        assert told.correlator.state().phases_ended == size
        return count

    calls(1)
    assert calls(800) < 5 * calls(200)
