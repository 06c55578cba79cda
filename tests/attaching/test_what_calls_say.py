"""Calls that hand over no event: words, keywords, the object itself; and what is read of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

import pytest
from told import Run, Watched

PHASES = [("fetch", "success", 1), ("test", "failure", 1)]
SAID = [("fetch", "started"), ("fetch", "finished"), ("test", "started"), ("test", "failed")]


class State(Enum):
    STARTED = 1
    FINISHED = 2
    FAILED = 3


class Hub:
    def subscribe(self, kind: str, handler: Callable[..., object]) -> None: ...


def words_after_a_type() -> tuple[object, Callable[[], None]]:
    class Words(Hub):
        def emit(self, *words: str) -> None: ...

    bus = Words()

    def work() -> None:
        for task, word in SAID:
            bus.emit("task", task, word)

    return bus, work


def parameters_that_name_a_task_and_its_status() -> tuple[object, Callable[[], None]]:
    class Parameters(Hub):
        def notify(self, task_name: str, status: State, message: str = "") -> None: ...

    bus = Parameters()

    def work() -> None:
        for task, word in SAID:
            bus.notify(task, State[word.upper()], "half of it")

    return bus, work


def keywords_alone() -> tuple[object, Callable[[], None]]:
    class Keywords(Hub):
        def emit(self, *, task: str, status: str, **more: object) -> None: ...

    bus = Keywords()

    def work() -> None:
        for task, word in SAID:
            bus.emit(task=task, status=word, worker=7)

    return bus, work


def keywords_after_a_type_that_says_nothing() -> tuple[object, Callable[[], None]]:
    class Keywords(Hub):
        def emit(self, signal: str, **told: object) -> None: ...

    bus = Keywords()

    def work() -> None:
        for task, word in SAID:
            bus.emit("progress", task=task, state="running" if word == "started" else word)
            if word == "started":
                bus.emit("progress", task=task, state="running", percent=50)

    return bus, work


def a_subject_whose_observers_look_at_it() -> tuple[object, Callable[[], None]]:
    class Job:
        task = ""

        def __init__(self) -> None:
            self.observers: list[object] = []
            self._state = "new"

        @property
        def state(self) -> str:
            return self._state

        def notify(self) -> None: ...

        def change(self, task: str, state: str) -> None:
            self.task, self._state = task, state
            self.notify()

    job = Job()

    def work() -> None:
        for task, word in SAID:
            job.change(task, word)

    return job, work


def a_subject_that_is_a_run() -> tuple[object, Callable[[], None]]:
    class Pipeline:
        def __init__(self) -> None:
            self.name, self.status = "nightly", "pending"
            self.current_step: str | None = None

        def notify_observers(self) -> None: ...

        def change(self, step: str | None, status: str) -> None:
            self.current_step, self.status = step, status
            self.notify_observers()

    pipeline = Pipeline()

    def work() -> None:
        pipeline.change(None, "running")
        for step, word in SAID:
            pipeline.change(step, f"step_{word}")
        pipeline.change(None, "failed")

    return pipeline, work


def records_of_a_log() -> tuple[object, Callable[[], None]]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None: ...

    handler, logger = Handler(), logging.Logger("jobs")  # noqa: LOG001
    logger.addHandler(handler)

    def work() -> None:
        logger.info("connected to the database as %s", "worker")
        logger.info("Run started")
        for task, word in SAID:
            logger.info("Task %s %s", task, word)
        logger.warning("disk is nearly full")
        logger.error("Run failed")

    return handler, work


def records_of_a_log_with_fields() -> tuple[object, Callable[[], None]]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None: ...

    handler, logger = Handler(), logging.Logger("jobs")  # noqa: LOG001
    logger.addHandler(handler)

    def work() -> None:
        for task, word in SAID:
            logger.info("task %s" % word, extra={"task": task})  # noqa: UP031, G002

    return handler, work


@pytest.mark.parametrize(
    ("make", "workflow"),
    [
        (words_after_a_type, "implicit"),
        (parameters_that_name_a_task_and_its_status, "implicit"),
        (keywords_alone, "implicit"),
        (keywords_after_a_type_that_says_nothing, "implicit"),
        (a_subject_whose_observers_look_at_it, "implicit"),
        (a_subject_that_is_a_run, "nightly"),
        (records_of_a_log, "workflow"),
        (records_of_a_log_with_fields, "implicit"),
    ],
)
def test_what_is_told_without_an_event(
    make: Callable[[], tuple[object, Callable[[], None]]], workflow: str
) -> None:
    bus, work = make()
    watched = Watched(bus)
    work()
    watched.handle.detach()
    runs: list[Run] = watched.told()
    assert [(name, result, phases) for name, _, result, phases in runs] == [
        (workflow, "failure", PHASES)
    ]
    state = watched.handle.state()
    assert (state.errors, state.retries, state.orphan_ends, state.abandoned) == (0, 0, 0, 0)


def test_the_state_of_an_object_that_says_none_is_asked_for_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Subject:
        def __init__(self) -> None:
            self.temperature = 21

        def notify(self) -> None: ...

    subject = Subject()
    watched = Watched(subject)
    subject.notify()
    subject.notify()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "telemetry of a bus met an error, the workflow is not affected: notify() is called without an event, and its object "
        "has no `status` or `state` that says what happened; say it where it happens: handle.tell('task.started', task=…)"
    )
    watched.handle.tell("task.started", task="warm up")
    watched.handle.tell("task.completed", task="warm up")
    watched.handle.detach()
    ((_, _, result, phases),) = watched.told()
    assert (result, phases) == ("success", [("warm up", "success", 1)])


def test_a_call_that_delivers_what_is_queued_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Queued:
        def __init__(self) -> None:
            self.queue: list[object] = []

        def publish(self, event: object) -> None:
            self.queue.append(event)

        def dispatch(self) -> int:
            return len(self.queue)

    bus = Queued()
    watched = Watched(bus)
    bus.publish({"type": "task.started", "task": "fetch"})
    bus.publish({"type": "task.completed", "task": "fetch"})
    assert bus.dispatch() == 2
    watched.handle.detach()
    ((_, _, result, phases),) = watched.told()
    assert (result, phases) == ("success", [("fetch", "success", 1)])
    assert (watched.handle.state().errors, caplog.records) == (0, [])
