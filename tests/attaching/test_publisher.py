"""Events without ids are assigned to runs and phases by their publisher: by task, thread or queue."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import pytest

from spanbus._attaching.attach import Mode, attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._semantics import Level
from spanbus._workflow.bus import WorkflowEventBus

STEPS = ("lint", "build", "test")
RUNS = 100
Publish = Callable[..., Any]


class Closed:
    """A sink that records each ended phase with the workflow of its run and the workflow that published its events."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, str, set[object]]] = []
        self.runs: list[str] = []

    def opened(self, record: SpanState) -> None: ...

    def closed(self, record: SpanState) -> None:
        if record.level is Level.RUN:
            self.runs.append(record.workflow)
        elif record.level is Level.PHASE and record.parent is not None:
            told = {event.payload.get("told_by") for event in record.events}
            self.phases.append((record.name, record.parent.workflow, told))

    def late(self, note: SpanEvent) -> None:
        raise AssertionError(f"{note} came too late")

    def assert_right(self, runs: int) -> None:
        assert len(self.runs) == len(set(self.runs)) == runs
        wrong = [phase for phase in self.phases if phase[2] != {phase[1]}]
        assert (len(self.phases), wrong) == (runs * len(STEPS), [])
        assert len({(name, workflow) for name, workflow, _ in self.phases}) == len(self.phases)


class Bus:
    """A dict of handler lists, observed through ``publish``."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Any]] = defaultdict(list)

    async def publish(self, kind: str, payload: dict[str, object]) -> None:
        for handler in self.handlers[kind]:
            await handler(payload)


class Subscribed:
    """A bus that calls subscribers in the publisher's task."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.handlers.append(handler)

    async def publish(self, kind: str, payload: dict[str, object]) -> None:
        await asyncio.gather(
            *(handler({"type": kind, "payload": payload}) for handler in self.handlers)
        )


class Queued(Subscribed):
    """A bus that calls subscribers in a worker task, which the first publisher creates."""

    worker: asyncio.Task[None] | None = None

    async def publish(self, kind: str, payload: dict[str, object]) -> None:
        if self.worker is None:
            self.queue: asyncio.Queue[object] = asyncio.Queue()
            self.worker = asyncio.create_task(self.work())
        await self.queue.put({"type": kind, "payload": dict(payload)})

    async def work(self) -> None:
        while True:
            told = await self.queue.get()
            for handler in self.handlers:
                await handler(told)
            self.queue.task_done()


def watched(bus: object, mode: Mode, dialect: str = "generic") -> tuple[Handle, Closed]:
    closed = Closed()
    handle = Handle(Correlator([closed]), Reader(load(dialect)), label="a bus")
    return attach(bus, handle, mode=mode), closed


async def in_one_task(publish: Publish, number: int) -> None:
    me = f"w{number}"
    await publish("run.started", {"workflow": me})
    for step in STEPS:
        await asyncio.sleep(random.random() / 1_000)
        await publish("task.started", {"task": step, "told_by": me})
        await asyncio.sleep(random.random() / 1_000)
        await publish("task.completed", {"task": step, "told_by": me})
    await publish("run.completed", {})


async def in_tasks_of_their_own(publish: Publish, number: int) -> None:
    me = f"w{number}"

    async def work(step: str) -> None:
        await publish("task.started", {"task": step, "told_by": me})
        await asyncio.sleep(random.random() / 1_000)
        await publish("task.completed", {"task": step, "told_by": me})

    await publish("run.started", {"workflow": me})
    async with asyncio.TaskGroup() as group:
        for step in STEPS:
            group.create_task(work(step))
    await publish("run.completed", {})


async def by_tasks_that_publish(publish: Publish, number: int) -> None:
    await in_one_task(lambda *told: asyncio.create_task(publish(*told)), number)


Work = Callable[[Publish, int], Awaitable[None]]


@pytest.mark.parametrize("mode", ["auto", "wrap"])
@pytest.mark.parametrize(
    ("work", "kind", "runs"),
    [
        (in_one_task, Bus, RUNS),
        pytest.param(in_one_task, Bus, 1_000, marks=pytest.mark.slow),
        (in_one_task, Subscribed, RUNS),
        (in_tasks_of_their_own, Bus, RUNS),
        (in_tasks_of_their_own, Subscribed, RUNS),
        (by_tasks_that_publish, Bus, RUNS),
        (by_tasks_that_publish, Subscribed, RUNS),
    ],
)
def test_phases_of_interleaved_runs_without_ids_belong_to_their_run(
    work: Work, kind: type[Bus | Subscribed], runs: int, mode: Mode
) -> None:
    bus = kind()
    handle, closed = watched(bus, mode)

    async def main() -> None:
        await asyncio.gather(*(work(bus.publish, number) for number in range(runs)))

    asyncio.run(main())
    assert handle.state().errors == 0
    closed.assert_right(runs)


@pytest.mark.parametrize("work", [in_one_task, in_tasks_of_their_own])
def test_events_from_a_queue_belong_to_the_run_of_their_publisher(work: Work) -> None:
    bus = Queued()
    handle, closed = watched(bus, "auto")

    async def main() -> None:
        await asyncio.gather(*(work(bus.publish, number) for number in range(RUNS)))
        await bus.queue.join()

    asyncio.run(main())
    assert handle.state().errors == 0
    closed.assert_right(RUNS)


@pytest.mark.parametrize("mode", ["auto", "wrap"])
def test_events_of_our_own_bus_belong_to_the_run_of_their_publisher(mode: Mode) -> None:
    bus = WorkflowEventBus()
    handle, closed = watched(bus, mode)

    async def main() -> None:
        await asyncio.gather(*(in_one_task(bus.publish, number) for number in range(RUNS)))

    asyncio.run(main())
    assert handle.state().errors == 0
    closed.assert_right(RUNS)


@pytest.mark.parametrize("mode", ["auto", "wrap"])
def test_events_of_interleaved_threads_belong_to_the_run_of_their_thread(mode: Mode) -> None:
    class Plain:
        def publish(self, kind: str, payload: dict[str, object]) -> None: ...

    bus = Plain()
    handle, closed = watched(bus, mode)

    def work(number: int) -> None:
        me = f"w{number}"
        bus.publish("run.started", {"workflow": me})
        for step in STEPS:
            bus.publish("task.started", {"task": step, "told_by": me})
            bus.publish("task.completed", {"task": step, "told_by": me})
        bus.publish("run.completed", {})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))
    assert handle.state().errors == 0
    closed.assert_right(300)


def test_a_task_keeps_no_reference_to_ended_runs() -> None:
    from spanbus._attaching.publication import publications

    class Plain:
        def publish(self, kind: str, payload: dict[str, object]) -> None: ...

    def publish_many() -> None:
        bus = Plain()
        watched(bus, "auto")
        for number in range(50):
            bus.publish("run.started", {"workflow": f"w{number}"})
            bus.publish("task.started", {"task": "lint"})
            bus.publish("note", {})
            bus.publish("task.completed", {"task": "lint"})
            bus.publish("run.completed", {})
            assert len(publications.get()) <= 2

    Context().run(publish_many)  # a context without values of other tests
