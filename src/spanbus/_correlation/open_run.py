"""One open run with its open phases, and what is remembered of those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from spanbus._correlation.span_state import Link, SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._reading.facts import ENGINE_HINTS, Ended, Fact, Rank, Started
from spanbus._reading.spelling import ending
from spanbus._semantics import Failure, Flag, Level, Result, names
from spanbus._workflow import identity

_ENTERED: Final = ("enter", "entered")
_NONE: Final[frozenset[str]] = frozenset()
_SINGLETONS: Final = {rank: frozenset({rank}) for rank in Rank}


class EndedPhase:
    """Remains of an ended phase: enough to recognize a late announcement of it."""

    __slots__ = ("announced", "ended_at_ns", "orphan", "rank", "span_id", "task")

    def __init__(
        self,
        ended_at_ns: int,
        span_id: int,
        orphan: bool,
        announced: bool,
        rank: Rank,
        task: str | None,
    ) -> None:
        self.ended_at_ns, self.span_id, self.orphan = ended_at_ns, span_id, orphan
        self.announced = announced
        """False where it was closed with its run: its own end may still come."""
        self.rank, self.task = rank, task


class EndedRun(NamedTuple):
    """Remains of an ended run."""

    key: str | None
    run_id: str
    phases: dict[str, EndedPhase]
    started_at_ns: int
    ended_at_ns: int
    announced: bool = True


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


class OpenRun:
    """An open run with its open phases; the oldest of a name first."""

    __slots__ = (
        "announced",
        "by_id",
        "changed",
        "correlation",
        "each",
        "ended",
        "first_failure",
        "has_aliases",
        "hooks",
        "implicit",
        "key",
        "known_end",
        "last_at_ns",
        "occurrences",
        "phases",
        "record",
        "results",
        "shared_names",
        "starts",
        "subject",
        "subject_id",
    )

    def __init__(
        self,
        record: SpanState,
        key: str | None,
        changed: dict[int, SpanState],
        *,
        implicit: bool = False,
        announced: bool = True,
        correlation: str | None = None,
        last_at_ns: int = 0,
    ) -> None:
        self.record, self.key = record, key
        self.changed = changed
        """Open records with new events, by span id; shared with the fan-out."""
        self.implicit, self.announced, self.correlation = implicit, announced, correlation
        self.phases: dict[str, list[OpenPhase]] = {}
        self.by_id: dict[str, list[OpenPhase]] = {}
        """Its open phases whose id is known."""
        self.ended: dict[str, EndedPhase] = {}
        self.occurrences: dict[str, int] = {}
        self.hooks: dict[str, list[SpanState]] = {}
        """Hooks that started outside any phase."""
        self.first_failure: tuple[Result, Failure | None] | None = None
        self.known_end: Ended | None = None
        self.last_at_ns = last_at_ns
        self.subject: str | None = None
        """The word by which it was announced: a job inside a pipeline is a phase of it."""
        self.starts: frozenset[str] = _NONE
        """Types of the events that announced its start."""
        self.each = False
        """The run stands for one outermost job, and ends with it."""
        self.results: frozenset[Result] = frozenset()
        """Results of its phases, while nobody has announced the run."""
        self.subject_id: str | None = None
        """Its id, where only the events that begin and end it tell one."""
        self.shared_names: dict[str, None] = {}
        """Names by which several publishers call phases of theirs."""
        self.has_aliases = False
        """One of its phases is or was known by another name too."""

    def open_phases(self) -> Iterator[OpenPhase]:
        for group in self.phases.values():
            yield from group

    def add(self, phase: OpenPhase) -> None:
        """Add an open phase, the youngest of its name."""
        name = phase.record.name
        group, before = self.phases.get(name), self.ended.get(name)
        if group is None:
            self.phases[name] = [phase]
            known = before.task if before is not None else None
            others = known is not None and known != phase.task
        else:
            others = phase.task is not None and group[-1].task != phase.task
            group.append(phase)
        if others:
            self.shared_names[name] = None

    def remove(self, phase: OpenPhase) -> None:
        """Remove a phase that ends."""
        _remove(self.phases, phase.record.name, phase)
        self.identify(phase, None)

    def identify(self, phase: OpenPhase, subject_id: str | None) -> None:
        """Note the id of an open phase, or that it has none."""
        known = phase.subject_id
        if subject_id == known:
            return
        if known is not None:
            _remove(self.by_id, known, phase)
        phase.subject_id = subject_id
        if subject_id is not None:
            self.by_id.setdefault(subject_id, []).append(phase)

    def add_aliases(self, phase: OpenPhase, aliases: Iterable[str]) -> None:
        """Add names by which one of its phases is known."""
        phase.aliases = phase.aliases.union(aliases)
        self.has_aliases = self.has_aliases or bool(phase.aliases)


def _remove(groups: dict[str, list[OpenPhase]], name: str, phase: OpenPhase) -> None:
    group = groups.get(name)
    if group is None or phase not in group:
        return
    if len(group) == 1:
        del groups[name]
    else:
        group.remove(phase)


def add_event(run: OpenRun, record: SpanState, fact: Fact) -> SpanState:
    """Put a fact's event on a record of a run."""
    event, hints = fact.event, fact.hints
    if hints is not ENGINE_HINTS and hints.odd_time:
        record.flag(Flag.CLOCK)
    record.events.append(event)
    run.changed[record.span_id] = record
    if event.at_ns > run.last_at_ns:
        run.last_at_ns = event.at_ns
    return record


def is_entered(phase: OpenPhase) -> bool:
    """It was heard that something entered it, which need not say when it leaves."""
    return bool(phase.starts) and all(ending(name) in _ENTERED for name in phase.starts)


def left_at_ns(run: OpenRun, phase: OpenPhase, at_ns: int) -> int:
    """The time at which the next one was entered that was not left either, else ``at_ns``."""
    began_ns = phase.record.started_at_ns
    later = [
        one.record.started_at_ns
        for one in run.open_phases()
        if one is not phase and one.starts == phase.starts
    ]
    return min([one for one in later if one >= began_ns], default=max(at_ns, run.last_at_ns))


def may_be_retried(fact: Fact) -> bool:
    """The start says that there may be more than one attempt, so that the first one is a span from its beginning."""
    most = fact.event.payload.get("max_attempts")
    return isinstance(fact, Started) and isinstance(most, int) and most > 1


def attempt_of(
    phase: OpenPhase, number: int, started_at_ns: int, previous: SpanState | None
) -> SpanState:
    parent = phase.record
    attempt = parent.child(
        Level.ATTEMPT,
        f"{parent.name} attempt {number}",
        identity.child_span_id(parent.span_id, "attempt", number),
        started_at_ns,
        parent.task_type,
        number,
    )
    if previous is not None:
        attempt.link(Link(previous.trace_id, previous.span_id, names.LINK_RETRY_OF))
    return attempt
