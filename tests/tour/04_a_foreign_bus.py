"""Stop 4: a third-party bus, without and with a dialect for its event types.

A dialect is a list of rules, as data, that map event types to the start or end of a run or phase. The generic dialect knows the
usual event types; a dialect for others takes a few lines.
"""

from __future__ import annotations

from collections.abc import Callable

from spans import attributes, by_name

import spanbus
from spanbus.testing import Receiver


class Kitchen:
    """A bus with a dict of handler lists, and no way to subscribe to all event types."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Callable[[dict[str, object]], object]]] = {}

    def on(self, event_type: str, handler: Callable[[dict[str, object]], object]) -> None:
        self.handlers.setdefault(event_type, []).append(handler)

    def emit(self, event_type: str, **payload: object) -> None:
        for handler in self.handlers.get(event_type, ()):
            handler(payload)


def test_usual_event_types_need_no_dialect(runtime: spanbus.Runtime, collector: Receiver) -> None:
    kitchen = Kitchen()
    handle = runtime.instrument(kitchen)
    kitchen.emit("job_started", job_id="dinner")
    kitchen.emit("task_started", job_id="dinner", task="soup")
    kitchen.emit("task_failed", job_id="dinner", task="soup", error="TimeoutError: boiled over")
    kitchen.emit("job_failed", job_id="dinner")

    state = handle.state()
    assert (state.runs_ended, state.phases_ended, state.phase_failures) == (1, 1, 1)
    assert runtime.flush()
    soup = by_name(collector, "soup")
    assert attributes(soup)["cicd.pipeline.task.run.result"] == "timeout"


def test_a_dialect_maps_other_event_types_to_phases(
    runtime: spanbus.Runtime, collector: Receiver
) -> None:
    dialect = {
        "extends": "generic",
        "rules": [
            {"type": "dish.fired", "level": "phase", "verb": "start", "name": ["dish"]},
            {"type": "dish.plated", "level": "phase", "verb": "end", "name": ["dish"]},
        ],
    }
    kitchen = Kitchen()
    handle = runtime.instrument(kitchen, dialect=dialect)
    kitchen.emit("dish.fired", dish="soup")
    kitchen.emit("dish.plated", dish="soup")

    assert handle.state().phases_ended == 1
    handle.detach()
    assert runtime.flush()
    soup = by_name(collector, "soup")
    assert attributes(soup)["cicd.pipeline.task.run.result"] == "success"
