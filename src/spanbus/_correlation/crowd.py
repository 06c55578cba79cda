"""Index of several open phases of one name by publisher and record, for lookups in constant time."""

from __future__ import annotations

from collections.abc import Iterable

from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Rank


class Crowd:
    """The open phases of one name in one run, if there are several."""

    __slots__ = ("_by_record", "_by_task", "announced_by_all")

    def __init__(self, phases: Iterable[OpenPhase]) -> None:
        self._by_task: dict[str, list[OpenPhase]] = {}
        self._by_record: dict[int, OpenPhase] = {}
        self.announced_by_all: set[Rank] = set()
        """Ranks that have announced the current attempt of every phase, so that their start is new to none of them."""
        for phase in phases:
            self.add(phase)

    def add(self, phase: OpenPhase) -> None:
        self.announced_by_all &= {phase.outer}
        self._by_record[phase.record.span_id] = phase
        if phase.task is not None:
            self._by_task.setdefault(phase.task, []).append(phase)

    def remove(self, phase: OpenPhase) -> None:
        self._by_record.pop(phase.record.span_id, None)
        if phase.task is None:
            return
        group = self._by_task[phase.task]
        group.remove(phase)
        if not group:
            del self._by_task[phase.task]

    def of_record(self, record: SpanState) -> OpenPhase | None:
        """Return the phase with this record."""
        phase = self._by_record.get(record.span_id)
        return phase if phase is not None and phase.record is record else None

    def of_task(self, task: str) -> OpenPhase | None:
        """Return the oldest phase that this task opened."""
        group = self._by_task.get(task)
        return group[0] if group else None
