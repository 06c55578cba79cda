"""Buses as people write them. The same job runs on each: ``fetch`` fails once, ``build`` succeeds, ``test`` fails.

This module is also a program: it runs the job on each named shape and prints the result as JSON. Each shape has a handler of
the application beside the observer, and that handler must have been called with every event.
"""

# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import json
import os
import queue
import sys
import threading
import types
import warnings
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar

JOB: list[tuple[str, dict[str, Any]]] = [
    ("run.started", {"run_id": "r1", "workflow": "nightly"}),
    ("task.started", {"task": "fetch"}),
    ("task.failed", {"task": "fetch", "error": "ConnectionError: refused"}),
    ("task.started", {"task": "fetch"}),
    ("task.completed", {"task": "fetch"}),
    ("task.started", {"task": "build"}),
    ("task.completed", {"task": "build"}),
    ("task.started", {"task": "test"}),
    ("task.failed", {"task": "test", "error": "AssertionError: no"}),
    ("run.failed", {"run_id": "r1", "error": "AssertionError: no"}),
]
SHAPES: dict[str, Callable[[], Shape]] = {}


class Shape:
    """A bus, the application's way to publish on it, and the calls of the application's own handler."""

    def __init__(
        self,
        bus: object,
        publish: Callable[[str, dict[str, Any]], Any],
        heard: list[object],
        *,
        settle: Callable[[], Any] | None = None,
        options: dict[str, Any] | None = None,
        events: int = len(JOB),
    ) -> None:
        self.bus, self.publish, self.heard = bus, publish, heard
        self.settle = settle
        self.options = options or {}
        self.events = events


def shape(make: Callable[[], Shape]) -> Callable[[], Shape]:
    SHAPES[make.__name__] = make
    return make


def event(kind: str, payload: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(type=kind, payload=payload)


class ByType:
    """A dict of handler lists, as most buses have, without a way to subscribe to all types."""

    def __init__(self) -> None:
        self.handlers: dict[Any, list[Any]] = defaultdict(list)
        self.heard: list[object] = []
        for kind in {kind for kind, _ in JOB}:
            self.handlers[kind].append(self.note)

    def subscribe(self, event_type: str, handler: Callable[..., Any]) -> None:
        self.handlers[event_type].append(handler)

    def note(self, *arguments: object, **options: object) -> Any:
        self.heard.append(arguments or options)


class ForAll:
    """One list of handlers."""

    def __init__(self) -> None:
        self.handlers: list[Any] = [self.note]
        self.heard: list[object] = []

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.handlers.append(handler)

    def note(self, *arguments: object, **options: object) -> Any:
        self.heard.append(arguments or options)


class ForAllAwaited(ForAll):
    async def note(self, *arguments: object, **options: object) -> Any:
        self.heard.append(arguments or options)


def usual(bus: Any, **more: Any) -> Shape:
    return Shape(bus, lambda *told: bus.publish(*told), bus.heard, **more)


# --- asynchronous -----------------------------------------------------------------------------------------------------


@shape
def awaits_each_handler() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                await handler(event(kind, payload))

    return usual(Bus())


@shape
def awaits_each_handler_by_type() -> Shape:
    class Bus(ByType):
        async def note(self, *arguments: object, **options: object) -> None:
            self.heard.append(arguments)

        async def publish(self, type: str, payload: dict[str, Any]) -> None:  # noqa: A002
            for handler in self.handlers[type]:
                await handler(event(type, payload))

    return usual(Bus())


@shape
def gathers() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            await asyncio.gather(*(handler(event(kind, payload)) for handler in self.handlers))

    return usual(Bus())


@shape
def makes_tasks() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            tasks = [
                asyncio.create_task(handler(event(kind, payload))) for handler in self.handlers
            ]
            await asyncio.wait(tasks)

    return usual(Bus())


@shape
def makes_tasks_from_a_plain_function() -> Shape:
    class Bus(ForAllAwaited):
        def __init__(self) -> None:
            super().__init__()
            self.tasks: set[Any] = set()

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                self.tasks.add(asyncio.create_task(handler(event(kind, payload))))

        async def settle(self) -> None:
            await asyncio.wait(self.tasks)

    bus = Bus()
    return usual(bus, settle=bus.settle)


@shape
def makes_a_task_group() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            async with asyncio.TaskGroup() as group:
                for handler in self.handlers:
                    group.create_task(handler(event(kind, payload)))

    return usual(Bus())


@shape
def starts_handlers_in_a_task_group_of_anyio() -> Shape:
    import anyio

    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            async with anyio.create_task_group() as group:
                for handler in self.handlers:
                    group.start_soon(handler, event(kind, payload))

    return usual(Bus())


@shape
def waits_for_each_handler_with_a_limit() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                await asyncio.wait_for(handler(event(kind, payload)), 60)

    return usual(Bus())


@shape
def awaits_what_is_awaitable_and_wants_a_result() -> Shape:
    class Bus:
        """The reference engine's shape."""

        def __init__(self) -> None:
            self.handlers: list[Any] = []
            self.heard: list[object] = []
            self.subscribe(None, self.note)

        async def note(self, event: object) -> bool:
            self.heard.append(event)
            return True

        def subscribe(
            self,
            event_type: str | None = None,
            handler: Callable[..., Any] | None = None,
            *,
            predicate: object = None,
            max_concurrent: int | None = None,
            description: str | None = None,
        ) -> str:
            self.handlers.append(handler)
            return str(len(self.handlers))

        def unsubscribe(self, subscription_id: str) -> bool:
            return bool(subscription_id)

        async def publish(
            self, event_type: str, payload: dict[str, Any] | None = None, *, source: str = "x"
        ) -> None:
            told = SimpleNamespace(
                metadata=SimpleNamespace(event_type=event_type, event_id=None), payload=payload
            )
            for handler in self.handlers:
                result = handler(told)
                if inspect.isawaitable(result):
                    result = await result
                if result is None:
                    raise RuntimeError("a handler failed")

    return usual(Bus())


@shape
def takes_coroutine_functions_only() -> Shape:
    class Bus(ForAllAwaited):
        def subscribe(self, handler: Callable[[object], Awaitable[None]]) -> None:
            if not inspect.iscoroutinefunction(handler):
                raise TypeError("a handler must be a coroutine function")
            self.handlers.append(handler)

        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                assert inspect.iscoroutinefunction(handler)
                await handler(event(kind, payload))

    return usual(Bus())


@shape
def takes_coroutine_functions_only_and_does_not_say_so() -> Shape:
    class Bus(ForAllAwaited):
        def subscribe(self, handler: Callable[..., Any]) -> None:
            if not inspect.iscoroutinefunction(handler):
                raise TypeError("a handler must be a coroutine function")
            self.handlers.append(handler)

        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                await handler(event(kind, payload))

    return usual(Bus())


@shape
def sinks_that_are_awaited() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.sinks: list[Any] = [self]

        async def handle(self, event: object) -> None:
            self.heard.append(event)

        def subscribe(self, sink: object) -> None:
            self.sinks.append(sink)

        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for sink in self.sinks:
                await sink.handle(event(kind, payload))

    return usual(Bus())


@shape
def a_queue_and_a_worker_task() -> Shape:
    class Bus(ForAllAwaited):
        queue: asyncio.Queue[Any]
        worker: asyncio.Task[None]

        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            if not hasattr(self, "worker"):
                self.queue = asyncio.Queue()
                self.worker = asyncio.create_task(self.work())
            await self.queue.put(event(kind, payload))

        async def work(self) -> None:
            while True:
                told = await self.queue.get()
                for handler in self.handlers:
                    await handler(told)
                self.queue.task_done()

        async def settle(self) -> None:
            await self.queue.join()
            self.worker.cancel()

    bus = Bus()
    return usual(bus, settle=bus.settle)


@shape
def handlers_in_a_thread_pool() -> Shape:
    class Bus(ForAll):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            loop = asyncio.get_running_loop()
            for handler in self.handlers:
                await loop.run_in_executor(None, handler, event(kind, payload))

    return usual(Bus())


@shape
def an_async_generator_of_results() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, kind: str, payload: dict[str, Any]) -> Any:
            for handler in self.handlers:
                yield await handler(event(kind, payload))

    bus = Bus()

    async def publish(kind: str, payload: dict[str, Any]) -> None:
        async for _ in bus.publish(kind, payload):  # pyright: ignore[reportGeneralTypeIssues]
            pass

    return Shape(bus, publish, bus.heard)


@shape
def publish_async_beside_publish() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(event(kind, payload))

        async def publish_async(self, kind: str, payload: dict[str, Any]) -> None:
            self.publish(kind, payload)

    bus = Bus()
    both = itertools.cycle((bus.publish_async, lambda *told: bus.publish(*told)))

    async def publish(kind: str, payload: dict[str, Any]) -> None:
        result = next(both)
        done = result(kind, payload)
        if inspect.isawaitable(done):
            await done

    return Shape(bus, publish, bus.heard)


@shape
def an_attribute_that_is_a_partial_coroutine_function() -> Shape:
    class Bus(ByType):
        def __init__(self) -> None:
            super().__init__()
            self.publish = functools.partial(self.tell, "somewhere")

        async def tell(self, where: str, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[kind]:
                handler(event(kind, payload))

    bus = Bus()
    return Shape(bus, lambda *told: bus.publish(*told), bus.heard)


@shape
def a_plain_function_that_returns_a_coroutine() -> Shape:
    class Bus(ForAllAwaited):
        def publish(self, kind: str, payload: dict[str, Any]) -> Any:
            return self.tell(event(kind, payload))

        async def tell(self, told: object) -> None:
            for handler in self.handlers:
                await handler(told)

    return usual(Bus())


# --- plain ------------------------------------------------------------------------------------------------------------


@shape
def a_dict_of_lists_by_type() -> Shape:
    class Bus(ByType):
        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                handler(event(event_type, payload))

    return usual(Bus())


@shape
def a_dict_of_lists_by_class() -> Shape:
    @dataclass
    class Event:
        type: str
        payload: dict[str, Any]

    class Bus(ByType):
        def subscribe(self, event_class: type, handler: Callable[..., Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.handlers[event_class].append(handler)

        def publish(self, event: object) -> None:
            for handler in self.handlers[type(event)]:
                handler(event)

    bus = Bus()
    bus.subscribe(Event, bus.note)
    return Shape(bus, lambda kind, payload: bus.publish(Event(kind, payload)), bus.heard)


@shape
def takes_none_and_dies_of_it_later() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.subscriptions: list[tuple[str, Any]] = [("*", self.note)]
            self.heard: list[object] = []

        def note(self, told: object) -> None:
            self.heard.append(told)

        def subscribe(self, event_type: str, handler: Callable[..., Any]) -> None:
            self.subscriptions.append((event_type, handler))

        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            for pattern, handler in self.subscriptions:
                if pattern.endswith("*") or pattern == event_type:
                    handler(event(event_type, payload))

    return usual(Bus())


@shape
def wants_true_and_nothing_else() -> Shape:
    class Bus(ForAll):
        def note(self, *arguments: object, **options: object) -> bool:
            self.heard.append(arguments)
            return True

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                if handler(event(kind, payload)) is not True:
                    raise RuntimeError("a handler failed")

    return usual(Bus())


@shape
def on_and_emit() -> Shape:
    class Bus(ByType):
        subscribe = None  # type: ignore[assignment]

        def on(self, name: str, handler: Callable[..., Any]) -> None:
            self.handlers[name].append(handler)

        def emit(self, name: str, *arguments: object, **options: object) -> None:
            for handler in self.handlers[name]:
                handler(*arguments, **options)

    bus = Bus()
    return Shape(bus, bus_emit(bus), bus.heard)


def bus_emit(bus: Any) -> Callable[[str, dict[str, Any]], Any]:
    return lambda kind, payload: bus.emit(kind, **payload)


@shape
def on_and_emit_with_the_name_alone() -> Shape:
    class Bus(ByType):
        def emit(self, name: str, *arguments: object) -> None:
            for handler in self.handlers[name]:
                handler(*arguments)

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        bus.emit(kind, payload["task"]) if "task" in payload else bus.emit(kind, payload)

    return Shape(bus, publish, bus.heard)


@shape
def on_any() -> Shape:
    class Bus(ForAll):
        subscribe = None  # type: ignore[assignment]

        def on_any(self, callback: Callable[..., Any]) -> None:
            self.handlers.append(callback)

        def process(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(kind, payload)

    bus = Bus()
    return Shape(bus, bus.process, bus.heard)


@shape
def a_listener_with_a_mask() -> Shape:
    class Scheduler(ForAll):
        subscribe = None  # type: ignore[assignment]

        def add_listener(self, callback: Callable[..., Any], mask: int = 0xFFFF) -> None:
            assert mask == 0xFFFF
            self.handlers.append(callback)

        def work(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(event(kind, payload))

    bus = Scheduler()
    return Shape(bus, bus.work, bus.heard)


@shape
def a_subject() -> Shape:
    class Subject:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.observers: list[Any] = [self.heard.append]

        def subscribe(
            self,
            on_next: Callable[..., Any] | None = None,
            on_error: Callable[..., Any] | None = None,
            on_completed: Callable[..., Any] | None = None,
        ) -> object:
            assert on_error is not None and on_completed is not None
            self.observers.append(on_next)
            return SimpleNamespace(dispose=lambda: self.observers.remove(on_next))

        def on_next(self, value: object) -> None:
            for observer in self.observers:
                observer(value)

    bus = Subject()
    return Shape(bus, lambda kind, payload: bus.on_next(event(kind, payload)), bus.heard)


@shape
def a_listener_and_a_topic() -> Shape:
    class Bus(ByType):
        def subscribe(self, listener: Callable[..., Any], topicName: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.handlers[topicName].append(listener)

        def sendMessage(self, topicName: str, **data: object) -> None:
            for handler in self.handlers[topicName]:
                handler(**data)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.sendMessage(kind, **payload), bus.heard)


@shape
def publish_that_calls_emit() -> Shape:
    class Bus(ByType):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            self.emit(event(kind, payload))

        def emit(self, told: Any) -> None:
            for handler in self.handlers[told.type]:
                handler(told)

    return usual(Bus())


@shape
def some_by_publish_some_by_emit() -> Shape:
    class Bus(ByType):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[kind]:
                handler(event(kind, payload))

        def emit(self, kind: str, payload: dict[str, Any]) -> None:
            self.publish(kind, payload)

    bus = Bus()
    ways = itertools.cycle((lambda *told: bus.publish(*told), lambda *told: bus.emit(*told)))
    return Shape(bus, lambda *told: next(ways)(*told), bus.heard)


@shape
def nowait_and_batches() -> Shape:
    class Bus(ByType):
        def publish_nowait(self, told: Any) -> None:
            for handler in self.handlers[told.type]:
                handler(told)

        def publish_batch(self, events: list[Any]) -> None:
            for told in events:
                self.publish_nowait(told)

        def publish_many(self, *events: Any) -> None:
            for told in events:
                for handler in self.handlers[told.type]:
                    handler(told)

    bus = Bus()
    ways = itertools.cycle(
        (
            lambda told: bus.publish_nowait(told),
            lambda told: bus.publish_batch([told]),
            lambda told: bus.publish_many(told),
        )
    )
    return Shape(bus, lambda kind, payload: next(ways)(event(kind, payload)), bus.heard)


@shape
def a_handler_that_publishes() -> Shape:
    """The next event of the job is published by a handler of the one before."""

    class Bus(ByType):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[kind]:
                handler(event(kind, payload))

    bus = Bus()
    left = iter(JOB)

    def chain(told: object) -> None:
        following = next(left, None)
        if following is not None:
            bus.publish(*following)

    for handlers in bus.handlers.values():
        handlers.append(chain)
    started: list[bool] = []

    def publish(kind: str, payload: dict[str, Any]) -> None:
        if not started:
            started.append(True)
            next(left)
            bus.publish(kind, payload)

    return Shape(bus, publish, bus.heard)


@shape
def slots() -> Shape:
    class Bus:
        __slots__ = ("handlers", "heard")

        def __init__(self) -> None:
            self.heard: list[object] = []
            self.handlers: dict[str, list[Any]] = defaultdict(lambda: [self.heard.append])

        def subscribe(self, event_type: str, handler: Callable[..., Any]) -> None:
            self.handlers[event_type].append(handler)

        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                handler(event(event_type, payload))

    return usual(Bus())


@shape
def a_frozen_instance() -> Shape:
    @dataclass(frozen=True)
    class Bus:
        handlers: dict[str, list[Any]] = field(default_factory=dict)
        heard: list[object] = field(default_factory=list)

        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            self.heard.append(event_type)
            for handler in self.handlers.get(event_type, ()):
                handler(payload)

    return usual(Bus())


@shape
def a_dict() -> Shape:
    class Bus(dict[str, list[Any]]):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[object] = []

        def __missing__(self, kind: str) -> list[Any]:
            return self.setdefault(kind, [self.heard.append])

        def subscribe(self, event_type: str, handler: Callable[..., Any]) -> None:
            self[event_type].append(handler)

        def fire(self, event_type: str, payload: dict[str, Any]) -> None:
            for handler in self[event_type]:
                handler(event(event_type, payload))

    bus = Bus()
    return Shape(bus, lambda *told: bus.fire(*told), bus.heard)


@shape
def publish_is_a_property() -> Shape:
    class Bus(ByType):
        @property
        def publish(self) -> Callable[[str, dict[str, Any]], None]:
            return self._publish

        def _publish(self, event_type: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                handler(event(event_type, payload))

    bus = Bus()
    return Shape(bus, lambda *told: bus.publish(*told), bus.heard)


class Static:
    heard: ClassVar[list[object]] = []

    @staticmethod
    def publish(event_type: str, payload: dict[str, Any]) -> None:
        Static.heard.append((event_type, payload))


@shape
def a_static_method_called_on_the_class() -> Shape:
    return Shape(Static(), lambda *told: Static.publish(*told), Static.heard)


@shape
def a_class_with_class_methods() -> Shape:
    class Events:
        heard: ClassVar[list[object]] = []

        @classmethod
        def emit(cls, event_type: str, payload: dict[str, Any]) -> None:
            cls.heard.append((event_type, payload))

    return Shape(Events, lambda *told: Events.emit(*told), Events.heard)


@shape
def a_proxy() -> Shape:
    class Bus(ByType):
        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                handler(event(event_type, payload))

    class Proxy:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    bus = Proxy(Bus())
    return Shape(bus, lambda *told: bus.publish(*told), bus.heard)


@shape
def magic_attributes_beside_publish() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)

            def method(*arguments: object, **options: object) -> None:
                raise RuntimeError(f"{name} was called")

            return method

        def publish(self, event_type: str, payload: dict[str, Any]) -> None:
            self.heard.append((event_type, payload))

    bus = Bus()
    return Shape(bus, lambda *told: bus.publish(*told), bus.heard)


@shape
def a_generator_that_drives_its_handlers() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> Iterator[object]:
            for handler in self.handlers:
                yield handler(event(kind, payload))

    bus = Bus()
    return Shape(bus, lambda *told: list(bus.publish(*told)), bus.heard)


@shape
def weakly_held_handlers() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.own = lambda told: self.heard.append(told)
            self.handlers: weakref.WeakSet[Any] = weakref.WeakSet([self.own])

        def subscribe(self, handler: Callable[..., Any]) -> None:
            self.handlers.add(handler)

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(event(kind, payload))

    return usual(Bus())


@shape
def a_queue_and_a_worker_thread() -> Shape:
    class Bus(ForAll):
        def __init__(self) -> None:
            super().__init__()
            self.queue: queue.Queue[Any] = queue.Queue()
            threading.Thread(target=self.work, daemon=True).start()

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            self.queue.put(event(kind, payload))

        def work(self) -> None:
            while True:
                told = self.queue.get()
                for handler in self.handlers:
                    handler(told)
                self.queue.task_done()

    bus = Bus()
    return usual(bus, settle=bus.queue.join)


@shape
def a_module() -> Shape:
    module = types.ModuleType("program_events")
    exec(
        "heard = []\ndef publish(event_type, payload):\n    heard.append((event_type, payload))\n",
        module.__dict__,
    )
    return Shape(module, lambda *told: module.publish(*told), module.heard)


@shape
def handlers_by_keyword() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(event_type=kind, payload=payload)

    return usual(Bus())


@shape
def a_source_before_the_type() -> Shape:
    class Bus(ByType):
        def dispatch(self, source: str, event_type: str, data: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                handler(source, data)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.dispatch("here", kind, payload), bus.heard)


@shape
def enumerated_types() -> Shape:
    Kind = Enum("Kind", {kind.replace(".", "_").upper(): kind for kind, _ in JOB})  # type: ignore[misc]

    class Bus(ByType):
        def notify(self, kind: Any, payload: dict[str, Any]) -> None:
            for handler in self.handlers[kind.value]:
                handler(kind, payload)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.notify(Kind(kind), payload), bus.heard)  # pyright: ignore[reportCallIssue]


@shape
def raise_event_with_keywords() -> Shape:
    class Bus(ByType):
        def raise_event(self, name: str, **arguments: object) -> None:
            for handler in self.handlers[name]:
                handler(name, **arguments)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.raise_event(kind, **payload), bus.heard)


@shape
def cloud_events() -> Shape:
    class Bus(ByType):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def send(self, message: dict[str, Any]) -> None:
            for handler in self.handlers[message["type"]]:
                handler(message)

    bus = Bus()
    number = itertools.count()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        bus.send({"specversion": "1.0", "id": f"e{next(number)}", "type": kind, "data": payload})

    return Shape(bus, publish, bus.heard)


@shape
def json_text_on_a_channel() -> Shape:
    class Bus(ByType):
        def publish(self, channel: str, message: str) -> None:
            for handler in self.handlers[channel]:
                handler(channel, message)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(kind, json.dumps(payload)), bus.heard)


@shape
def json_bytes_with_everything() -> Shape:
    class Bus(ForAll):
        def publish(self, channel: str, message: bytes) -> None:
            for handler in self.handlers:
                handler(message)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: bus.publish(
            "work", json.dumps({"type": kind, "payload": payload}).encode()
        ),
        bus.heard,
    )


@shape
def a_pair() -> Shape:
    class Bus(ForAll):
        def send(self, item: tuple[str, dict[str, Any]]) -> None:
            for handler in self.handlers:
                handler(item)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.send((kind, payload)), bus.heard)


@shape
def topic_and_message_by_keyword() -> Shape:
    class Bus(ForAllAwaited):
        async def publish(self, *, topic: str, message: dict[str, Any]) -> None:
            await asyncio.gather(
                *(handler(topic=topic, message=message) for handler in self.handlers)
            )

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(topic=kind, message=payload), bus.heard)


@shape
def classes_that_end_in_event() -> Shape:
    class Bus(ByType):
        def publish(self, told: object) -> None:
            for handler in self.handlers["run.started"]:
                handler(told)

    def publish(kind: str, payload: dict[str, Any]) -> None:
        name = "".join(word.title() for word in kind.split("."))
        bus.publish(make_dataclass(f"{name}Event", list(payload))(**payload))

    bus = Bus()
    return Shape(bus, publish, bus.heard)


@shape
def rows() -> Shape:
    """A time, a type and a payload."""

    class Bus(ForAll):
        def publish(self, row: tuple[float, str, dict[str, Any]]) -> None:
            for handler in self.handlers:
                handler(row)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish((1.5, kind, payload)), bus.heard)


@shape
def bytes_on_topics() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def send(self, topic: bytes, body: bytes) -> None:
            self.heard.append(topic)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: bus.send(kind.encode(), json.dumps(payload).encode()),
        bus.heard,
    )


@shape
def events_with_attributes_in_messages() -> Shape:
    class Bus(ForAll):
        def publish(self, message: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(message)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: bus.publish(
            {"meta": {"version": 1}, "event": {"type": kind, "attributes": payload}}
        ),
        bus.heard,
    )


@shape
def a_subject_and_methods_that_are_weakly_held() -> Shape:
    class Observer:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def update(self, subject: str, event: object) -> None:
            self.heard.append(event)

    class Bus:
        def __init__(self) -> None:
            self.observers: list[weakref.WeakMethod[Any]] = []

        def attach(self, observer: Observer) -> None:
            self.observers.append(weakref.WeakMethod(observer.update))

        def notify_all(self, subject: str, event: object) -> None:
            for reference in self.observers:
                update = reference()
                assert update is not None
                update(subject, event)

    bus, observer = Bus(), Observer()
    bus.attach(observer)
    return Shape(
        bus,
        lambda kind, payload: bus.notify_all("engine", {"name": kind, **payload}),
        observer.heard,
        settle=lambda: observer.heard,  # keeps it alive
    )


@shape
def names_of_one_letter() -> Shape:
    class Bus(ForAll):
        def emit(self, e: str, d: dict[str, Any] | None = None, *a: object, **k: object) -> None:
            for handler in self.handlers:
                handler(e, d)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.emit(kind, d=payload), bus.heard)


@shape
def handlers_get_what_they_name() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, data: dict[str, Any]) -> None:
            given = {"kind": kind, "data": data, "bus": self}
            for handler in self.handlers:
                named = inspect.signature(handler).parameters
                handler(**{name: given[name] for name in named if name in given})

    return usual(Bus())


@shape
def a_type_in_the_headers() -> Shape:
    class Exchange:
        def __init__(self) -> None:
            self.heard: list[object] = []

        async def publish(
            self, body: bytes, *, routing_key: str = "", headers: dict[str, str] | None = None
        ) -> None:
            self.heard.append(headers)

    bus = Exchange()
    return Shape(
        bus,
        lambda kind, payload: bus.publish(
            json.dumps(payload).encode(), routing_key="jobs", headers={"event-type": kind}
        ),
        bus.heard,
    )


@shape
def on_any_without_the_type() -> Shape:
    """The shape of pymitter: handlers get the arguments without the type."""

    class Bus(ForAll):
        def on_any(self, func: Callable[..., Any]) -> None:
            self.handlers.append(func)

        def emit(self, event: str, *args: object, **kwargs: object) -> None:
            for handler in self.handlers:
                handler(*args, **kwargs)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.emit(kind, **payload), bus.heard)


@shape
def keys_of_words() -> Shape:
    class Bus(ForAll):
        def publish(self, key: tuple[str, ...], message: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(key, message)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: bus.publish(("shop", *kind.split(".")), payload),
        bus.heard,
    )


@shape
def properties_that_raise() -> Shape:
    class Event:
        def __init__(self, kind: str, payload: dict[str, Any]) -> None:
            self.type, self.payload = kind, payload

        def fails(self) -> object:
            raise RuntimeError("the session is closed")

        data = metadata = event_type = event_id = topic = timestamp = property(fails)

    class Bus(ForAll):
        def publish(self, topic: str, event: object) -> None:
            for handler in self.handlers:
                handler(topic, event)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(kind, Event(kind, payload)), bus.heard)


@shape
def parameters_of_their_own() -> Shape:
    class Bus(ByType):
        def trigger(
            self,
            event_type: str,
            task: str | None = None,
            run_id: str | None = None,
            error: str | None = None,
            workflow: str | None = None,
        ) -> None:
            for handler in self.handlers[event_type]:
                handler(event_type, task)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: (
            bus.trigger(kind, payload["task"], error=payload.get("error"))
            if "task" in payload
            else bus.trigger(kind, **payload)
        ),
        bus.heard,
    )


# --- signals ----------------------------------------------------------------------------------------------------------


class Signal:
    """The shape of blinker: plain receivers break ``send_async``, coroutine functions break ``send``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: list[Any] = []

    def connect(
        self, receiver: Callable[..., Any], sender: object = None, weak: bool = True
    ) -> None:
        self.receivers.append(weakref.ref(receiver) if weak else lambda: receiver)

    def send(self, sender: object = None, **options: object) -> None:
        for known in self.receivers:
            receiver = known()
            if receiver is not None:
                receiver(sender, **options)


class BoundSignal:
    """The shape of PyQt: its methods cannot be replaced."""

    __slots__ = ("name", "receivers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: list[Any] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        self.receivers.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        self.receivers.remove(slot)

    def emit(self, *arguments: object) -> None:
        for receiver in self.receivers:
            receiver(*arguments)


def sending(signals: dict[str, Any], heard: list[object]) -> Callable[[str, dict[str, Any]], None]:
    def publish(kind: str, payload: dict[str, Any]) -> None:
        signals[kind].send("the program", **payload)
        heard.append(kind)

    return publish


@shape
def a_mapping_of_signals() -> Shape:
    signals = {kind: Signal(kind) for kind, _ in JOB}
    heard: list[object] = []
    return Shape(signals, sending(signals, heard), heard)


@shape
def a_namespace_of_signals() -> Shape:
    signals = {kind: Signal(kind) for kind, _ in JOB}
    heard: list[object] = []
    bus = SimpleNamespace(**{kind.replace(".", "_"): one for kind, one in signals.items()})
    return Shape(bus, sending(signals, heard), heard)


@shape
def bound_signals() -> Shape:
    signals = {kind: BoundSignal(kind) for kind, _ in JOB}
    heard: list[object] = []

    def publish(kind: str, payload: dict[str, Any]) -> None:
        signals[kind].emit(payload)
        heard.append(kind)

    return Shape(signals, publish, heard)


# --- explicit ways ----------------------------------------------------------------------------------------------------


@shape
def subscribed_by_hand() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.handlers: list[Any] = [lambda kind, payload: self.heard.append(kind)]

        def hook_up(self, pattern: str, handler: Callable[..., Any]) -> Callable[[], None]:
            assert pattern == "%"
            self.handlers.append(handler)
            return lambda: self.handlers.remove(handler)

        def go(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(kind, payload)

    bus = Bus()
    options = {"subscribe": lambda observer: bus.hook_up("%", observer)}
    return Shape(bus, bus.go, bus.heard, options=options)


# --- the program ------------------------------------------------------------------------------------------------------


def run(name: str, mode: str) -> dict[str, Any]:
    """Run the job on a shape, and return the counts, the spans' parents and the calls of the application's handler."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    import spanbus

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    one = SHAPES[name]()
    options = {**one.options, "mode": mode}
    handle = spanbus.instrument(one.bus, **options)

    async def main() -> None:
        for kind, payload in JOB:
            done = one.publish(kind, dict(payload))
            if inspect.isawaitable(done):
                await done
        if one.settle is not None:
            done = one.settle()
            if inspect.isawaitable(done):
                await done

    asyncio.run(main())
    handle.detach()
    state = handle.state()
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    return {
        "heard": len(one.heard),
        "seen": state.events_seen,
        "errors": [state.errors, state.last_error],
        "runs": [state.runs_ended, state.run_failures],
        "phases": [state.phases_ended, state.phase_failures],
        "retries": state.retries,
        "oddities": [state.orphan_ends, state.unmatched_ends, state.abandoned],
        "parents": sorted(
            f"{span.name} < {names.get(span.parent.span_id) if span.parent else None}"
            for span in spans
        ),
    }


def main() -> None:
    """Fork a process for each shape, so that imports are done once."""
    from importlib import import_module

    from prepared import warm

    for module in ("_attaching.attach", "_attaching.streams", "_runtime", "_wiring"):
        import_module(f"spanbus.{module}")
    import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    settings = import_module("spanbus._settings").load_settings()
    import_module("spanbus._wiring.preparing").prepare(settings, os.environ)
    warm()
    gc.collect()
    gc.freeze()
    for shape_name in sys.argv[2:]:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps({"shape": shape_name, **run(shape_name, sys.argv[1])}), flush=True)
                os._exit(0)
            except BaseException as error:
                print(
                    json.dumps({"shape": shape_name, "raised": f"{type(error).__name__}: {error}"}),
                    flush=True,
                )
                os._exit(1)
        os.waitpid(child, 0)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
