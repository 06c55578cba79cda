"""An open phase: its record, the speakers that announced it, and its attempts."""

from __future__ import annotations

from typing import Final

from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Rank
from spanbus._semantics import Failure, Result

_NONE: Final[frozenset[str]] = frozenset()
_SINGLETONS: Final = {rank: frozenset({rank}) for rank in Rank}


class OpenPhase:
    """An open phase: its record, who announced it, and its attempts."""

    __slots__ = (
        "aliases",
        "attempt",
        "attempts_started_at_ns",
        "evidence",
        "hooks",
        "inner_ended_at_ns",
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
        """Its publisher, where that is known."""
        self.subject_id: str | None = None
        """Its id, where its events tell one."""
        self.retry_announced = False
        """A retry was announced, and the start of its attempt was not heard yet."""
        self.starts: frozenset[str] = _NONE
        """Types of the starts of the current attempt, where there was more than one."""
        self.seen: frozenset[Rank] = alone
        """Ranks that announced a start in the current attempt."""
        self.open_ranks: frozenset[Rank] = alone
        self.attempt: SpanState | None = None
        """The record of the current attempt, from the second on."""
        self.attempts_started_at_ns = record.started_at_ns
        self.evidence: Failure | None = None
        """Failure of the current attempt, by its inner speakers."""
        self.inner_ended_at_ns: int | None = None
        """Time of an inner speaker's last announcement of the current attempt's end."""
        self.pending: tuple[Result, Failure | None] | None = None
        """A failure that was announced and may still be retried."""
        self.pending_at_ns = 0
        self.hooks: dict[str, list[SpanState]] = {}
        self.strategies: list[SpanState] = []
        self.orphan = False

    @property
    def innermost(self) -> SpanState:
        return self.attempt or self.record
