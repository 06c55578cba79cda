"""What is open, and which part of it a fact means.

A fact says by its ids, its name and its speaker where it belongs; where several open runs or phases could be meant, the
one in which it makes sense is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from spanbus.telemetry.facts import Fact, Rank, Verb
from spanbus.telemetry.names import Flag, Result
from spanbus.telemetry.records import Failure, Record

_NONE: frozenset[str] = frozenset()
_ALONE = {rank: frozenset({rank}) for rank in Rank}


class EndedPhase:
    """What is remembered of a phase that ended: enough to know a late announcement of it."""

    __slots__ = ("announced", "ended_at_ns", "orphan", "span_id")

    def __init__(self, ended_at_ns: int, span_id: int, orphan: bool, announced: bool) -> None:
        self.ended_at_ns, self.span_id, self.orphan = ended_at_ns, span_id, orphan
        self.announced = announced
        """False where it was closed with its run: its own end may still come."""


class EndedRun(NamedTuple):
    """What is remembered of a run that ended."""

    key: str | None
    run_id: str
    phases: dict[str, EndedPhase]
    started_at_ns: int
    ended_at_ns: int


class OpenPhase:
    """An open phase: its record, who announced it, and its attempts."""

    __slots__ = ("aliases", "attempt", "attempts_started_at_ns", "evidence", "hooks", "inner_ended_at_ns", "open_ranks", "orphan", "outer", "pending",
                 "pending_at_ns", "record", "seen", "strategies", "task")

    def __init__(self, record: Record, rank: Rank) -> None:
        self.record = record
        self.outer = rank
        self.aliases: frozenset[str] = _NONE
        self.task: str | None = None
        self.seen: frozenset[Rank] = _ALONE[rank]
        """Ranks that announced a start in the current attempt."""
        self.open_ranks: frozenset[Rank] = _ALONE[rank]
        self.attempt: Record | None = None
        """The record of the current attempt, from the second on."""
        self.attempts_started_at_ns = record.started_at_ns
        self.evidence: Failure | None = None
        """What the inner speakers said of the failure of the current attempt."""
        self.inner_ended_at_ns: int | None = None
        """When an inner speaker last announced the end of the current attempt."""
        self.pending: tuple[Result, Failure | None] | None = None
        """A failure that was announced and may still be retried."""
        self.pending_at_ns = 0
        self.hooks: dict[str, list[Record]] = {}
        self.strategies: list[Record] = []
        self.orphan = False

    @property
    def innermost(self) -> Record:
        return self.attempt or self.record

    def known_as(self, names: Iterable[str]) -> None:
        """It goes by these names too."""
        self.aliases = self.aliases.union(names)


@dataclass(slots=True, eq=False)
class OpenRun:
    """An open run with its open phases; the oldest of a name first."""

    record: Record
    key: str | None
    implicit: bool = False
    announced: bool = True
    correlation: str | None = None
    phases: dict[str, list[OpenPhase]] = field(default_factory=dict[str, list[OpenPhase]])
    ended: dict[str, EndedPhase] = field(default_factory=dict[str, EndedPhase])
    occurrences: dict[str, int] = field(default_factory=dict[str, int])
    hooks: dict[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    """Those that started outside any phase."""
    first_failure: tuple[Result, Failure | None] | None = None
    known_end: Fact | None = None
    last_at_ns: int = 0

    def open_phases(self) -> Iterator[OpenPhase]:
        for group in self.phases.values():
            yield from group


class OpenWork:
    """The open runs, by their ids, and what is remembered of those that ended."""

    def __init__(self, ended_runs_remembered: int) -> None:
        self.runs: dict[int, OpenRun] = {}
        self.by_key: dict[str, list[OpenRun]] = {}
        self.by_correlation: dict[str, OpenRun] = {}
        self.implicit: OpenRun | None = None
        self.ended: deque[EndedRun] = deque(maxlen=ended_runs_remembered)

    def add(self, run: OpenRun) -> None:
        """From now on facts may mean this run."""
        self.runs[id(run)] = run
        if run.implicit:
            self.implicit = run
        for name in {run.key, run.record.run_id} - {None}:
            self.by_key.setdefault(str(name), []).append(run)
        if run.correlation is not None:
            self.by_correlation[run.correlation] = run

    def run_to_end(self, fact: Fact, within: str | None) -> tuple[OpenRun | None, bool]:
        """The run that an end of a run means, with whether there was a choice."""
        if fact.run_key is not None:
            runs = self.by_key.get(fact.run_key)
            if not runs:
                nameless = [run for run in self.runs.values() if not run.implicit and run.key is None]
                return (nameless[0], False) if len(nameless) == 1 and len(self.runs) == 1 and not self.was_ended(fact) else (None, False)
            if within is not None:
                for found in runs:
                    if found.record.run_id == within:
                        return found, False
            likely = [run for run in runs if _may_end(run, fact)] or runs if len(runs) > 1 else runs
            return likely[0], len(likely) > 1
        if fact.correlation is not None and (run := self.by_correlation.get(fact.correlation)) is not None:
            return run, False
        if within is not None and (runs := self.by_key.get(within)):
            return runs[0], False
        active = [run for run in self.runs.values() if not run.implicit]
        likely = [run for run in active if _may_end(run, fact)] or active if len(active) > 1 else active
        return (likely[0], len(likely) > 1) if likely else (None, False)

    def was_ended(self, fact: Fact) -> bool:
        """A run with this id is among those that ended."""
        return any(fact.run_key in (run.key, run.run_id) for run in self.ended)

    def forget(self, run: OpenRun) -> None:
        """No fact means this run any more."""
        self.runs.pop(id(run), None)
        if self.implicit is run:
            self.implicit = None
        for name in {run.key, run.record.run_id} - {None}:
            group = self.by_key.get(str(name))
            if group is not None and run in group:
                group.remove(run)
                if not group:
                    del self.by_key[str(name)]
        if run.correlation is not None and self.by_correlation.get(run.correlation) is run:
            del self.by_correlation[run.correlation]

    def run_of(self, fact: Fact, within: str | None) -> OpenRun | None:
        """The open run that a fact of something inside a run belongs to."""
        key = fact.run_key
        if key is not None:
            runs = self.by_key.get(key)
            if runs:
                return runs[0] if len(runs) == 1 else self._which(runs, fact, within)
            return None
        if fact.correlation is not None and (run := self.by_correlation.get(fact.correlation)) is not None:
            return run
        if within is not None and (runs := self.by_key.get(within)):
            return runs[-1]
        active = [run for run in self.runs.values() if not run.implicit]
        if len(active) == 1:
            if self.implicit is not None and (run := self._meant([*active, self.implicit], fact)) is not None:
                return run
            return None if self._is_leftover(active[0], fact) else active[0]
        if len(active) > 1 and (run := self._meant(list(self.runs.values()), fact)) is not None:
            return run
        implicit = self.implicit
        if implicit is not None and (find(implicit, fact)[0] is not None or not self.is_late(fact)):
            return implicit
        return None

    def _which(self, runs: list[OpenRun], fact: Fact, within: str | None) -> OpenRun:
        """One of several open runs that bear the same key: by the caller's context, by what is open, else the latest for starts."""
        if within is not None:
            for run in runs:
                if run.record.run_id == within:
                    return run
        return self._meant(runs, fact) or next((run for run in runs if fact.name not in run.occurrences), runs[-1])

    def _meant(self, runs: list[OpenRun], fact: Fact) -> OpenRun | None:
        """The one of several open runs in which a fact that does not tell them apart makes sense; None where that is a guess.

        Where several hold what it names the implicit run goes first, then the oldest, and an end says that there was a choice.
        """
        if fact.rank is Rank.HOOK:
            return self._meant_by_hook(runs, fact)
        holders = [(run, phase) for run in runs if (phase := find(run, fact)[0]) is not None]
        if len(runs) > 2:
            holders.sort(key=lambda held: not held[0].implicit)
        if fact.verb is Verb.START:
            # one more speaker announces a step that is open; else one of them announces its next attempt
            unheard = [run for run, phase in holders if fact.rank not in phase.seen and phase.pending is None]
            again = [run for run, phase in holders if fact.rank > phase.outer and fact.rank not in phase.open_ranks]
            new = [run for run in runs if not run.implicit and fact.name not in run.occurrences]
            retried = [] if new else [run for run, phase in holders if phase.pending is not None]
            found = unheard or again or retried or (new if len(new) == 1 else [])
            return found[0] if found else None
        speaking = [held for held in holders if fact.verb is Verb.END and fact.rank in held[1].open_ranks] or holders
        if not speaking:
            return None
        run, phase = speaking[0]
        if len(speaking) > 1 and fact.verb is Verb.END:
            phase.record.flag(Flag.AMBIGUOUS)
        return run

    def _meant_by_hook(self, runs: list[OpenRun], fact: Fact) -> OpenRun | None:
        """The run in which the hook is open; for a start the one in which its strategy is, and in which it is not."""
        holding = [run for run in runs if fact.name in run.hooks or any(fact.name in phase.hooks for phase in run.open_phases())]
        if fact.verb is not Verb.START:
            return holding[0] if holding else None
        staged = [run for run in runs if fact.stage is not None and any(_is_staged(phase, fact.stage) for phase in run.open_phases())]
        return next((run for run in staged if run not in holding), staged[0] if staged else None)

    def _is_leftover(self, run: OpenRun, fact: Fact) -> bool:
        """The end of a phase that was closed with a run before this one, and that this one has not begun."""
        if fact.verb is not Verb.END or fact.name is None or fact.name in run.occurrences or find(run, fact)[0] is not None:
            return False
        return any((phase := ended.phases.get(fact.name)) is not None and not phase.announced for ended in self.ended)

    def is_late(self, fact: Fact) -> bool:
        """It belongs to a run that has ended: by its key; where it has none, by its time, or as the end of a phase that ended with its run."""
        ended = self.ended
        if fact.run_key is not None:
            if fact.run_key in self.by_key:
                return False
            anew = fact.run_key_is_shared and fact.verb is Verb.START
            return any(fact.run_key in (run.key, run.run_id) and not (anew and fact.at_ns >= run.ended_at_ns) for run in ended)
        if any(run.started_at_ns <= fact.at_ns < run.ended_at_ns for run in ended):
            return True
        return fact.verb is not Verb.START and fact.name is not None and any(fact.name in run.phases for run in ended)


# --- inside one run ---------------------------------------------------------------------------------------------------


def find(run: OpenRun, fact: Fact) -> tuple[OpenPhase | None, bool]:
    """The open phase that a fact means, with whether there was a choice: by name, by alias, by the only one that can be meant."""
    name = fact.name
    group = run.phases.get(name) if name is not None else None
    if group:
        if len(group) > 1 and fact.task is not None:
            for phase in group:
                if phase.task == fact.task:
                    return phase, False
        return _fitting(group, fact)
    if fact.exact and fact.rank is Rank.STEP:
        return None, False
    opened = list(run.open_phases())
    if name is None:
        return (opened[0], False) if len(opened) == 1 else (None, False)
    if fact.exact:
        return None, False
    related = [phase for phase in opened if phase.outer < fact.rank and (name in phase.aliases or phase.record.name in fact.aliases)]
    if fact.rank is Rank.STRATEGY and not any(_is_unsaid(phase, fact) for phase in related):
        near = [phase for phase in opened if phase.outer < fact.rank and _same_work(phase.record.name, name) and phase not in related]
        related = [phase for phase in near if _is_unsaid(phase, fact)] or related or near
    return _fitting(related, fact)


def host_of_strategy(run: OpenRun, fact: Fact) -> OpenPhase | None:
    """The phase in which a strategy of another name runs: the only open one."""
    if fact.rank is not Rank.STRATEGY:
        return None
    opened = list(run.open_phases())
    return opened[0] if len(opened) == 1 and opened[0].outer < Rank.STRATEGY else None


def open_strategy(run: OpenRun, name: str | None) -> tuple[OpenPhase, Record] | None:
    """The open strategy of this name, with the phase that it is in."""
    for phase in run.open_phases():
        for record in phase.strategies:
            if record.name == name:
                return phase, record
    return None


def host_of_hook(run: OpenRun, fact: Fact) -> tuple[OpenPhase | None, Record | None]:
    """The phase in which a hook runs, with the strategy where that is a span of its own."""
    opened = list(run.open_phases())
    named = fact.payload.get("phase") if not isinstance(fact.payload.get("step_id"), str) else fact.payload.get("step_id")
    wanted = [text for text in (fact.aliases + ((named,) if isinstance(named, str) else ())) if text]
    for text in wanted:
        if group := run.phases.get(text):
            return group[0], _strategy_of(group[0], fact.stage)
    if fact.stage is not None:
        for phase in opened:
            if (strategy := _strategy_of(phase, fact.stage)) is not None:
                return phase, strategy
        related = [phase for phase in opened if _is_staged(phase, fact.stage)]
        if related:
            return related[0], None
    holding = [phase for phase in opened if fact.name in phase.hooks]
    if holding:
        return holding[0], None
    return (opened[-1] if opened else None), None


def _is_staged(phase: OpenPhase, stage: str) -> bool:
    """Hooks of this stage run in this phase."""
    return (
        phase.record.name == stage or stage in phase.aliases or _same_work(phase.record.name, stage) or _strategy_of(phase, stage) is not None
    )


def _strategy_of(phase: OpenPhase, stage: str | None) -> Record | None:
    return next((record for record in phase.strategies if record.name == stage), None)


def _fitting(phases: list[OpenPhase], fact: Fact) -> tuple[OpenPhase | None, bool]:
    """Of phases that a fact may mean, the oldest of which its speaker has not said it yet, with whether there was a choice."""
    if len(phases) > 1:
        phases = [phase for phase in phases if _is_unsaid(phase, fact)] or phases
    return (phases[0], len(phases) > 1) if phases else (None, False)


def _is_unsaid(phase: OpenPhase, fact: Fact) -> bool:
    """The speaker of this start or end has not told it of the current attempt yet."""
    if fact.verb is Verb.START:
        return fact.rank not in phase.seen and phase.pending is None
    return fact.verb is Verb.EVENT or fact.rank in phase.open_ranks


def _may_end(run: OpenRun, fact: Fact) -> bool:
    """Whether what is known of a run agrees with this end of it."""
    result = fact.result or Result.SUCCESS
    if fact.stage is not None and result.failed:
        return fact.stage in run.phases
    if result.failed:
        return run.first_failure is not None or any(phase.pending is not None for phase in run.open_phases())
    if result is Result.CANCELLATION:
        return bool(run.phases)
    return all(phase.pending is not None for phase in run.open_phases())


def _same_work(step: str, strategy: str) -> bool:
    """``fast_hooks`` is the step in which strategy ``fast`` runs."""
    return step == strategy or step.startswith((f"{strategy}_", f"{strategy}-", f"{strategy} "))
