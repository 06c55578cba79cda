"""Stop 4: a foreign bus, and a dialect for its event types.

A dialect is a table of rules for reading events. The generic dialect knows the usual words; other words need a few lines.
"""

from __future__ import annotations

from collections.abc import Callable

from spans import attributes, by_name

import spanbus
from spanbus.testing import Receiver


class Kitchen:
    """Somebody else's bus: a dict of lists, and no way to hear everything."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Callable[[dict[str, object]], object]]] = {}

    def on(self, event_type: str, handler: Callable[[dict[str, object]], object]) -> None:
        self.handlers.setdefault(event_type, []).append(handler)

    def emit(self, event_type: str, **payload: object) -> None:
        for handler in self.handlers.get(event_type, ()):
            handler(payload)


def test_the_usual_words_need_no_dialect(runtime: spanbus.Runtime, collector: Receiver) -> None:
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
