"""The open runs, and the lookup of the run that a fact belongs to.

A fact is matched by its ids, its name and its rank. Among several candidates, the one whose state fits the fact is taken.
"""

from __future__ import annotations

from collections import deque

from spanbus._correlation.matching import find, is_staged, may_end
from spanbus._correlation.open_run import EndedRun, OpenRun
from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Ended, Fact, Rank, Verb
from spanbus._semantics import Flag


class OpenSpans:
    """The open runs by id, and the remains of ended ones."""

    def __init__(self, ended_runs_remembered: int) -> None:
        self.runs: dict[int, OpenRun] = {}
        self.by_key: dict[str, list[OpenRun]] = {}
        self.by_correlation: dict[str, OpenRun] = {}
        self.implicit: OpenRun | None = None
        self.ended: deque[EndedRun] = deque(maxlen=ended_runs_remembered)

    def add(self, run: OpenRun) -> None:
        """Add an open run to the lookup tables."""
        self.runs[id(run.record)] = run
        if run.implicit:
            self.implicit = run
        for name in {run.key, run.record.run_id, run.subject_id} - {None}:
            self.by_key.setdefault(str(name), []).append(run)
        if run.correlation is not None:
            self.by_correlation[run.correlation] = run

    def set_key(self, run: OpenRun, key: str | None) -> None:
        """Turn the implicit run into an announced one with this key."""
        self.implicit, run.implicit = None, False
        run.key = key
        if key is not None:
            self.by_key.setdefault(key, []).append(run)

    def only_active(self) -> OpenRun | None:
        """Return the only open run that is not implicit, None if there are several or none."""
        active = [run for run in self.runs.values() if not run.implicit]
        return active[0] if len(active) == 1 else None

    def of_record(self, record: SpanState | None) -> OpenRun | None:
        """Return the open run that contains a record."""
        if record is None:
            return None
        while record.parent is not None:
            record = record.parent
        run = self.runs.get(id(record))
        return run if run is not None and run.record is record else None

    def run_to_end(self, fact: Ended, within: OpenRun | None) -> tuple[OpenRun | None, bool]:
        """Return the run that an end event closes, and whether the match was ambiguous."""
        if fact.run_key is not None:
            runs = self.by_key.get(fact.run_key)
            if not runs:
                nameless = [
                    run for run in self.runs.values() if not run.implicit and run.key is None
                ]
                return (
                    (nameless[0], False)
                    if len(nameless) == 1 and len(self.runs) == 1 and not self.was_ended(fact)
                    else (None, False)
                )
            if within is not None and within in runs:
                return within, False
            likely = [run for run in runs if may_end(run, fact)] or runs if len(runs) > 1 else runs
            return likely[0], len(likely) > 1
        if (
            fact.hints.correlation is not None
            and (run := self.by_correlation.get(fact.hints.correlation)) is not None
        ):
            return run, False
        subject_id = fact.hints.subject_id
        if subject_id is not None and (runs := self.by_key.get(subject_id)):
            return (within if within is not None and within in runs else runs[0]), False
        active = [run for run in self.runs.values() if not run.implicit]
        workflow = fact.hints.workflow
        if len(active) > 1 and workflow is not None:
            matching = [run for run in active if run.record.workflow == workflow]
            if matching and within not in matching:
                within, active = None, matching
        if within is not None:
            return within, False
        likely = (
            [run for run in active if may_end(run, fact)] or active if len(active) > 1 else active
        )
        return (likely[0], len(likely) > 1) if likely else (None, False)

    def was_ended(self, fact: Fact) -> bool:
        """Whether a run with this id is among the ended ones."""
        return any(fact.run_key in (run.key, run.run_id) for run in self.ended)

    def forget(self, run: OpenRun) -> None:
        """Remove a run from the lookup tables."""
        self.runs.pop(id(run.record), None)
        if self.implicit is run:
            self.implicit = None
        for name in {run.key, run.record.run_id, run.subject_id} - {None}:
            group = self.by_key.get(str(name))
            if group is not None and run in group:
                group.remove(run)
                if not group:
                    del self.by_key[str(name)]
        if run.correlation is not None and self.by_correlation.get(run.correlation) is run:
            del self.by_correlation[run.correlation]

    def run_of(self, fact: Fact, within: OpenRun | None) -> OpenRun | None:
        """Return the open run for a fact of a phase or hook."""
        key = fact.run_key
        if key is not None:
            runs = self.by_key.get(key)
            if runs:
                return runs[0] if len(runs) == 1 else self._choose(runs, fact, within)
            return None
        if (
            fact.hints.correlation is not None
            and (run := self.by_correlation.get(fact.hints.correlation)) is not None
        ):
            return run
        if within is not None:
            return within
        active = [run for run in self.runs.values() if not run.implicit]
        if len(active) == 1:
            if (
                self.implicit is not None
                and (run := self._best_match([*active, self.implicit], fact)) is not None
            ):
                return run
            return None if self._is_leftover(active[0], fact) else active[0]
        if (
            len(active) > 1
            and (run := self._best_match(list(self.runs.values()), fact)) is not None
        ):
            return run
        implicit = self.implicit
        if implicit is not None and (find(implicit, fact)[0] is not None or not self.is_late(fact)):
            return implicit
        return None

    def _choose(self, runs: list[OpenRun], fact: Fact, within: OpenRun | None) -> OpenRun:
        """Choose between several open runs with the same key: by the publisher's context, by what is open, else the first that
        has not had a phase of this name, else the latest.
        """
        if within is not None and within in runs:
            return within
        return self._best_match(runs, fact) or next(
            (run for run in runs if fact.name not in run.occurrences), runs[-1]
        )

    def _best_match(self, runs: list[OpenRun], fact: Fact) -> OpenRun | None:
        """Return the run whose open phases fit the fact best; None if that would be a guess.

        If several runs have the phase open, the implicit run comes first, then the oldest. An end is then flagged as ambiguous.
        """
        if fact.rank is Rank.HOOK:
            return self._best_match_for_hook(runs, fact)
        holders = [(run, phase) for run in runs if (phase := find(run, fact)[0]) is not None]
        if len(runs) > 2:
            holders.sort(key=lambda held: not held[0].implicit)
        if fact.verb is Verb.START:
            # another publisher announces an open step; else one of them announces its next attempt
            unannounced = [
                run
                for run, phase in holders
                if fact.rank not in phase.seen and phase.pending is None
            ]
            again = [
                run
                for run, phase in holders
                if fact.rank > phase.outer and fact.rank not in phase.open_ranks
            ]
            new = [run for run in runs if not run.implicit and fact.name not in run.occurrences]
            retried = [] if new else [run for run, phase in holders if phase.pending is not None]
            found = unannounced or again or retried or (new if len(new) == 1 else [])
            return found[0] if found else None
        speaking = [
            held for held in holders if fact.verb is Verb.END and fact.rank in held[1].open_ranks
        ] or holders
        if not speaking:
            return None
        run, phase = speaking[0]
        if len(speaking) > 1 and fact.verb is Verb.END:
            phase.record.flag(Flag.AMBIGUOUS)
        return run

    def _best_match_for_hook(self, runs: list[OpenRun], fact: Fact) -> OpenRun | None:
        """Return the run in which the hook is open; for a start, the run of its stage, preferably without this hook."""
        holding = [
            run
            for run in runs
            if fact.name in run.hooks
            or any(fact.name in phase.hooks for phase in run.open_phases())
        ]
        if fact.verb is not Verb.START:
            return holding[0] if holding else None
        staged = [
            run
            for run in runs
            if fact.hints.stage is not None
            and any(is_staged(phase, fact.hints.stage) for phase in run.open_phases())
        ]
        return next((run for run in staged if run not in holding), staged[0] if staged else None)

    def _is_leftover(self, run: OpenRun, fact: Fact) -> bool:
        """Whether this is the end of a phase that was closed with an earlier run and never started in ``run``."""
        if (
            fact.verb is not Verb.END
            or fact.name is None
            or fact.name in run.occurrences
            or find(run, fact)[0] is not None
        ):
            return False
        return any(
            (phase := ended.phases.get(fact.name)) is not None and not phase.announced
            for ended in self.ended
        )

    def is_late(self, fact: Fact) -> bool:
        """Whether a fact belongs to an ended run: by its key, else by its time, or as the end of a phase of that run."""
        ended = self.ended
        if fact.run_key is not None:
            if fact.run_key in self.by_key:
                return False
            begins = fact.verb is Verb.START
            return any(
                fact.run_key in (run.key, run.run_id)
                and not (
                    begins
                    and (fact.hints.shared or not run.announced)
                    and fact.event.at_ns >= run.ended_at_ns
                )
                for run in ended
            )
        if any(run.started_at_ns <= fact.event.at_ns < run.ended_at_ns for run in ended):
            return True
        return (
            fact.verb is not Verb.START
            and fact.name is not None
            and any(fact.name in run.phases for run in ended)
        )
