"""An observed object looks the same, and is copied and pickled as before."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import typing
import warnings
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from told import Watched

from spanbus.errors import InputError


class Bus:
    """A bus that counts its events."""

    def __init__(self) -> None:
        self.told = 0

    def publish(self, kind: str, *, times: int = 1) -> int:
        """Count it."""
        self.told += times
        return self.told

    async def emit(self, kind: str) -> int:
        return self.publish(kind)


def of(bus: Any) -> dict[str, object]:
    """Return what introspection shows of its methods."""
    return {
        "signature": str(inspect.signature(bus.publish)),
        "names": (bus.publish.__name__, bus.publish.__qualname__, bus.publish.__doc__),
        "hints": typing.get_type_hints(bus.publish),
        "is of the bus": (inspect.ismethod(bus.publish), bus.publish.__self__ is bus),
        "is itself": (bus.publish == bus.publish, hash(bus.publish) == hash(bus.publish)),
        "coroutine functions": [
            inspect.iscoroutinefunction(one) for one in (bus.publish, bus.emit)
        ],
    }


def test_its_methods_look_unchanged() -> None:
    bus = Bus()
    before = of(bus)
    watched = Watched(bus)
    assert of(bus) == before
    watched.handle.detach()
    assert of(bus) == before
    assert vars(bus) == {"told": 0}


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda bus: pickle.loads(pickle.dumps(bus))],
    ids=["copied", "copied deeply", "pickled"],
)
def test_a_copy_of_an_observed_bus_is_not_observed(again: Any) -> None:
    bus = Bus()
    watched = Watched(bus)
    assert bus.publish("task.started") == 1
    other = again(bus)
    assert (other.publish("task.started", times=5), asyncio.run(other.emit("task.done"))) == (6, 7)
    assert (bus.told, watched.handle.state().events_seen) == (1, 1)
    assert vars(other) == {"told": 7}


class Configured(Bus):
    """Has a publishing method of its own, and leaves something out when it is copied."""

    __slots__ = ("limit",)

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.connection = 3, object()
        self.publish = self.limited  # type: ignore[method-assign]

    def limited(self, kind: str, *, times: int = 1) -> int:
        return Bus.publish(self, kind, times=min(times, self.limit))


class Secretive(Bus):
    def __getstate__(self) -> dict[str, object]:
        return {"told": 0, "left out": sorted(vars(self).keys() - {"__getstate__"})}


def test_a_copy_has_the_same_attributes_as_without_an_observer() -> None:
    bus = Configured()
    plain = copy.copy(bus)
    watched = Watched(bus)
    again = copy.copy(bus)
    assert vars(again) == vars(plain)
    assert again.limit == 3
    watched.handle.detach()
    assert vars(bus) == vars(plain)


def test_a_getstate_of_the_class_is_respected() -> None:
    bus = Secretive()
    watched = Watched(bus)
    assert vars(copy.copy(bus)) == {"told": 0, "left out": ["emit", "publish", "told"]}
    watched.handle.detach()
    assert vars(copy.copy(bus)) == {"told": 0, "left out": ["told"]}


class Subscribed:
    """A bus with a list of handlers for all events."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def subscribe_all(self, handler: Any) -> None:
        self.handlers.append(handler)

    def publish(self, kind: str, **payload: Any) -> None:
        for handler in self.handlers:
            handler(kind, payload)


class OfListeners:
    """A bus that calls a method of its listeners for each type, and has no publish method."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []

    def add_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def went_on(self) -> None:
        for listener in self.listeners:
            listener.on_task_started("fetch")


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda bus: pickle.loads(pickle.dumps(bus))], ids=["copied", "pickled"]
)
def test_a_copy_has_no_subscription_of_the_observer(again: Any) -> None:
    bus, listened = Subscribed(), OfListeners()
    watched, other = Watched(bus), Watched(listened)
    bus.publish("task.started", task="fetch")
    listened.went_on()
    copied, copy_of_listened = again(bus), again(listened)
    copied.publish("task.completed", task="fetch")
    copy_of_listened.went_on()
    assert len(copied.handlers) == len(copy_of_listened.listeners) == 1
    assert watched.handle.state().events_seen == other.handle.state().events_seen == 1


def test_the_warning_about_a_coroutine_never_awaited_has_its_own_name() -> None:
    bus = Bus()
    Watched(bus)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        nobody_awaits_it = bus.emit("task.started")
        del nobody_awaits_it
    assert [str(one.message) for one in told] == ["coroutine 'Bus.emit' was never awaited"]


@pytest.mark.parametrize("kind", [Mock, MagicMock, AsyncMock])
def test_a_mock_is_refused_and_records_no_call(kind: type[Mock]) -> None:
    mock = kind()
    with pytest.raises(InputError):
        Watched(mock)
    assert (mock.mock_calls, vars(mock)["_mock_children"]) == ([], {})


def test_in_observe_mode_the_error_for_a_missing_type_suggests_auto() -> None:
    from spanbus._attaching.attach import attach
    from spanbus._attaching.handle import Handle
    from spanbus._correlation.correlator import Correlator
    from spanbus._reading.dialect_file import load
    from spanbus._reading.reader import Reader

    class NoTypes:
        def __init__(self) -> None:
            self.handlers: list[Any] = []

        def subscribe(self, handler: Any) -> None:
            self.handlers.append(handler)

        def publish(self, kind: str, payload: dict[str, object]) -> None:
            for handler in self.handlers:
                handler(payload)

    bus = NoTypes()
    handle = Handle(Correlator(), Reader(load("generic")), label="a bus")
    attach(bus, handle, mode="observe")
    bus.publish("task.started", {"task": "a"})
    assert "mode='auto' also reads the call that publishes" in str(handle.state().last_error)
