"""The bus with isolation and timing against blinker's plain calls."""

from __future__ import annotations

import time
from collections.abc import Callable

from blinker import Signal

from bench.rounds import Row, at_least, in_turns, measured, seconds_of
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.events import Event, new_event_id

_EVENTS = 20_000


def _observer(seen: list[int]) -> Callable[[Event], None]:
    def observer(event: Event) -> None:
        seen[0] += 1

    return observer


def _receiver(seen: list[int]) -> Callable[..., None]:
    def receiver(sender: object, **payload: object) -> None:
        seen[0] += 1

    return receiver


def measure() -> list[Row]:
    rows: list[Row] = []
    for subscribers, goal in ((1, 2.0), (10, 3.0), (100, 3.0)):
        events = _EVENTS // max(1, subscribers // 5)
        bus, signal = WorkflowEventBus(), Signal()
        seen = [0]
        kept = [_receiver(seen) for _ in range(subscribers)]
        for receiver in kept:
            signal.connect(receiver)
            bus.subscribe(None, _observer(seen))
        payload = {"step_id": "fast_hooks", "strategy": "fast"}
        event = Event("hooks.strategy.started", new_event_id(), time.time_ns(), payload)

        def ours(bus: WorkflowEventBus = bus, events: int = events, event: Event = event) -> float:
            def work() -> None:
                dispatch = bus.dispatch
                for _ in range(events):
                    dispatch(event)

            return events / seconds_of(work)

        def published(
            bus: WorkflowEventBus = bus, events: int = events, payload: dict[str, str] = payload
        ) -> float:
            def work() -> None:
                publish = bus.publish_nowait
                for _ in range(events):
                    publish("hooks.strategy.started", payload)

            return events / seconds_of(work)

        def theirs(
            signal: Signal = signal, events: int = events, payload: dict[str, str] = payload
        ) -> float:
            def work() -> None:
                send = signal.send
                for _ in range(events):
                    send("engine", event_type="hooks.strategy.started", payload=payload)

            return events / seconds_of(work)

        mine, yard = in_turns(ours, theirs, 9)
        rows.append(
            at_least(f"bus, an event to {subscribers} observers (blinker)", mine, yard, goal)
        )
        mine, yard = in_turns(published, theirs, 9)
        rows.append(measured("the same, the event made too: id, time, frozen payload", mine, yard))
    return rows
