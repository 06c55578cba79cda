"""More buses for ``bus_shapes``, which a careless observer would change or miss: they count their handlers, or consist of plain
functions, or have signals that are called."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bus_shapes
import stranger_shapes
from bus_shapes import ForAll, Shape, event, shape
from stranger_shapes import Slot, publishes


def answered(bus: Any, heard: list[object], *, returned: object) -> Shape:
    def publish(kind: str, payload: dict[str, Any]) -> None:
        found = bus.publish(kind, payload)
        assert found == returned, found

    return Shape(bus, publish, heard)


# --- what is made of plain functions ----------------------------------------------------------------------------------


@shape
def functions_in_a_namespace() -> Shape:
    handlers: list[Callable[..., Any]] = []
    heard: list[object] = []

    def subscribe(handler: Callable[..., Any]) -> None:
        handlers.append(handler)

    def publish(kind: str, payload: dict[str, Any]) -> list[object]:
        return [handler(kind, payload) for handler in handlers]

    subscribe(lambda *told: heard.append(told))
    return answered(SimpleNamespace(subscribe=subscribe, publish=publish), heard, returned=[None])


@shape
def a_module_that_stops_at_the_first_answer() -> Shape:
    source = """
handlers = []
def subscribe(handler):
    handlers.append(handler)
def publish(kind, payload):
    return _deliver(kind, payload)
def _deliver(kind, payload):
    for handler in handlers:
        answer = handler(kind, payload)
        if answer:
            return answer
"""
    folder = tempfile.mkdtemp()
    Path(folder, "first_answer_bus.py").write_text(source)
    sys.path.insert(0, folder)
    module = import_module("first_answer_bus")
    heard: list[object] = []
    module.subscribe(lambda *told: heard.append(told))
    return answered(module, heard, returned=None)


@shape
def methods_of_another_object_in_a_namespace() -> Shape:
    class Hidden(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> list[object]:
            return [handler(kind, payload) for handler in self.handlers]

    hidden = Hidden()
    bus = SimpleNamespace(subscribe=hidden.subscribe, publish=hidden.publish)
    return answered(bus, hidden.heard, returned=[None])


@shape
def handlers_in_a_list_beside_the_class() -> Shape:
    handlers: list[Callable[..., Any]] = []
    heard: list[object] = []

    class Bus:
        def subscribe(self, handler: Callable[..., Any]) -> None:
            handlers.append(handler)

        def publish(self, kind: str, payload: dict[str, Any]) -> list[object]:
            return [handler(kind, payload) for handler in handlers]

    bus = Bus()
    bus.subscribe(lambda *told: heard.append(told))
    return answered(bus, heard, returned=[None])


# --- buses that count, or look whether there is anybody ---------------------------------------------------------------


@shape
def a_count_of_those_that_were_called() -> Shape:
    class Bus(ForAll):
        def publish(self, kind: str, payload: dict[str, Any]) -> int:
            called = 0
            for handler in self.handlers:
                handler(kind, payload)
                called += 1
            return called

    return publishes(Bus(), returned=1)


@shape
def the_number_of_handlers() -> Shape:
    class Bus(ForAll):
        def publish(_this, kind: str, payload: dict[str, Any]) -> int:
            for handler in _this.handlers:
                handler(kind, payload)
            return len(_this.handlers)

    return publishes(Bus(), returned=1)


@shape
def a_bus_with_one_handler_at_most() -> Shape:
    class Bus:
        def __init__(self) -> None:
            self.handlers: list[Callable[..., Any]] = []

        def subscribe(self, handler: Callable[..., Any]) -> None:
            if len(self.handlers) >= 1:
                raise RuntimeError("somebody else listens")
            self.handlers.append(handler)

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(kind, payload)

    bus, heard = Bus(), list[object]()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        if not bus.handlers:
            bus.subscribe(lambda *told: heard.append(told))
        bus.publish(kind, payload)

    return Shape(bus, publish, heard)


@shape
def futures_of_the_handlers() -> Shape:
    class Bus:
        def __init__(_this) -> None:
            _this.pool, _this.handlers, _this.heard = (
                ThreadPoolExecutor(1),
                list[Any](),
                list[object](),
            )

        def subscribe(_this, handler: Callable[..., Any]) -> None:
            _this.handlers.append(handler)

        def publish(_this, kind: str, payload: dict[str, Any]) -> list[Any]:
            return [_this.pool.submit(handler, kind, payload) for handler in _this.handlers]

    bus = Bus()
    bus.subscribe(lambda *told: bus.heard.append(told))

    def publish(kind: str, payload: dict[str, Any]) -> None:
        assert [one.result() for one in bus.publish(kind, payload)] == [None]

    return Shape(bus, publish, bus.heard, settle=bus.pool.shutdown)


@shape
def a_handler_before_the_observer_raises() -> Shape:
    class Bus(ForAll):
        def note(self, *arguments: object, **options: object) -> Any:
            super().note(*arguments, **options)
            raise KeyError("no")

        def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                handler(event(kind, payload))

    bus = Bus()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        try:
            bus.publish(kind, payload)
        except KeyError:
            return
        raise AssertionError("nothing was raised")

    return Shape(bus, publish, bus.heard)


@shape
def an_awaited_handler_before_the_observer_raises() -> Shape:
    class Bus(ForAll):
        async def note(self, *arguments: object, **options: object) -> Any:
            self.heard.append(arguments or options)
            raise KeyError("no")

        async def publish(self, kind: str, payload: dict[str, Any]) -> None:
            for handler in self.handlers:
                await handler(event(kind, payload))

    bus = Bus()

    async def publish(kind: str, payload: dict[str, Any]) -> None:
        try:
            await bus.publish(kind, payload)
        except KeyError:
            return
        raise AssertionError("nothing was raised")

    return Shape(bus, publish, bus.heard)


# --- signals that are called ------------------------------------------------------------------------------------------


class Signal:
    """A signal that returns the results of its receivers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: list[Callable[..., Any]] = []

    def connect(self, receiver: Callable[..., Any]) -> None:
        self.receivers.append(receiver)

    def __call__(self, *arguments: object, **options: object) -> list[object]:
        return [receiver(*arguments, **options) for receiver in self.receivers]


class Emitted(Signal):
    """A signal that can be called and emitted."""

    def emit(self, *arguments: object, **options: object) -> list[object]:
        return Signal.__call__(self, *arguments, **options)


def _signals(kind: type[Signal], send: Callable[[Any, int], Callable[..., list[object]]]) -> Shape:
    heard: list[object] = []
    signals: dict[str, Signal] = {}
    for name, _ in bus_shapes.JOB:
        signals.setdefault(name, kind(name))
    for signal in signals.values():
        signal.connect(lambda **told: heard.append(told))

    def publish(name: str, payload: dict[str, Any]) -> None:
        assert send(signals[name], len(heard))(**payload) == [None]

    return Shape(signals, publish, heard)


@shape
def signals_that_are_called() -> Shape:
    return _signals(Signal, lambda signal, number: signal)


@shape
def signals_that_are_called_or_emitted() -> Shape:
    return _signals(Emitted, lambda signal, number: signal.emit if number % 2 else signal)


@shape
def a_namespace_that_makes_slots() -> Shape:
    class Events:
        def __getattr__(self, name: str) -> Slot:
            if name.startswith("__"):
                raise AttributeError(name)
            slot = self.__dict__[name] = Slot()
            return slot

    events, heard = Events(), list[object]()

    def publish(kind: str, payload: dict[str, Any]) -> None:
        name = "on_" + kind.replace(".", "_")
        if name not in events.__dict__:
            slot = getattr(events, name)
            slot += lambda **told: heard.append(told)
        assert set(events.__dict__) <= {
            f"on_{kind.replace('.', '_')}" for kind, _ in bus_shapes.JOB
        }
        getattr(events, name)(**payload)

    return Shape(events, publish, heard)


if __name__ == "__main__":
    assert stranger_shapes.Slot is Slot
    warnings.simplefilter("error")
    bus_shapes.main()
