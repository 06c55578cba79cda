"""An open run with its open phases, and the remains of ended ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from spanbus._correlation.crowd import Crowd
from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.span_state import Link, SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._reading.facts import ENGINE_HINTS, Ended, Fact, Rank, Started
from spanbus._reading.spelling import ending
from spanbus._semantics import Failure, Flag, Level, Result, names
from spanbus._workflow import identity

_ENTERED: Final = ("enter", "entered")
_NONE: Final[frozenset[str]] = frozenset()


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
        """False if it was closed with its run; its own end may still arrive."""
        self.rank, self.task = rank, task


class EndedRun(NamedTuple):
    """Remains of an ended run."""

    key: str | None
    run_id: str
    phases: dict[str, EndedPhase]
    started_at_ns: int
    ended_at_ns: int
    announced: bool = True


class OpenRun:
    """An open run and its open phases; the oldest of a name first."""

    __slots__ = (
        "announced",
        "by_id",
        "changed",
        "correlation",
        "crowds",
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
        """Open records with new events, by span id; shared with :class:`FanOut`."""
        self.implicit, self.announced, self.correlation = implicit, announced, correlation
        self.phases: dict[str, list[OpenPhase]] = {}
        self.by_id: dict[str, list[OpenPhase]] = {}
        """Open phases by id."""
        self.ended: dict[str, EndedPhase] = {}
        self.occurrences: dict[str, int] = {}
        self.hooks: dict[str, list[SpanState]] = {}
        """Open hooks outside any phase."""
        self.first_failure: tuple[Result, Failure | None] | None = None
        self.known_end: Ended | None = None
        self.last_at_ns = last_at_ns
        self.subject: str | None = None
        """Subject of the event type that announced it; a run of another subject inside it is a phase."""
        self.starts: frozenset[str] = _NONE
        """Event types that announced its start."""
        self.each = False
        """The run is one outermost job, and ends with it."""
        self.results: frozenset[Result] = frozenset()
        """Results of its phases, kept while the run is unannounced."""
        self.subject_id: str | None = None
        """Id of the run, if only its own start and end events carry one."""
        self.shared_names: dict[str, None] = {}
        """Phase names used by several publishers; a dict as an ordered set."""
        self.has_aliases = False
        """A phase has or had an alias."""
        self.crowds: dict[str, Crowd] = {}
        """Indexes of the open phases of one name, where there are several."""

    def open_phases(self) -> Iterator[OpenPhase]:
        for group in self.phases.values():
            yield from group

    def add(self, phase: OpenPhase) -> None:
        """Add an open phase, as the youngest of its name."""
        name = phase.record.name
        group, before = self.phases.get(name), self.ended.get(name)
        if group is None:
            self.phases[name] = [phase]
            known = before.task if before is not None else None
            others = known is not None and known != phase.task
        else:
            others = phase.task is not None and group[-1].task != phase.task
            group.append(phase)
            crowd = self.crowds.get(name)
            if crowd is None:
                self.crowds[name] = Crowd(group)
            else:
                crowd.add(phase)
        if others:
            self.shared_names[name] = None

    def remove(self, phase: OpenPhase) -> None:
        """Remove a phase that ends."""
        name = phase.record.name
        _remove(self.phases, name, phase)
        if self.crowds and (crowd := self.crowds.get(name)) is not None:
            crowd.remove(phase)
            if name not in self.phases:
                del self.crowds[name]
        if phase.subject_id is not None:
            self.identify(phase, None)

    def seen_by(self, phase: OpenPhase, ranks: frozenset[Rank]) -> None:
        """Set the ranks that announced the current attempt of an open phase."""
        phase.seen = ranks
        crowd = self.crowds.get(phase.record.name)
        if crowd is not None:
            crowd.announced_by_all.clear()

    def identify(self, phase: OpenPhase, subject_id: str | None) -> None:
        """Set or remove the id of an open phase."""
        known = phase.subject_id
        if subject_id == known:
            return
        if known is not None:
            _remove(self.by_id, known, phase)
        phase.subject_id = subject_id
        if subject_id is not None:
            self.by_id.setdefault(subject_id, []).append(phase)

    def add_aliases(self, phase: OpenPhase, aliases: Iterable[str]) -> None:
        """Add aliases to one of its phases."""
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
    """Add a fact's event to a record of a run; return the record."""
    event, hints = fact.event, fact.hints
    if hints is not ENGINE_HINTS and hints.odd_time:
        record.flag(Flag.CLOCK)
    record.events.append(event)
    run.changed[record.span_id] = record
    if event.at_ns > run.last_at_ns:
        run.last_at_ns = event.at_ns
    return record


def is_entered(phase: OpenPhase) -> bool:
    """Whether the phase was only entered (``state.entered``); such phases often have no end event."""
    return bool(phase.starts) and all(ending(name) in _ENTERED for name in phase.starts)


def left_at_ns(run: OpenRun, phase: OpenPhase, at_ns: int) -> int:
    """Return the end of an entered phase: the time at which the next such phase was entered, else ``at_ns``."""
    began_ns = phase.record.started_at_ns
    later = [
        one.record.started_at_ns
        for one in run.open_phases()
        if one is not phase and one.starts == phase.starts
    ]
    return min([one for one in later if one >= began_ns], default=max(at_ns, run.last_at_ns))


def may_be_retried(fact: Fact) -> bool:
    """Whether the start allows several attempts, so that the first one gets a span from the beginning."""
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
