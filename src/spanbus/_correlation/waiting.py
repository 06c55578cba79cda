"""Decisions that wait for time to pass: held failures, unannounced runs, events that came before their run."""

from __future__ import annotations

from collections import deque
from typing import Final

from spanbus._correlation.limits import Limits
from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.open_run import OpenRun
from spanbus._named_tuple import NamedTuple
from spanbus._reading.facts import Fact

NEVER_NS: Final = 2**63 - 1


class EarlyEvent(NamedTuple):
    """An event without a run yet, and its publishing task."""

    fact: Fact
    task: str | None


class Waiting:
    """The pending decisions, in order of arrival. ``due_ns`` is the earliest time at which one may be due."""

    def __init__(self, limits: Limits) -> None:
        self._window_ns = int(limits.retry_window_s * 1e9)
        self._inferred_ns = int(limits.inferred_run_s * 1e9)
        self._implicit_ns = int(limits.implicit_run_s * 1e9)
        self._early_ns = int(limits.early_event_s * 1e9)
        self._early_most = limits.early_events
        self.held: dict[int, tuple[OpenRun, OpenPhase]] = {}
        self.inferred: dict[int, OpenRun] = {}
        self.early: deque[EarlyEvent] = deque()
        self.due_ns = NEVER_NS

    def hold(self, run: OpenRun, phase: OpenPhase) -> None:
        """Hold the failure of a phase that may be retried."""
        self.held[id(phase)] = (run, phase)
        self._due(phase.pending_at_ns + self._window_ns)

    def release(self, phase: OpenPhase) -> None:
        """Stop holding the failure of a phase."""
        if self.held:
            self.held.pop(id(phase), None)

    def infer(self, run: OpenRun) -> None:
        """Add an unannounced run, which may end without an end event."""
        self.inferred[id(run)] = run
        self.idle(run)

    def forget(self, run: OpenRun) -> None:
        """Remove a run that has ended or was announced."""
        if self.inferred:
            self.inferred.pop(id(run), None)

    def idle(self, run: OpenRun) -> None:
        """Schedule the end of an unannounced run without open phases."""
        self._due(run.last_at_ns + self._quiet_ns(run))

    def add_early(self, fact: Fact, task: str | None) -> EarlyEvent | None:
        """Hold an event until the run of its publisher starts; return the event that it displaces, if any."""
        self.early.append(EarlyEvent(fact, task))
        self._due(fact.event.at_ns + self._early_ns)
        return self.early.popleft() if len(self.early) > self._early_most else None

    def claim(self, run_key: str | None, task: str | None) -> list[EarlyEvent]:
        """Remove and return the events for a run: those with its key, and those without a key of the same publisher."""
        if not self.early:
            return []
        claim = [
            each
            for each in self.early
            if (
                each.fact.run_key == run_key if each.fact.run_key is not None else each.task == task
            )
        ]
        if claim:
            self.early = deque([each for each in self.early if each not in claim])
        return claim

    def settled(self, now_ns: int) -> list[tuple[OpenRun, OpenPhase]]:
        """Return the held failures whose retry window is over."""
        return [
            (run, phase)
            for run, phase in self.held.values()
            if now_ns - phase.pending_at_ns >= self._window_ns
        ]

    def quiet_runs(self, now_ns: int) -> list[OpenRun]:
        """Return the unannounced runs that have been quiet for long enough."""
        return [
            run
            for run in self.inferred.values()
            if not run.phases and not run.hooks and now_ns - run.last_at_ns >= self._quiet_ns(run)
        ]

    def expired(self, now_ns: int) -> list[EarlyEvent]:
        """Remove and return the events whose run did not start in time."""
        expired = [each for each in self.early if now_ns - each.fact.event.at_ns >= self._early_ns]
        if expired:
            self.early = deque([each for each in self.early if each not in expired])
        return expired

    def reschedule(self) -> None:
        """Recompute ``due_ns``."""
        times = [phase.pending_at_ns + self._window_ns for _, phase in self.held.values()]
        times += [each.fact.event.at_ns + self._early_ns for each in self.early]
        times += [
            run.last_at_ns + self._quiet_ns(run)
            for run in self.inferred.values()
            if not run.phases and not run.hooks
        ]
        self.due_ns = min(times, default=NEVER_NS)

    def _quiet_ns(self, run: OpenRun) -> int:
        return self._implicit_ns if run.implicit else self._inferred_ns

    def _due(self, at_ns: int) -> None:
        if at_ns < self.due_ns:
            self.due_ns = at_ns
