"""State of an open phase of a run."""

from __future__ import annotations

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
