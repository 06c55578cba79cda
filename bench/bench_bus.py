"""The bus with isolation and timing against blinker's plain calls."""

from __future__ import annotations

from blinker import Signal

from bench.rounds import Row, at_least, in_turns, seconds_of
from spanbus.workflow.bus import WorkflowEventBus

_EVENTS = 20_000


def measure() -> list[Row]:
    rows: list[Row] = []
    for subscribers in (1, 10, 100):
        events = _EVENTS // max(1, subscribers // 5)
        bus = WorkflowEventBus()
        signal = Signal()
        seen = [0]

        def observer(event: object, seen: list[int] = seen) -> None:
            seen[0] += 1

        def receiver(sender: object, seen: list[int] = seen, **payload: object) -> None:
            seen[0] += 1

        kept = []
        for _ in range(subscribers):
            one = lambda event, observer=observer: observer(event)  # noqa: E731
            other = lambda sender, receiver=receiver, **payload: receiver(sender, **payload)  # noqa: E731
            kept.append(other)
            bus.subscribe(None, one)
            signal.connect(other)
        payload = {"step_id": "fast_hooks", "strategy": "fast"}

        def ours(bus: WorkflowEventBus = bus, events: int = events, payload: dict[str, str] = payload) -> float:
            def work() -> None:
                publish = bus.publish_nowait
                for _ in range(events):
                    publish("hooks.strategy.started", payload)

            return events / seconds_of(work)

        def theirs(signal: Signal = signal, events: int = events, payload: dict[str, str] = payload) -> float:
            def work() -> None:
                for _ in range(events):
                    signal.send("engine", event_type="hooks.strategy.started", payload=payload)

            return events / seconds_of(work)

        mine, yard = in_turns(ours, theirs, 9)
        rows.append(at_least(f"bus, {subscribers} observers, events (blinker)", mine, yard, 3.0))
    return rows
