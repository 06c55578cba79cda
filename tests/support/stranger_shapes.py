"""More buses for ``bus_shapes``: buses that use what handlers return, buses whose listeners are objects, unusual events."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, Self, cast

import bus_shapes
from bus_shapes import ForAll, Shape, event, shape


class Told:
    """The application's own listener, which has every method that is looked up on it."""

    priority = 3
    topics = frozenset("*")

    def __init__(self, heard: list[object]) -> None:
        self.heard = heard

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **options: self.heard.append((name, arguments, options))


class Listened:
    """A list of listeners, one of them the application's own."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.listeners: list[Any] = [Told(self.heard)]

    def add_listener(self, listener: Any) -> None:
        self.listeners.append(listener)


def publishes(bus: Any, *, returned: object = None) -> Shape:
    """Return the shape of a bus, and assert that each ``publish`` returns ``returned``, as it does without an observer."""

    def publish(kind: str, payload: dict[str, Any]) -> None:
        assert bus.publish(kind, payload) == returned

    return Shape(bus, publish, bus.heard)


def spelled(kind: str, *, prefix: str = "on") -> str:
    return prefix + "".join(word.title() for word in kind.split("."))


# --- what handlers return counts --------------------------------------------------------------------------------------


@shape
def results_of_all_handlers() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> list[object]:
            return [handler(kind, payload) for handler in self.handlers]

    return publishes(Bus(), returned=[None])


@shape
def the_last_result() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> object:
            result = None
            for handler in self.handlers:
                result = handler(kind, payload)
            return result

    return publishes(Bus())


@shape
def the_first_that_answers() -> Shape:
    class Bus(ForAll):
        def subscribe(self, handler: Callable[..., Any]) -> None:
            self.handlers.insert(0, handler)

        def publish(self, kind: str, payload: dict[str, Any]) -> object:
            for handler in self.handlers:
                result = handler(kind, payload)
                if result is not None:
                    return result
            return None

    return publishes(Bus())


@shape
def handled_by_one() -> Shape:
    class Bus(ForAll):
        def subscribe(self, handler: Callable[..., Any]) -> None:
            self.handlers.insert(0, handler)

        def publish(self, kind: str, payload: dict[str, Any]) -> bool:
            handled = False
            for handler in list(self.handlers):
                if handler(kind, payload):
                    handled = True
                    break
            return handled

    return publishes(Bus(), returned=False)


@shape
def handled_by_one_and_published_within() -> Shape:
    """A bus without a method to tap: the observer returns None."""

    class Engine(ForAll):
        def subscribe(self, handler: Callable[..., Any]) -> None:
            self.handlers.insert(0, handler)

        def _tell(self, kind: str, payload: dict[str, Any]) -> bool:
            return any(handler(kind, payload) for handler in self.handlers)

        def go_on(self, kind: str, payload: dict[str, Any]) -> None:
            assert not self._tell(kind, payload)

    engine = Engine()
    return Shape(engine, engine.go_on, engine.heard)


@shape
def each_passes_the_payload_on() -> Shape:
    class Bus(ForAll):
        def note(self, *arguments: object, **options: object) -> Any:
            super().note(*arguments, **options)
            return arguments[1]

        def publish(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
            for handler in self.handlers:
                payload = handler(kind, payload)
            return payload

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        assert bus.publish(kind, payload) is payload

    return Shape(bus, publish, bus.heard)


# --- subscribers that are objects -------------------------------------------------------------------------------------


@shape
def an_observer_that_is_updated() -> Shape:
    class Subject:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.observers: list[Any] = [Told(self.heard)]

        def add_observer(self, observer: Any) -> None:
            self.observers.append(observer)

        def notify_observers(self, kind: str, payload: dict[str, Any]) -> None:
            for observer in self.observers:
                observer.update(kind, payload)

    subject = Subject()
    return Shape(subject, lambda *told: subject.notify_observers(*told), subject.heard)


@shape
def a_consumer_that_is_a_queue() -> Shape:
    class Bus(Listened):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for one in self.listeners:
                one.put((kind, payload))

    return publishes(Bus())


@shape
def listeners_with_attributes() -> Shape:
    class Bus(Listened):
        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for one in sorted(self.listeners, key=lambda one: one.priority):
                if "*" in one.topics:
                    one.notify(kind, payload)

    return publishes(Bus())


@shape
def listeners_that_are_asked_first() -> Shape:
    class Bus(Listened):
        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            told = event(kind, payload)
            for one in self.listeners:
                one.can_handle(told)
                handled = one.handle(told)
                if inspect.isawaitable(handled):
                    await handled

    bus = Bus()
    return Shape(bus, lambda *told: bus.publish(*told), _every_second(bus.heard))


def _every_second(heard: list[object]) -> list[object]:
    """The events among a listener's calls."""

    class Events(list[object]):
        def __len__(self) -> int:
            return len(heard) // 2

    return Events()


@shape
def a_method_for_each_type() -> Shape:
    class Engine(Listened):
        def _each(self, name: str, **told: Any) -> None:
            for one in self.listeners:
                getattr(one, name)(**told)

        def go_on(self, kind: str, payload: dict[str, Any]) -> None:
            self._each("on_" + kind.replace(".", "_"), **payload)

    engine = Engine()
    return Shape(engine, engine.go_on, engine.heard)


@shape
def a_method_for_each_type_by_its_name() -> Shape:
    class Engine(Listened):
        def go_on(self, kind: str, payload: dict[str, Any]) -> None:
            name = payload.get("task")
            error = ValueError(payload["error"]) if "error" in payload else None
            for one in self.listeners:
                if kind == "run.started":
                    one.on_run_started(**payload)
                elif kind == "run.failed":
                    one.on_run_failed(error, run_id=payload["run_id"])
                elif kind == "task.started":
                    one.on_task_started(name)
                elif kind == "task.completed":
                    one.on_task_completed(name)
                else:
                    one.on_task_failed(name, error)

    engine = Engine()
    return Shape(engine, engine.go_on, engine.heard)


@shape
def a_method_for_each_type_that_is_awaited() -> Shape:
    class Own(Told):
        def __getattr__(self, name: str) -> Callable[..., Any]:
            async def note(**told: Any) -> None:
                self.heard.append((name, told))

            return note

    class Engine:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.listeners: list[Any] = [Own(self.heard)]

        def addListener(self, listener: Any) -> None:
            self.listeners.append(listener)

        async def go_on(self, kind: str, payload: dict[str, Any]) -> None:
            for one in self.listeners:
                await getattr(one, spelled(kind))(**payload)

    engine = Engine()
    return Shape(engine, engine.go_on, engine.heard)


@shape
def a_hook_that_is_looked_up() -> Shape:
    class Bus(Listened):
        def notify(self, hook: str, **told: Any) -> None:
            for one in self.listeners:
                getattr(one, "on_" + hook, lambda **told: None)(**told)

    bus = Bus()
    return Shape(
        bus, lambda kind, payload: bus.notify(kind.replace(".", "_"), **payload), bus.heard
    )


# --- other ways to publish --------------------------------------------------------------------------------------------


@shape
def several_events_at_once() -> Shape:
    class Bus(ForAll):
        subscribe = None  # type: ignore[assignment]

        def publish(self, *events: object) -> None:
            for one in events:
                for handler in self.handlers:
                    handler(one)

    bus = Bus()
    waiting: list[object] = []

    def publish(kind: str, payload: dict[str, Any]) -> None:
        waiting.append(event(kind, payload))
        if len(waiting) == 5:
            bus.publish(*waiting)
            waiting.clear()

    return Shape(bus, publish, bus.heard)


@shape
def a_name_and_an_exception() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []
            self.routes: dict[str, list[Any]] = defaultdict(lambda: [self.heard.append])

        def emit(self, event: str, *told: object) -> None:
            for handler in self.routes[event]:
                handler(told)

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        told = [payload.get("task", payload.get("workflow", "nightly"))]
        if "error" in payload:
            told.append(ValueError(payload["error"]))
        bus.emit(kind, *told)

    return Shape(bus, publish, bus.heard)


@shape
def objects_that_are_posted() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def register(self, listener: object) -> None: ...

        def post(self, told: object) -> None:
            self.heard.append(told)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.post(event(kind, payload)), bus.heard)


class Slot:
    """An event as in C#."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def __iadd__(self, handler: Callable[..., Any]) -> Self:
        self.handlers.append(handler)
        return self

    def __isub__(self, handler: Callable[..., Any]) -> Self:
        self.handlers.remove(handler)
        return self

    def __call__(self, *arguments: object, **options: object) -> None:
        for handler in self.handlers:
            handler(*arguments, **options)


@shape
def slots_that_handlers_are_added_to() -> Shape:
    heard: list[object] = []
    names = ("run_started", "run_failed", "task_started", "task_failed", "task_completed")
    engine = SimpleNamespace(**{name: Slot() for name in names})
    for name in names:
        slot = getattr(engine, name)
        slot += lambda **told: heard.append(told)

    def publish(kind: str, payload: dict[str, Any]) -> None:
        getattr(engine, kind.replace(".", "_"))(**payload)

    return Shape(engine, publish, heard)


class Key(tuple[str, ...]):
    """The shape of aiopubsub's."""

    __slots__ = ()


@shape
def keys_of_a_class_of_their_own() -> Shape:
    class Hub(ForAll):
        subscribe = None  # type: ignore[assignment]

        def publish(self, key: Key, message: object) -> None:
            if message is not None:
                self.note(key)

    hub = Hub()
    return Shape(
        hub, lambda kind, payload: hub.publish(Key(("shop", *kind.split("."))), payload), hub.heard
    )


# --- events that say it in other ways ---------------------------------------------------------------------------------


@shape
def types_behind_methods() -> Shape:
    class Event:
        def __init__(self, kind: str, payload: dict[str, Any]) -> None:
            self._kind, self._payload = kind, payload

        def get_type(self) -> str:
            return self._kind

        def get_payload(self) -> dict[str, Any]:
            return self._payload

    class Bus(ForAll):
        def publish(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(Event(kind, payload)), bus.heard)


@shape
def names_behind_methods_of_a_workflow_event() -> Shape:
    class WorkflowEvent:
        __slots__ = ("_body", "_name")

        def __init__(self, name: str, body: dict[str, Any]) -> None:
            self._name, self._body = name, body

        def name(self) -> str:
            return self._name

        def body(self) -> dict[str, Any]:
            return self._body

        def replay(self, speed: float) -> None:
            raise AssertionError

    class Bus(ForAll):
        def publish(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(WorkflowEvent(kind, payload)), bus.heard)


@shape
def a_header_and_a_body() -> Shape:
    class Bus(ForAll):
        def publish_event(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()
    return Shape(
        bus,
        lambda kind, payload: bus.publish_event(
            {
                "header": {"messageType": spelled(kind, prefix=""), "messageId": object()},
                "body": payload,
            }
        ),
        bus.heard,
    )


@shape
def a_body_and_the_time_of_it() -> Shape:
    @dataclass(frozen=True, slots=True)
    class Event:
        topic: str
        body: dict[str, Any]
        occurred_at: datetime = field(default_factory=lambda: datetime.now(UTC))
        version: int = 2

    class Bus(ForAll):
        def publish(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(Event(kind, payload)), bus.heard)


@shape
def runs_and_tasks_as_objects() -> Shape:
    class Bus(ForAll):
        def publish(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        about = {"task": {"id": 7, "name": payload["task"]}} if "task" in payload else {}
        error = {"error": {"type": "E", "message": "no"}} if "error" in payload else {}
        run = {"id": "r1", "name": "nightly"}
        workflow = {"id": 9, "path": "nightly.yml"}
        bus.publish(
            {
                "type": kind,
                "ts": time.time() * 1e3,
                "run": run,
                "workflow": workflow,
                **about,
                **error,
            }
        )

    return Shape(bus, publish, bus.heard)


class Struct:
    """The shape of a protobuf Struct: registered as a mapping, and without ``get``."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Any:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


cast("Any", Mapping).register(Struct)


@shape
def payloads_that_lack_what_mappings_have() -> Shape:
    class Bus(ForAll):
        def publish(self, topic: str, told: object) -> None:
            for handler in self.handlers:
                handler(topic, told)

    bus = Bus()
    return Shape(bus, lambda kind, payload: bus.publish(kind, Struct(payload)), bus.heard)


@shape
def messages_of_descriptors() -> Shape:
    """The shape of a protobuf message: its class lists its fields."""

    class Message:
        __slots__ = ("_fields",)
        DESCRIPTOR = SimpleNamespace(
            fields_by_name=dict.fromkeys(("event_type", "run_id", "workflow", "task", "error"))
        )

        def __init__(self, **fields: str) -> None:
            self._fields = fields

        def __getattr__(self, name: str) -> str:
            if name not in self.DESCRIPTOR.fields_by_name:
                raise AttributeError(name)
            return self._fields.get(name, "")

    class Bus(ForAll):
        def publish(self, told: object) -> None:
            for handler in self.handlers:
                handler(told)

    bus = Bus()
    return Shape(
        bus, lambda kind, payload: bus.publish(Message(event_type=kind, **payload)), bus.heard
    )


@shape
def named_tuples_with_a_history() -> Shape:
    class Event(NamedTuple):
        kind: str
        task: str | None = None
        at: float = 0.0
        extra: dict[str, Any] | None = None

    class Bus(ForAll):
        def __init__(self) -> None:
            super().__init__()
            self.history: deque[object] = deque(maxlen=3)

        def publish(self, told: object) -> None:
            self.history.append(told)
            for handler in self.handlers:
                handler(told)

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        if "task" in payload:
            bus.publish(Event(kind, payload["task"], time.time(), payload))
        else:
            bus.publish({"kind": kind, **payload})

    return Shape(bus, publish, bus.heard)


if __name__ == "__main__":
    warnings.simplefilter("error")
    bus_shapes.main()
