"""State of an open phase of a run, and the index of several of one name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Rank
from spanbus._semantics import Failure, Result

_NONE: Final[frozenset[str]] = frozenset()
_SINGLETONS: Final = {rank: frozenset({rank}) for rank in Rank}


class OpenPhase:
    """An open phase: its record, the ranks that announced it, and its current attempt."""

    __slots__ = (
        "aliases",
        "attempt",
        "attempts_started_at_ns",
        "evidence",
        "hooks",
        "inner_ended_at_ns",
        "innermost",
        "open_ranks",
        "orphan",
        "outer",
        "pending",
        "pending_at_ns",
        "record",
        "retry_announced",
        "seen",
        "starts",
        "strategies",
        "subject_id",
        "task",
    )

    def __init__(self, record: SpanState, rank: Rank) -> None:
        alone = _SINGLETONS[rank]
        self.record = record
        self.outer = rank
        self.aliases: frozenset[str] = _NONE
        self.task: str | None = None
        """Id of the publishing task, if known."""
        self.subject_id: str | None = None
        """Id of the phase, if its events carry one."""
        self.retry_announced = False
        """A retry was announced; the start of its attempt has not arrived yet."""
        self.starts: frozenset[str] = _NONE
        """Event types of the starts of the current attempt."""
        self.seen: frozenset[Rank] = alone
        """Ranks that announced a start in the current attempt."""
        self.open_ranks: frozenset[Rank] = alone
        self.attempt: SpanState | None = None
        """The record of the current attempt, from the second on."""
        self.innermost = record
        """The record of the current attempt, else that of the phase."""
        self.attempts_started_at_ns = record.started_at_ns
        self.evidence: Failure | None = None
        """Failure of the current attempt, as reported by inner publishers."""
        self.inner_ended_at_ns: int | None = None
        """Time of the last end of the current attempt by an inner publisher."""
        self.pending: tuple[Result, Failure | None] | None = None
        """An announced failure that may still be retried."""
        self.pending_at_ns = 0
        self.hooks: dict[str, list[SpanState]] = {}
        self.strategies: list[SpanState] = []
        self.orphan = False


class Crowd:
    """The open phases of one name in one run, if there are several.

    They are indexed by publisher and record, so that lookups take constant time.
    """

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
