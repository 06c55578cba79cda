"""eventure: what is recorded of its bus, by the one line; it needs no adapter."""

from __future__ import annotations

from collections.abc import Callable

from eventure import EventBus, EventLog
from opentelemetry import trace

import spanbus

Drawn = Callable[[], list[str]]
JOB: list[tuple[str, dict[str, object]]] = [
    ("run.started", {"workflow": "nightly"}),
    ("task.started", {"task": "fetch"}),
    ("task.failed", {"task": "fetch", "error": "ConnectionError: refused"}),
    ("task.started", {"task": "fetch"}),
    ("task.completed", {"task": "fetch"}),
    ("task.started", {"task": "wait"}),
    ("task.timeout", {"task": "wait"}),
    ("task.skipped", {"task": "test"}),
    ("run.failed", {"error": "TimeoutError: 30 s"}),
]
PICTURE = [
    "RUN nightly timeout timeout",
    "  fetch success",
    "    fetch attempt 1 failure ConnectionError",
    "    fetch attempt 2 success",
    "  test skip",
    "  wait timeout timeout",
]


def test_its_bus_goes_on_and_is_heard(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus = EventBus(EventLog())
    heard: list[str] = []
    bus.subscribe("task.*", lambda event: heard.append(event.type))
    handle = runtime.instrument(bus)
    for kind, data in JOB:
        assert bus.publish(kind, data).type == kind
    assert handle.state().errors == 0
    assert heard == [kind for kind, _ in JOB if kind.startswith("task.")]
    assert drawn() == PICTURE


def test_two_runs_at_once(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus = EventBus(EventLog())
    runtime.instrument(bus)
    for kind, data in JOB:
        for run in "12":
            bus.publish(kind, {**data, "run_id": run})
    assert drawn() == PICTURE * 2


def test_spans_made_inside(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus = EventBus(EventLog())
    runtime.instrument(bus, mode="wrap")
    seen: list[int] = []
    for task in "ab":
        bus.publish("task.started", {"run_id": "1", "task": task})
        seen.append(trace.get_current_span().get_span_context().span_id)
        bus.publish("task.completed", {"run_id": "1", "task": task})
    assert len(set(seen)) == 2 and 0 not in seen


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus = EventBus(EventLog())
    runtime.instrument(bus).detach()
    bus.publish("task.started", {"task": "a"})
    assert drawn() == []
