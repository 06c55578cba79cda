"""Third-party buses: how they subscribe, call and unsubscribe handlers, and how their instances compare."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from spanbus._attaching.attach import attach, attach_class, watching
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus.errors import InputError

Handler = Callable[..., object]
Payload = dict[str, object]

STREAM: list[tuple[str, Payload]] = [
    ("workflow.started", {"workflow_id": "nightly"}),
    ("workflow.quality.started", {"step_id": "lint"}),
    ("workflow.quality.completed", {"step_id": "lint", "success": False}),
    ("workflow.completed", {"workflow_id": "nightly"}),
]


def a_handle() -> Handle:
    return Handle(Correlator(), Reader(load("generic")), label="a bus")


def assert_all_was_understood(handle: Handle) -> None:
    state = handle.state()
    assert (state.errors, state.last_error) == (0, None)
    assert (state.events_seen, state.runs_ended, state.phases_ended, state.phase_failures) == (
        4,
        1,
        1,
        1,
    )


class Type(enum.Enum):
    WORKFLOW_STARTED = "workflow.started"
    QUALITY_STARTED = "workflow.quality.started"
    QUALITY_COMPLETED = "workflow.quality.completed"
    WORKFLOW_COMPLETED = "workflow.completed"


def as_event(event_type: object, payload: Payload) -> object:
    return SimpleNamespace(type=event_type, payload=payload)


CALLS: dict[str, Callable[[Handler, str, Payload], object]] = {
    "an event": lambda handler, kind, payload: handler(as_event(kind, payload)),
    "an event by keyword": lambda handler, kind, payload: handler(event=as_event(kind, payload)),
    "an event by another keyword": lambda handler, kind, payload: handler(
        message=as_event(kind, payload)
    ),
    "the sender, the event by keyword": lambda handler, kind, payload: handler(
        object(), event=as_event(kind, payload)
    ),
    "an event with an enumerated type": lambda handler, kind, payload: handler(
        as_event(Type(kind), payload)
    ),
    "a type and a payload": lambda handler, kind, payload: handler(kind, payload),
    "an enumerated type and a payload": lambda handler, kind, payload: handler(Type(kind), payload),
    "a type and an object": lambda handler, kind, payload: handler(
        kind, SimpleNamespace(**payload)
    ),
    "a type and keywords": lambda handler, kind, payload: handler(kind, **payload),
    "a type and a payload by keyword": lambda handler, kind, payload: handler(
        kind, payload=payload
    ),
    "all by keyword": lambda handler, kind, payload: handler(event_type=kind, payload=payload),
    "the type as event, the payload by keyword": lambda handler, kind, payload: handler(
        event=kind, payload=payload
    ),
    "a topic and an event": lambda handler, kind, payload: handler("all", as_event(kind, payload)),
    "a sink": lambda handler, kind, payload: cast("SimpleNamespace", handler).handle(
        as_event(kind, payload)
    ),
}


@pytest.mark.parametrize("way", CALLS)
def test_handlers_may_be_called_in_any_way(way: str) -> None:
    class Bus:
        def __init__(self) -> None:
            self.listener: Handler = print

        def subscribe(self, listener: Handler) -> None:
            self.listener = listener

    bus, handle = Bus(), a_handle()
    attach(bus, handle)
    for kind, payload in STREAM:
        assert CALLS[way](bus.listener, kind, payload) is True
    assert_all_was_understood(handle)


def test_unreadable_calls_are_counted_and_not_raised_into_the_bus() -> None:
    handle = a_handle()
    calls: list[tuple[tuple[object, ...], Payload]] = [
        ((), {}),
        ((None,), {}),
        ((1, 2, 3), {}),
        ((), {"a": 1, "b": 2}),
        ((object(),), {"event": None}),
    ]
    for arguments, options in calls:
        assert handle.observer(*arguments, **options) is True
    assert handle.state().errors == len(calls)


class Given:
    def __init__(self) -> None:
        self.given: list[Handler] = []


class ByKeywordOnly(Given):
    def subscribe(self, *, event_type: str | None = None, handler: Handler) -> None:
        self.given.append(handler)


class ByKeywordWithoutDefault(Given):
    def subscribe(self, *, event_type: str | None, handler: Handler) -> None:
        assert event_type is None
        self.given.append(handler)


class ByKeywordWithAStar(Given):
    def subscribe(self, *, topic: str = "*", handler: Handler) -> None:
        assert topic == "*"
        self.given.append(handler)


class WithAPatternOfItsOwn(Given):
    def subscribe(self, pattern: str = ">", handler: Handler | None = None) -> None:
        assert pattern == ">" and handler is not None
        self.given.append(handler)


class WithTheHandlerFirst(Given):
    def subscribe(
        self, listener: Handler, event_type: str | None = None, priority: int = 0
    ) -> None:
        assert event_type is None
        self.given.append(listener)


@pytest.mark.parametrize(
    "kind",
    [
        ByKeywordOnly,
        ByKeywordWithoutDefault,
        ByKeywordWithAStar,
        WithAPatternOfItsOwn,
        WithTheHandlerFirst,
    ],
)
def test_the_handler_is_passed_as_the_signature_of_subscribe_requires(kind: type[Given]) -> None:
    bus, handle = kind(), a_handle()
    attach(bus, handle)
    for event_type, payload in STREAM:
        bus.given[0](as_event(event_type, payload))
    assert len(bus.given) == 1
    assert_all_was_understood(handle)


def test_a_bus_with_weak_references_keeps_the_handler() -> None:
    class Bus:
        handler: weakref.ref[Handler]

        def subscribe(self, event_type: str | None, handler: Handler) -> None:
            self.handler = weakref.ref(handler)

    bus, handle = Bus(), a_handle()
    attach(bus, handle)
    for kind, payload in STREAM:
        handler = bus.handler()
        assert handler is not None
        handler(as_event(kind, payload))
    assert_all_was_understood(handle)


class Ending:
    def __init__(self, end: Callable[[], None]) -> None:
        self.dispose = end


RETURNS: dict[str, Callable[[list[Handler], Handler], object]] = {
    "nothing": lambda handlers, handler: None,
    "the handler": lambda handlers, handler: handler,
    "an id": lambda handlers, handler: 7,
    "a function": lambda handlers, handler: lambda: handlers.remove(handler),
    "a subscription": lambda handlers, handler: Ending(lambda: handlers.remove(handler)),
}


@pytest.mark.parametrize("returned", RETURNS)
def test_detach_unsubscribes_by_whatever_subscribe_returned(returned: str) -> None:
    class Bus:
        def __init__(self) -> None:
            self.handlers: list[Handler] = []

        def subscribe(self, handler: Handler) -> object:
            self.handlers.append(handler)
            return RETURNS[returned](self.handlers, handler)

    class Unsubscribing(Bus):
        def unsubscribe(self, token: object) -> None:
            assert token == 7 or token in self.handlers
            self.handlers.clear()

    bus = Bus() if returned == "a subscription" else Unsubscribing()
    handle = attach(bus, a_handle())
    assert len(bus.handlers) == 1
    handle.detach()
    assert bus.handlers == []
    assert handle.state().errors == 0


def test_a_detached_handle_ignores_events_of_a_bus_that_keeps_it() -> None:
    class Bus:
        handler: Handler

        def subscribe(self, handler: Handler) -> None:
            self.handler = handler

        async def unsubscribe(self, handler: Handler) -> None:
            raise AssertionError("nobody can await this")

    bus = Bus()
    handle = attach(bus, a_handle())
    for kind, payload in STREAM[:2]:
        bus.handler(as_event(kind, payload))
    handle.detach()
    assert bus.handler(as_event(*STREAM[0])) is True
    state = handle.state()
    assert (state.events_seen, state.runs_open, state.abandoned, state.errors) == (2, 0, 2, 0)


def test_a_failed_attach_leaves_no_subscription(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise AttributeError(f"{name} cannot be set")

    class Bus(metaclass=Closed):
        __slots__ = ("handlers",)

        def __init__(self) -> None:
            self.handlers: list[Handler] = []

        def subscribe(self, handler: Handler) -> None:
            self.handlers.append(handler)

        def unsubscribe(self, handler: Handler) -> None:
            self.handlers.remove(handler)

        def publish(self, event: object) -> None: ...

    bus = Bus()
    with caplog.at_level(logging.WARNING, "spanbus"), pytest.raises(InputError, match="subscribe="):
        attach(bus, a_handle(), mode="wrap")
    assert bus.handlers == []
    assert caplog.records == []


class ByType:
    """A bus with no visible way to subscribe to all types."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def subscribe(self, event_type: str, handler: Handler) -> None:
        self.asked.append(event_type)


class ByListenerAndTopic(ByType):
    def subscribe(self, listener: Handler, topic: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.asked.append(topic)


class WithAnything(ByType):
    def subscribe(self, *arguments: Handler, **options: Handler) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.asked.append(arguments)


@pytest.mark.parametrize("kind", [ByType, ByListenerAndTopic, WithAnything])
def test_a_bus_without_a_known_wildcard_is_refused_without_a_call(
    kind: type[ByType],
) -> None:
    bus = kind()
    with pytest.raises(InputError, match=r"neither None nor '\*'.*spanbus\.instrument\(None\)"):
        attach(bus, a_handle())
    assert bus.asked == []


def test_a_bus_with_a_coroutine_subscribe_is_refused_with_a_remedy() -> None:
    class Bus:
        async def subscribe(self, event_type: str | None, handler: Handler) -> None: ...

    with pytest.raises(InputError, match=r"await it yourself.*spanbus\.instrument\(None\)"):
        attach(Bus(), a_handle())


def test_without_a_bus_a_handle_is_fed_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    handle, unused = attach(None, a_handle()), attach(None, a_handle())
    for kind, payload in STREAM:
        handle.feed({"type": kind, "payload": payload})
    assert_all_was_understood(handle)
    with caplog.at_level(logging.WARNING, "spanbus"):
        unused.detach()
    assert caplog.records == []


# --- whole classes ----------------------------------------------------------------------------------------------------


class Plain:
    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def subscribe(self, event_type: str | None, handler: Handler) -> str:
        self.handlers.append(handler)
        return "token"

    def unsubscribe(self, token: str) -> None:
        self.handlers.clear()

    def publish(self, event_type: str, payload: Payload) -> None:
        for handler in self.handlers:
            handler({"type": event_type, "payload": payload})


@dataclasses.dataclass
class Unhashable:
    handlers: list[Handler] = dataclasses.field(default_factory=list[Handler])
    subscribe = Plain.subscribe  # pyright: ignore[reportAssignmentType]
    unsubscribe = Plain.unsubscribe  # pyright: ignore[reportAssignmentType]

    def publish(self, event_type: str, payload: Payload) -> None:
        for handler in self.handlers:
            handler({"type": event_type, "payload": payload})


class AllEqual(Plain):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def publish(self, event_type: str, payload: Payload) -> None:
        super().publish(event_type, payload)


class Slotted:
    __slots__ = ("handlers",)

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def subscribe(self, event_type: str | None, handler: Handler) -> None:
        self.handlers.append(handler)

    def publish(self, event_type: str, payload: Payload) -> None:
        for handler in self.handlers:
            handler({"type": event_type, "payload": payload})


@pytest.mark.parametrize("kind", [Unhashable, AllEqual, Slotted])
def test_each_instance_is_observed_once_however_instances_compare(
    kind: type[Unhashable | AllEqual | Slotted],
) -> None:
    handle = attach_class(kind, a_handle())
    try:
        for bus in (kind(), kind()):
            for event_type, payload in STREAM:
                bus.publish(event_type, payload)
            assert len(bus.handlers) <= 1
        state = handle.state()
        assert (
            state.events_seen,
            state.runs_ended,
            state.phases_ended,
            state.phase_failures,
            state.errors,
        ) == (8, 2, 2, 2, 0)
    finally:
        handle.detach()


def test_an_instance_can_be_observed_again_after_its_class_was_detached() -> None:
    bus = Plain()
    with attach_class(Plain, a_handle()) as handle:
        bus.publish(*STREAM[0])
        assert watching(bus) is handle
    assert watching(bus) is None


def test_threads_that_publish_first_at_the_same_time_subscribe_once() -> None:
    bus, barrier = Plain(), threading.Barrier(8)

    def publish() -> None:
        barrier.wait()
        bus.publish("note", {})

    with attach_class(Plain, a_handle()):
        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bus.handlers) == 1


def test_a_class_without_subscribe_is_observed_through_publish() -> None:
    class Bus:
        async def publish(
            self, event_type: str, payload: Mapping[str, object] | None = None
        ) -> str:
            return event_type

    async def run() -> None:
        for number, (kind, payload) in enumerate(STREAM):
            bus = Bus()
            asked = (
                bus.publish(event_type=kind, payload=payload)
                if number % 2
                else bus.publish(kind, payload)
            )
            assert await asked == kind

    with attach_class(Bus, a_handle()) as handle:
        anyio.run(run)
        assert_all_was_understood(handle)


def test_a_wrapped_coroutine_function_is_still_one() -> None:
    class Bus(Plain):
        async def publish(self, event_type: str, payload: Payload) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().publish(event_type, payload)

    bus = Bus()
    with attach(bus, a_handle(), mode="wrap"):
        assert inspect.iscoroutinefunction(bus.publish)
    with attach_class(Bus, a_handle()):
        assert inspect.iscoroutinefunction(Bus.publish)
        assert inspect.iscoroutinefunction(Bus().publish)
