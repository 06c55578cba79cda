"""Observe a foreign bus with one line."""

from __future__ import annotations

from collections.abc import Callable

import spanbus


class ConveyorBus:
    """A bus of another library."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[dict[str, object]], object]] = []

    def subscribe(self, topic: str | None, listener: Callable[[dict[str, object]], object]) -> int:
        self._listeners.append(listener)
        return len(self._listeners) - 1

    def unsubscribe(self, token: int) -> None:
        del self._listeners[token]

    def emit(self, topic: str, **payload: object) -> None:
        for listener in self._listeners:
            listener({"topic": topic, "payload": payload})


def main() -> None:
    bus = ConveyorBus()
    with spanbus.instrument(bus) as handle:
        bus.emit("job.started", job_id="batch-7")
        bus.emit("station.started", job_id="batch-7", name="press")
        bus.emit("station.sensor", job_id="batch-7", name="press", temperature=71.5)
        bus.emit("station.failed", job_id="batch-7", name="press", error="timed out after 3 s")
        bus.emit("job.failed", job_id="batch-7")
    state = handle.state()
    print(
        f"{state.runs_ended} run, {state.phases_ended} phase, {state.phase_failures} failure, {state.events_recorded} events"
    )


if __name__ == "__main__":
    main()
