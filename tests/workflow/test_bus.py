"""The event bus: publishing does not block, errors of handlers are contained, results are reported."""

from __future__ import annotations

import logging
import threading
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from spanbus._workflow.bus import EventDropped, WorkflowEventBus
from spanbus._workflow.events import Event, WorkflowEvent
from spanbus.errors import BusError

pytestmark = pytest.mark.anyio


async def test_observers_are_called_in_order_before_publish_returns() -> None:
    bus = WorkflowEventBus()
    seen: list[str] = []
    for name in "abc":
        bus.subscribe(None, partial(lambda name, event: seen.append(name), name))
    await bus.publish(WorkflowEvent.WORKFLOW_STARTED, {"workflow": "w"})
    assert seen == ["a", "b", "c"]


async def test_a_handler_that_raises_is_logged_once_and_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = WorkflowEventBus()
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("no")

    bus.subscribe(None, broken)
    bus.subscribe(None, seen.append)
    with caplog.at_level(logging.ERROR):
        results = await (await bus.publish("x"))
    assert [result.success for result in results] == [False, True]
    assert isinstance(results[0].error, ValueError)
    assert len(seen) == 1
    assert len(caplog.records) == 1 and caplog.records[0].exc_info


async def test_none_is_a_success_and_a_cancellation_is_not() -> None:
    bus = WorkflowEventBus()

    async def nothing(event: Event) -> None: ...

    async def cancelled(event: Event) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        raise TimeoutError("gone")

    bus.subscribe("x", nothing)
    bus.subscribe("x", cancelled)
    async with bus:
        results = {result.subscription_id: result for result in await (await bus.publish("x"))}
    assert results["sub-1"].success and not results["sub-2"].success


async def test_a_slow_subscriber_does_not_delay_publish() -> None:
    bus = WorkflowEventBus()
    go_on = anyio.Event()

    async def slow(event: Event) -> None:
        await go_on.wait()

    bus.subscribe(None, slow)
    async with bus:
        receipts = [await bus.publish("x") for _ in range(10)]
        assert not any(receipt.done() for receipt in receipts)
        go_on.set()
    assert all(receipt.done() for receipt in receipts)


async def test_one_worker_keeps_the_order_and_several_run_concurrently() -> None:
    bus = WorkflowEventBus()
    order: list[object] = []
    running = 0
    most = 0

    async def one(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        order.append(event.payload["n"])

    async def several(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1

    bus.subscribe(None, one)
    bus.subscribe(None, several, max_concurrent=3)
    async with bus:
        for number in range(20):
            await bus.publish("x", {"n": number})
    assert order == list(range(20))
    assert most == 3


async def test_a_waiting_retry_holds_no_slot() -> None:
    bus = WorkflowEventBus()
    calls: list[object] = []

    async def flaky(event: Event) -> None:
        calls.append(event.payload["n"])
        if event.payload["n"] == 0 and calls.count(0) < 3:
            raise ConnectionError("not yet")

    bus.subscribe(None, flaky, max_retries=3, retry_backoff=0.02)
    async with bus:
        first = await bus.publish("x", {"n": 0})
        await (await bus.publish("x", {"n": 1}))
        assert calls[:2] == [0, 1]
        (result,) = await first
    assert (result.success, result.attempts) == (True, 3)
    assert calls.count(0) == 3


async def test_publishing_from_inside_a_handler_does_not_deadlock() -> None:
    bus = WorkflowEventBus()
    seen: list[str] = []

    async def chain(event: Event) -> None:
        seen.append(event.event_type)
        if len(seen) < 5:
            await bus.publish(f"x{len(seen)}")

    bus.subscribe(None, chain, queue_size=1)
    async with bus:
        await bus.publish("x0")
    assert seen == ["x0", "x1", "x2", "x3", "x4"]


async def test_a_lambda_that_returns_a_coroutine_is_awaited() -> None:
    bus = WorkflowEventBus()
    seen: list[str] = []

    async def note(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(event.event_type)

    bus.subscribe(None, lambda event: note(event))
    async with bus:
        await bus.publish("a")
        (result,) = await (await bus.publish("b"))
    assert seen == ["a", "b"] and result.success


async def test_a_full_queue_drops_by_its_policy_and_counts_the_drops() -> None:
    bus = WorkflowEventBus()
    go_on = anyio.Event()
    seen: list[object] = []

    async def slow(event: Event) -> None:
        await go_on.wait()
        seen.append(event.payload["n"])

    bus.subscribe(None, slow, queue_size=2, when_full="drop_newest")
    async with bus:
        receipts = [await bus.publish("x", {"n": 0})]
        await anyio.sleep(0.01)  # the worker has taken the first
        receipts += [await bus.publish("x", {"n": number}) for number in range(1, 6)]
        go_on.set()
        results = [(await receipt)[0] for receipt in receipts]
    assert seen == [0, 1, 2]
    assert [isinstance(result.error, EventDropped) for result in results] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert bus.statistics().dropped == 3


async def test_events_from_several_threads_are_all_delivered() -> None:
    bus = WorkflowEventBus()
    observed: list[Event] = []
    awaited: list[str] = []

    async def handler(event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        awaited.append(event.event_id)

    bus.subscribe(None, observed.append)
    bus.subscribe(None, handler, max_concurrent=4)

    def publish() -> None:
        for _ in range(500):
            bus.publish_nowait("x")

    async with bus:
        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
    assert len(observed) == 2_000
    assert len(set(awaited)) == 2_000


async def test_unsubscribed_handlers_and_predicates_get_no_events() -> None:
    bus = WorkflowEventBus()
    seen: list[object] = []
    kept = bus.subscribe(
        "x",
        lambda event: seen.append(event.payload["n"]),
        predicate=lambda event: event.payload["n"] != 1,
    )
    for number in range(3):
        await bus.publish("x", {"n": number})
    await bus.publish("y", {"n": 9})
    assert bus.unsubscribe(kept) and not bus.unsubscribe(kept)
    await bus.publish("x", {"n": 3})
    assert seen == [0, 2]


async def test_awaited_receipts_fail_when_the_bus_is_cancelled() -> None:
    bus = WorkflowEventBus()

    async def stuck(event: Event) -> None:
        await anyio.sleep_forever()

    async def failing(event: Event) -> None:
        raise ValueError("again")

    first = bus.subscribe("x", stuck)
    bus.subscribe("y", failing, max_retries=1, retry_backoff=1_000)
    receipts = []
    with anyio.CancelScope() as scope:
        async with bus:
            receipts = [await bus.publish(kind) for kind in ("x", "x", "y")]
            bus.unsubscribe(first)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    with anyio.fail_after(5):
        running, queued, retried = [(await receipt)[0] for receipt in receipts]
    assert not running.success and running.attempts == 1
    assert isinstance(queued.error, EventDropped) and queued.attempts == 0
    assert not retried.success and retried.attempts == 1
    assert bus.statistics().dropped == 1 and bus.statistics().queued == 0


async def test_a_publisher_waiting_for_room_continues_when_the_bus_is_cancelled() -> None:
    bus = WorkflowEventBus()

    async def stuck(event: Event) -> None:
        await anyio.sleep_forever()

    bus.subscribe(None, stuck, queue_size=1)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def publish() -> None:
                for _ in range(3):
                    await bus.publish("x")

            with anyio.CancelScope() as scope:
                async with bus:
                    group.start_soon(publish)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()


async def test_a_bus_cannot_be_entered_twice_at_a_time() -> None:
    bus = WorkflowEventBus()
    async with bus:
        with pytest.raises(BusError, match="entered already"):
            await bus.__aenter__()
    async with bus:
        await bus.publish("x")


def test_an_observer_is_retried_in_the_running_event_loop(anyio_backend_name: str) -> None:
    bus = WorkflowEventBus()
    calls: list[str] = []

    def every_second_time(event: Event) -> None:
        calls.append(event.event_id)
        if len(calls) % 2:
            raise ValueError("odd")

    bus.subscribe(None, every_second_time, max_retries=1, retry_backoff=0)

    async def publish() -> int:
        return (await (await bus.publish("x")))[0].attempts

    assert [anyio.run(publish, backend=anyio_backend_name) for _ in range(3)] == [2, 2, 2]


async def test_events_of_many_threads_are_counted_once() -> None:
    bus = WorkflowEventBus()

    def publish() -> None:
        for _ in range(500):
            bus.publish_nowait("tick")
            bus.statistics()

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(anyio.to_thread.run_sync, publish)
    assert [bus.statistics().published, bus.statistics().published] == [2_000, 2_000]


async def test_publish_returns_the_result_of_each_called_handler() -> None:
    bus = WorkflowEventBus()

    async def queued(event: Event) -> None: ...

    def broken(event: Event) -> bool:
        raise KeyError(event.event_type)

    def fails(event: Event) -> None:
        raise ValueError(event.event_type)

    first = bus.subscribe("tick", lambda event: None)
    background = bus.subscribe("tick", queued)
    bus.subscribe("tick", lambda event: None, predicate=lambda event: False)
    wanted = bus.subscribe("tick", lambda event: None, predicate=lambda event: True)
    unclear = bus.subscribe("tick", lambda event: None, predicate=broken)
    failing = bus.subscribe("tick", fails)
    last = bus.subscribe("tick", lambda event: None)
    found = await bus.publish_nowait("tick")
    assert [(each.subscription_id, each.success) for each in found] == [
        (first, True),
        (wanted, True),
        (unclear, False),
        (failing, False),
        (last, True),
        (background, True),
    ]
    assert [type(each.error) for each in found if each.error] == [KeyError, ValueError]
    assert all(each.duration_s >= 0 for each in found)
