"""Buses that use the results of their handlers, and buses whose listeners are objects with methods."""

from __future__ import annotations

import gc
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from told import Watched

from spanbus._attaching.listener import type_of
from spanbus._attaching.treatment import Treatment, treatment_of
from spanbus.errors import InputError


class Kept:
    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.handlers.append(handler)


class Plain(Kept):
    def publish(self, event: object) -> None:
        for handler in self.handlers:
            handler(event)


class Awaits(Kept):
    async def publish(self, event: object) -> None:
        for handler in self.handlers:
            result = handler(event)
            if hasattr(result, "__await__"):
                await result


class NotesResults(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.results: list[object] = []

    def publish(self, event: object) -> None:
        for handler in self.handlers:
            self.results.append(handler(event))

    def last(self) -> object:
        return self.results[-1]


class ByType(Kept):
    """A dict of handler lists; ``publish`` reads the names of handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.by_type: dict[str, list[Any]] = {}

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.by_type.setdefault("*", []).append(handler)

    def publish(self, event: object) -> None:
        for kind, handlers in self.by_type.items():
            if kind.startswith("*"):
                for handler in handlers.copy():
                    assert getattr(handler, "__name__")  # noqa: B009
                    handler(event)


class ByTypeAndMethod(ByType):
    def publish(self, event: object) -> None:
        for handlers in self.by_type.values():
            for handler in handlers:
                handler.notify(event)


class Returns(Kept):
    def publish(self, event: object) -> list[object]:
        results = []
        for handler in self.handlers:
            result = handler(event)
            results.append(result)
            self.last = result
        return results


class Stops(Kept):
    def publish(self, event: object) -> None:
        for handler in self.handlers:
            if handler(event):
                break


class Reduces(Kept):
    def publish(self, event: object) -> object:
        value = event
        for handler in self.handlers:
            value = handler(value)
        return value


class Filters(Kept):
    def publish(self, event: object) -> list[object]:
        return [handler for handler in self.handlers if handler(event)]


class Records(Kept):
    """A bus that stores tuples with the handler instead of the handler."""

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.handlers.append(("*", handler, self.order()))

    def order(self) -> int:
        return len(self.handlers)

    def publish(self, event: object) -> None:
        for pattern, handler, order in sorted(self.handlers, key=lambda one: one[2]):
            if pattern.startswith("*") and order >= 0:
                handler(event)


@pytest.mark.parametrize("kind", [Plain, Awaits, NotesResults, ByType, Records])
def test_buses_that_ignore_results_of_handlers(kind: type[Kept]) -> None:
    assert treatment_of(kind(), "subscribe") == Treatment(known=True)


@pytest.mark.parametrize("kind", [Stops, Reduces, Filters])
def test_buses_whose_behaviour_depends_on_results_of_handlers(kind: type[Kept]) -> None:
    assert treatment_of(kind(), "subscribe") == Treatment(
        known=True, uses_results=True, results_decide=True
    )


def test_a_bus_that_returns_the_results_of_its_handlers() -> None:
    bus = Returns()
    assert treatment_of(bus, "subscribe") == Treatment(known=True, uses_results=True)
    Watched(bus)
    assert bus.publish({"type": "task.started", "task": "lint"}) == []


class ReturnsToAll(Returns):
    """A bus whose signature shows that None subscribes to all types."""

    def subscribe(  # type: ignore[override]
        self, event_type: str | None, handler: Callable[..., Any]
    ) -> None:
        self.handlers.append(handler)


def test_a_wildcard_subscriber_of_such_a_bus_returns_true() -> None:
    bus = ReturnsToAll()
    Watched(bus)
    assert bus.publish({"type": "task.started", "task": "lint"}) == [True]


class Forwards:
    """A bus that passes its subscribers to another bus."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def subscribe(self, handler: Callable[..., Any]) -> None:
        self.inner.subscribe(handler)

    def publish(self, event: object) -> Any:
        return self.inner.publish(event)


@pytest.mark.parametrize("between", [0, 1, 3])
def test_a_forwarding_bus_is_treated_as_its_inner_bus(between: int) -> None:
    program: list[object] = []
    inner: Any = Returns()
    inner.subscribe(program.append)
    for _ in range(between):
        inner = Forwards(inner)
    bus = Forwards(inner)
    assert treatment_of(bus, "subscribe").uses_results
    assert not treatment_of(Forwards(Plain()), "subscribe").uses_results
    watched = Watched(bus)
    before = bus.publish({"type": "task.started", "task": "lint"})
    bus.publish({"type": "task.completed", "task": "lint"})
    assert (before, len(program)) == ([None], 2)
    assert watched.handle.state().phases_ended == 1


class WithoutAModule(Stops):
    __module__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def test_the_source_of_a_class_without_a_module_is_read() -> None:
    assert treatment_of(WithoutAModule(), "subscribe").results_decide


def test_methods_called_on_subscribers_are_found() -> None:
    found = treatment_of(ByTypeAndMethod(), "subscribe")
    assert found == Treatment(known=True, methods=frozenset(("notify",)))


def test_a_class_without_source_is_observed_through_publish() -> None:
    made: dict[str, Any] = {}
    exec(
        "class Bus:\n"
        "    def __init__(self): self.handlers = []\n"
        "    def subscribe(self, handler): self.handlers.append(handler)\n"
        "    def publish(self, event): return [handler(event) for handler in self.handlers]\n",
        made,
    )
    bus = made["Bus"]()
    assert not treatment_of(bus, "subscribe").known
    watched = Watched(bus)
    assert bus.publish({"type": "task.started", "task": "lint", "run_id": "1"}) == []
    assert bus.publish({"type": "task.completed", "task": "lint", "run_id": "1"}) == []
    assert watched.handle.state().phases_ended == 1


def test_an_edited_source_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "class Bus:\n"
        "    def __init__(self): self.handlers = []\n"
        "    def subscribe(self, handler): self.handlers.append(handler)\n"
    )
    (tmp_path / "edited_bus.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    bus = importlib.import_module("edited_bus").Bus()
    (tmp_path / "edited_bus.py").write_text(source.replace("subscribe", "x = 1; y"))
    assert not treatment_of(bus, "subscribe").known


class Asking:
    def __init__(self) -> None:
        self.listeners: list[Any] = []

    def add_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def go_on(self) -> None:
        for listener in sorted(self.listeners, key=lambda one: one.priority):
            listener.put_nowait("x")


def test_a_bus_that_needs_other_methods_of_its_listeners_is_refused() -> None:
    bus = Asking()
    with pytest.raises(InputError, match="asks its subscribers for `priority`, `put_nowait`"):
        Watched(bus)
    assert bus.listeners == []


class Listened(Asking):
    def go_on(self) -> None:
        for listener in self.listeners:
            listener.on_run_started(workflow="nightly", run_id="7")
        for listener in self.listeners:
            listener.on_task_started("fetch")
        for listener in self.listeners:
            listener.on_task_failed("fetch", OSError("gone"))
        for listener in self.listeners:
            listener.on_run_failed(run_id="7")


def test_a_listener_is_added_called_and_removed_at_detach() -> None:
    bus = Listened()
    watched = Watched(bus)
    gc.collect()
    bus.go_on()
    assert watched.told() == [("nightly", "7", "failure", [("fetch", "failure", 1)])]
    assert watched.runs[0].children[0].failure is not None
    assert watched.runs[0].children[0].error_type == "OSError"
    watched.handle.detach()
    bus.go_on()
    assert len(watched.told()) == 1


@pytest.mark.parametrize(
    ("method", "event_type"),
    [
        ("on_task_started", "task_started"),
        ("onTaskStarted", "TaskStarted"),
        ("handle_task_failed", "task_failed"),
        ("visit_run_end", "run_end"),
        ("before_task", "task_started"),
        ("after_task", "task_completed"),
        ("after_task_failed", "task_failed"),
        ("task_started", "task_started"),
        ("once", "once"),
    ],
)
def test_the_event_type_of_a_listener_method(method: str, event_type: str) -> None:
    assert type_of(method) == event_type


def test_events_without_a_phase_are_reported_at_detach(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Plain()
    watched = Watched(bus)
    with caplog.at_level(logging.WARNING, "spanbus"):
        for kind in ("lauf.gestartet", "schritt.gestartet", "schritt.beendet") * 2:
            bus.publish({"type": kind, "schritt": "lint"})
        watched.handle.detach()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("6 events of a bus and no phase among them")
    assert "lauf.gestartet" in line and "spanbus dialect suggest" in line


def test_events_without_a_type_give_one_warning_with_a_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Thing:
        pass

    bus = Plain()
    watched = Watched(bus)
    with caplog.at_level(logging.WARNING, "spanbus"):
        for _ in range(3):
            bus.publish(Thing())
    (record,) = caplog.records
    assert record.exc_info is None
    assert "the event has no type" in record.getMessage()
    assert "type_keys" in record.getMessage()
    assert watched.handle.state().errors == 3
