"""Events published on an instrumented bus, with the runs that ended."""

from __future__ import annotations

from collections.abc import Iterable

from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator, CorrelatorState
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader

Run = tuple[str, str, str, list[tuple[str, str, int]]]
Events = list[object]


class Bus:
    """A bus without ``subscribe``: it is observed through ``publish``."""

    def publish(self, event: object) -> None: ...


class Watched:
    """A handle on a bus, with the runs that have ended."""

    def __init__(self, bus: object) -> None:
        dialect = load("generic")
        self.runs: list[SpanState] = []
        correlator = Correlator(policy=dialect.policy, on_run_ended=self.runs.append)
        self.handle = Handle(correlator, Reader(dialect), label="a bus")
        attach(bus, self.handle)

    def told(self) -> list[Run]:
        """Return name, id and result of each ended run, with name, result and attempts of its phases."""
        return [
            (
                run.workflow,
                run.run_id,
                str(run.result),
                [(one.name, str(one.result), one.attempts) for one in run.children],
            )
            for run in self.runs
        ]


def published(events: Iterable[object]) -> tuple[list[Run], CorrelatorState]:
    """Publish events on an instrumented bus, detach, and return the ended runs and the counts."""
    bus = Bus()
    watched = Watched(bus)
    for event in events:
        bus.publish(event)
    watched.handle.detach()
    return watched.told(), watched.handle.state()
