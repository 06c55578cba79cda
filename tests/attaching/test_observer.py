"""The return value of the observer, for buses that await it, compare it or pass it to asyncio."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable

import anyio
import pytest

from spanbus._attaching.answer import AWAITABLE_TRUE
from spanbus._attaching.attach import attach, attach_class
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._workflow.bus import WorkflowEventBus

EVENT = {"type": "task.started", "payload": {"task": "lint"}}


def a_handle() -> Handle:
    return Handle(Correlator(), Reader(load("generic")), label="a bus")


class Sync:
    def __init__(self) -> None:
        self.handlers: list[Callable[..., object]] = []

    def subscribe(self, handler: Callable[..., object]) -> None:
        self.handlers.append(handler)

    def publish(self, event: object) -> None:
        for handler in self.handlers:
            handler(event)


class Async(Sync):
    async def publish(self, event: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for handler in self.handlers:
            handler(event)


class Scheduling(Sync):
    def publish(self, event: object) -> None:
        for handler in self.handlers:
            asyncio.ensure_future(handler(event))  # type: ignore[arg-type]  # noqa: RUF006 (a bus that forgets)


class Sinks(Sync):
    def subscribe(self, sink: object) -> None:  # type: ignore[override]
        self.handlers.append(sink.handle)  # type: ignore[attr-defined]

    async def publish(self, event: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for handler in self.handlers:
            await handler(event)  # type: ignore[misc]


async def test_the_result_can_be_awaited_repeatedly() -> None:
    assert [await AWAITABLE_TRUE, await AWAITABLE_TRUE, await AWAITABLE_TRUE] == [True, True, True]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_functions_accept_the_result_as_a_coroutine(anyio_backend: str) -> None:
    del anyio_backend
    assert await asyncio.gather(AWAITABLE_TRUE, AWAITABLE_TRUE) == [True, True]
    assert await asyncio.create_task(AWAITABLE_TRUE) is True
    assert await asyncio.ensure_future(AWAITABLE_TRUE) is True
    assert await asyncio.wait_for(AWAITABLE_TRUE, 60) is True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(AWAITABLE_TRUE)
    assert task.result() is True
    assert [await one for one in asyncio.as_completed([AWAITABLE_TRUE])] == [True]
    assert inspect.isawaitable(AWAITABLE_TRUE)
    assert asyncio.iscoroutine(AWAITABLE_TRUE)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_task_groups_of_asyncio_and_trio_start_the_observer(backend: str) -> None:
    handle = a_handle()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(handle.observer, EVENT)

    anyio.run(main, backend=backend)
    assert handle.state().events_seen == 1


def test_the_result_is_true_and_serializes_as_1() -> None:
    assert AWAITABLE_TRUE
    assert AWAITABLE_TRUE == True  # noqa: E712 - as buses compare it
    assert json.dumps([AWAITABLE_TRUE]) == "[1]"
    assert repr(AWAITABLE_TRUE) == "True"


@pytest.mark.parametrize("kind", [Async, Scheduling, Sinks])
def test_the_result_is_awaitable_on_a_bus_that_may_await_it(kind: type[Sync]) -> None:
    bus, handle = kind(), a_handle()
    attach(bus, handle)
    assert bus.handlers[0](EVENT) is AWAITABLE_TRUE
    assert handle.handle(EVENT) is AWAITABLE_TRUE


def test_the_result_is_plain_true_on_a_synchronous_bus() -> None:
    bus, handle = Sync(), a_handle()
    attach(bus, handle)

    async def main() -> object:
        return bus.handlers[0](EVENT)

    assert bus.handlers[0](EVENT) is True
    assert asyncio.run(main()) is True


def test_the_result_is_plain_true_on_our_own_bus() -> None:
    handle = a_handle()
    attach(WorkflowEventBus(), handle)
    assert handle.observer(EVENT) is True


def test_without_a_bus_the_result_is_awaitable_inside_an_event_loop() -> None:
    handle = attach(None, a_handle())

    async def main() -> object:
        return handle.observer(EVENT)

    assert handle.observer(EVENT) is True
    assert asyncio.run(main()) is AWAITABLE_TRUE
    assert anyio.run(main, backend="trio") is AWAITABLE_TRUE


def test_an_instance_of_an_instrumented_class_can_await_the_result() -> None:
    class Bus(Sync):
        async def publish(self, event: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            for handler in self.handlers:
                assert await handler(event) is True  # type: ignore[misc]

    with attach_class(Bus, a_handle()) as handle:
        asyncio.run(Bus().publish(EVENT))
        assert handle.state().events_seen == 1
