"""The correlator: a state machine that assigns each fact to a run, phase and attempt.

Facts may come from any thread or event loop. The correlator does no I/O and never blocks. Live events, recorded streams and
the leftovers of a killed process all pass through it. Its output depends on the events alone: the same events give the same
spans with the same ids, times and results.

The rules, in short (``docs/dialects.md`` has the long form):

- A step that is announced two or three times (engine bridge, action, orchestrator) is one phase and one failure. The
  outermost publisher decides when it ends; events of inner publishers become span events and attempts.
- Repeated start and end pairs under one open step are attempts. A failure that may be retried is held until the next
  start, the end of its run, or for 30 seconds of event time.
- An end without a start is a span of its own, flagged as an orphan. A start without an end is closed as
  ``error``/``abandoned`` with its parent, by the bound on open spans, or at the end of the stream. Open work never expires.
- An unannounced run ends when it has been quiet for a while, with the result of its phases. An event that neither starts
  nor ends anything opens no run.
- An end that could belong to several open spans closes the oldest and flags it as ambiguous.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final

from spanbus._correlation.dedup import Dedup
from spanbus._correlation.fan_out import FanOut
from spanbus._correlation.hooks import Hooks
from spanbus._correlation.limits import CorrelatorState as CorrelatorState
from spanbus._correlation.limits import Counts
from spanbus._correlation.limits import Limits as Limits
from spanbus._correlation.matching import find
from spanbus._correlation.open_run import OpenRun, add_event
from spanbus._correlation.open_spans import OpenSpans
from spanbus._correlation.phases import Phases
from spanbus._correlation.runs import Caller, Runs
from spanbus._correlation.span_state import EventSink, SpanSink, SpanState
from spanbus._correlation.waiting import Waiting
from spanbus._reading.facts import Ended, Fact, Noted, Rank, Started, Verb
from spanbus._reading.policy import Policy
from spanbus._reading.spelling import subject
from spanbus._semantics import ErrorType, Failure, Flag, Level, Result

_RUN: Final = Rank.RUN
_HOOK: Final = Rank.HOOK
_RETRY: Final = Verb.RETRY


class Correlator:
    """Takes facts, and reports opened, closed and noted records to its sinks. Thread-safe.

    Sinks are called under the correlator's lock, in the order of the facts. An exception of a sink is passed to
    ``on_sink_error``, and the correlator continues. ``policy`` is the dialect's; ``caller`` returns the trace context of the
    code that starts a run; ``live`` is False for a recorded stream, where only its events advance time.
    """

    def __init__(
        self,
        sinks: Iterable[SpanSink] = (),
        *,
        note_sinks: Iterable[EventSink] = (),
        policy: Policy | None = None,
        limits: Limits | None = None,
        caller: Caller | None = None,
        live: bool = True,
        on_sink_error: Callable[[Exception], None] | None = None,
        on_run_ended: Callable[[SpanState], None] | None = None,
    ) -> None:
        limits = limits or Limits()
        self._policy = policy or Policy()
        self._live = live
        self._lock = threading.RLock()
        self._counts = Counts()
        self._dedup = Dedup(limits.event_ids_remembered)
        self._spans = OpenSpans(limits.ended_runs_remembered)
        self._by_key = self._spans.by_key
        self._waiting = Waiting(limits)
        self._out = FanOut(sinks, note_sinks, limits.children_kept, on_sink_error)
        self._hooks = Hooks(self._out, self._counts)
        self._phases = Phases(
            self._out,
            self._hooks,
            self._counts,
            limits,
            self._waiting,
            self._spans,
            restart_is_attempt=self._policy.restart_is_attempt,
        )
        self._runs = Runs(
            self._out,
            self._hooks,
            self._phases,
            self._counts,
            limits,
            self._waiting,
            self._spans,
            unique_ids=self._policy.unique_runs,
            caller=caller,
            on_ended=on_run_ended,
        )
        self._unannounced: dict[int, SpanState] = {}
        """Open records of :meth:`begin`, by span id."""
        self.on_waiting: Callable[[], object] | None = None
        """Called once, under the lock, when the first event is held until its run starts."""
        self.latest_at_ns = 0
        self._ticked_at_ns = 0
        self._ticked_monotonic_ns = 0

    # --- in -----------------------------------------------------------------------------------------------------------

    def apply(
        self, fact: Fact, within: SpanState | None = None, task: str | None = None
    ) -> SpanState | None:
        """Apply one fact. Returns the record that keeps its event, None for a duplicate or an event without a record.

        ``within`` is the innermost record in whose context the event was published, ``task`` identifies the publishing task
        or thread; both may be None.
        """
        with self._lock:
            event, counts, waiting, out = fact.event, self._counts, self._waiting, self._out
            counts.seen += 1
            if event.event_id and self._dedup.is_double(event.event_id, event.name):
                counts.duplicates += 1
                return None
            at_ns = event.at_ns
            if at_ns > self.latest_at_ns:
                self.latest_at_ns = at_ns
                if at_ns >= waiting.due_ns and not isinstance(fact, Ended):
                    self._sweep(at_ns)  # but an end takes precedence over a timeout
            elif at_ns < 1:  # a clock before 1970
                event.at_ns = 1
            key, rank, phases = fact.run_key, fact.rank, self._phases
            runs = self._by_key.get(key) if key is not None else None
            record: SpanState | None
            if runs is not None and len(runs) == 1 and rank is not _RUN and rank is not _HOOK:
                record = self._apply_in_run(runs[0], fact, within, task)
            else:
                record = self._apply_elsewhere(fact, within, task)
            if phases.jobs_done:
                self._close_jobs()
            if self.latest_at_ns >= waiting.due_ns:
                self._sweep(self.latest_at_ns)
            if record is None:
                return None
            counts.recorded += 1
            if out.note_sinks:
                out.noted(record, event)
            return record

    def _apply_in_run(
        self, run: OpenRun, fact: Fact, within: SpanState | None, task: str | None
    ) -> SpanState:
        """Apply a fact of a phase to its run."""
        if type(fact) is Noted:
            group = run.phases.get(fact.name) if fact.name is not None else None
            if group is not None and len(group) == 1:
                return add_event(run, group[0].innermost, fact)
            phase = find(run, fact, task, within)[0]
            if phase is not None:
                return add_event(run, phase.innermost, fact)
            inner = within is not None and within.result is None
            if inner and self._spans.of_record(within) is run and within is not None:
                return add_event(run, within, fact)
            return add_event(run, run.record, fact)
        if type(fact) is Started:
            return self._phases.started(run, fact, task, within)
        assert type(fact) is Ended
        if fact.verb is _RETRY:
            return self._phases.retried(run, fact, task, within)
        return self._phases.ended(run, fact, task, within)

    def _apply_elsewhere(
        self, fact: Fact, within: SpanState | None, task: str | None
    ) -> SpanState | None:
        """Apply a fact of a run or hook, or one whose run is not known yet."""
        inside = self._spans.of_record(within)
        if fact.rank is _RUN and not isinstance(fact, Noted):
            part = self._part_of_run(fact, inside)
            if part is not None:
                return self._apply_in_run(part, fact, within, task)
            if isinstance(fact, Started):
                return self._runs.started(fact, task, inside)
            assert isinstance(fact, Ended)
            ended = self._runs.ended(fact, inside)
            if ended is None:
                self._report_late(fact)
            return ended
        run = self._run_of(fact, inside, task)
        if run is None:
            return None
        if fact.rank is _RUN:
            within_run = within is not None and within.result is None and inside is run
            return add_event(run, within if within_run and within is not None else run.record, fact)
        if fact.rank is _HOOK:
            return self._hooks.take(run, fact)
        return self._apply_in_run(run, fact, within, task)

    def _part_of_run(self, fact: Fact, inside: OpenRun | None) -> OpenRun | None:
        """Return the open run in which this run is a phase, such as a job in a pipeline; sets the fact's rank."""
        if fact.name is None:
            return None
        if fact.run_key is not None:
            runs = self._spans.by_key.get(fact.run_key)
            run = runs[-1] if runs else None
        else:
            run = inside or self._spans.only_active()
        if run is None or run.subject is None or run.subject == subject(fact.event.name):
            return None
        if isinstance(fact, Ended) and find(run, fact)[0] is None:
            return None
        fact.rank = Rank.PHASE
        return run

    def _run_of(self, fact: Fact, inside: OpenRun | None, task: str | None) -> OpenRun | None:
        """Return the open run that a fact belongs to. A phase or hook without a run opens one."""
        run: OpenRun | None = None
        starts_job = False
        if self._policy.each:
            starts_job = isinstance(fact, Started) and fact.rank is not _HOOK
            key = fact.run_key or fact.hints.task
            known = self._spans.by_key.get(key) if key is not None else None
            run = known[-1] if known else inside
        if run is None and not starts_job:
            run = self._spans.run_of(fact, inside)
        if run is not None:
            return run
        if self._spans.is_late(fact):
            if fact.verb is Verb.END and not fact.hints.state:
                self._counts.unmatched_ends += 1
            self._report_late(fact)
            return None
        if starts_job:
            return self._runs.opened(fact, task, announced=True, each=True)
        if isinstance(fact, Noted) or fact.verb is Verb.RETRY or _is_weak_evidence(fact):
            if self.on_waiting is not None:
                callback, self.on_waiting = self.on_waiting, None
                callback()
            displaced = self._waiting.add_early(fact, task)
            if displaced is not None:
                self._report_late(displaced.fact)
            return None
        if fact.run_key is not None:
            return self._runs.opened(fact, task, announced=False)
        implicit = self._spans.implicit
        if implicit is not None:
            return implicit
        return self._runs.opened(fact, task, announced=False, implicit=True)

    def _report_late(self, fact: Fact) -> None:
        self._counts.late += 1
        self._out.late(fact.event)

    def begin(self, record: SpanState) -> None:
        """Open a record without an event: the execution of a task, wrapped by its worker."""
        with self._lock:
            self._unannounced[record.span_id] = record
            self._out.opened(record)

    def end(
        self,
        record: SpanState,
        result: Result,
        failure: Failure | None,
        at_ns: int,
        duration_ns: int,
    ) -> None:
        """End a record of :meth:`begin`. Idempotent."""
        with self._lock:
            if record.result is not None:
                return
            self._unannounced.pop(record.span_id, None)
            record.finish(result, failure, at_ns, duration_ns)
            self._out.closed(record)

    def end_run(self, run_key: str, error_type: ErrorType) -> None:
        """End an open run and its open phases at the time of its last event, because its own end will not come."""
        with self._lock:
            for run in list(self._by_key.get(run_key, ())):
                self._runs.close(run, error_type, None)

    def flag_run(self, run_key: str, flag: Flag) -> None:
        """Flag an open run."""
        with self._lock:
            for run in self._by_key.get(run_key, ()):
                run.record.flag(flag)

    def publisher_ended(
        self,
        record: SpanState,
        result: Result,
        failure: Failure | None = None,
        at_ns: int | None = None,
    ) -> None:
        """End a run or phase whose publishing task ended without an end event.

        ``result`` is CANCELLATION, FAILURE with the task's exception, or SUCCESS. With SUCCESS an unannounced run ends with
        the result of its phases, and announced work stays open.
        """
        with self._lock:
            run = self._spans.of_record(record)
            if run is None or record.result is not None:
                return
            end_ns = at_ns if at_ns is not None else max(run.last_at_ns, self.latest_at_ns)
            if record.level is Level.RUN:
                self._runs.publisher_ended(run, result, failure, end_ns)
            elif result.failed or result is Result.CANCELLATION:
                for phase in list(run.open_phases()):
                    if record is phase.record or record is phase.attempt:
                        self._phases.close(run, phase, result, failure, end_ns, None)
            if self._phases.jobs_done:
                self._close_jobs()

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int | None = None) -> None:
        """Advance time without an event: settles held failures, quiet runs and early events. Open work does not expire.

        ``now_ns`` defaults to the time of the latest event plus the time since by the monotonic clock.
        """
        if not self._live:
            return
        with self._lock:
            if now_ns is None:
                monotonic_ns = time.monotonic_ns()
                if self._ticked_at_ns != self.latest_at_ns:
                    self._ticked_at_ns, self._ticked_monotonic_ns = self.latest_at_ns, monotonic_ns
                now_ns = self.latest_at_ns + monotonic_ns - self._ticked_monotonic_ns
            if now_ns >= self._waiting.due_ns:
                self._sweep(now_ns)

    def _sweep(self, now_ns: int) -> None:
        for run, phase in self._waiting.settled(now_ns):
            self._phases.settle(run, phase)
        if self._phases.jobs_done:
            self._close_jobs()
        for run in self._waiting.quiet_runs(now_ns):
            self._runs.close_inferred(run, run.last_at_ns)
        for early in self._waiting.expired(now_ns):
            self._report_late(early.fact)
        self._waiting.reschedule()

    def _close_jobs(self) -> None:
        done, self._phases.jobs_done = self._phases.jobs_done, []
        for run in done:
            if not run.phases and run.record.result is None:
                self._runs.close_by_phases(run, run.last_at_ns)

    def close(
        self, *, error_type: ErrorType = ErrorType.ABANDONED, at_ns: int | None = None
    ) -> None:
        """End all open work as ``error`` with ``error_type``. Idempotent."""
        with self._lock:
            for run in list(self._spans.runs.values()):
                self._runs.close(run, error_type, at_ns)
            for record in list(self._unannounced.values()):
                failure = Failure(error_type, f"{record.name} was still running")
                ended_at_ns = at_ns or time.time_ns()
                passed_ns = max(0, ended_at_ns - record.started_at_ns)
                self.end(record, Result.ERROR, failure, ended_at_ns, passed_ns)
            self._phases.jobs_done = []
            self._runs.forget_early_ends()
            while self._waiting.early:
                self._report_late(self._waiting.early.popleft().fact)
            self._waiting.reschedule()

    # --- out ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Generator[None]:
        """Context manager that blocks facts, so that the counts of the sinks do not change."""
        with self._lock:
            yield

    def tell(self, sinks: Iterable[SpanSink], note_sinks: Iterable[EventSink] = ()) -> None:
        """Replace the sinks. May be called by a sink."""
        with self._lock:
            self._out.tell(sinks, note_sinks)

    def resume(self, sinks: Iterable[SpanSink], note_sinks: Iterable[EventSink] = ()) -> None:
        """Replace the sinks and report all open records to them, parents first.

        For a correlator that has replayed the events of open runs without sinks, and now continues them.
        """
        with self._lock:
            self._out.tell(sinks, note_sinks)
            for record in self.open_records():
                self._out.reopened(record)

    def forked(self, sinks: Iterable[SpanSink], note_sinks: Iterable[EventSink] = ()) -> None:
        """After a fork, in the child: open work belongs to the parent process, which ends it; ``sinks`` get new work only.

        Phases that the child starts still belong to the run that was open at the fork.
        """
        self._lock = threading.RLock()
        self._out.tell(sinks, note_sinks)
        self._out.disown(self.open_records())
        self._unannounced.clear()

    def state(self) -> CorrelatorState:
        """Return a consistent snapshot of the counts."""
        with self._lock:
            return self._counts.state(len(self._spans.runs))

    def open_records(self) -> list[SpanState]:
        """Return the open records, parents before children."""
        with self._lock:
            found: list[SpanState] = list(self._unannounced.values())
            for run in self._spans.runs.values():
                found.append(run.record)
                for phase in run.open_phases():
                    found.append(phase.record)
                    if phase.attempt is not None:
                        found.append(phase.attempt)
                    found.extend(phase.strategies)
                    found.extend(hook for hooks in phase.hooks.values() for hook in hooks)
                found.extend(hook for hooks in run.hooks.values() for hook in hooks)
            return found

    def take_changed(self) -> list[SpanState]:
        """Return the open records to which an event was added since the last call."""
        with self._lock:
            changed = list(self._out.changed.values())
            self._out.changed.clear()
        return [record for record in changed if record.result is None]

    def innermost(self, run_id: str, phase: str | None) -> SpanState | None:
        """Return the innermost open record of this run and phase: attempt, phase or run."""
        with self._lock:
            runs = self._spans.by_key.get(run_id)
            if not runs:
                return None
            run = runs[-1]
            group = run.phases.get(phase) if phase is not None else None
            return group[-1].innermost if group else run.record

    def tool(self, run_id: str, phase: str, name: str) -> SpanState | None:
        """Return the latest open hook or command of this name in a phase."""
        with self._lock:
            runs = self._spans.by_key.get(run_id)
            group = runs[-1].phases.get(phase) if runs else None
            found = group[-1].hooks.get(name) if group else None
            return found[-1] if found else None


def _is_weak_evidence(fact: Fact) -> bool:
    """Whether a fact is too weak to open a phase: an end that needs open work, or a failure named by its type alone
    (``config.error``).
    """
    return isinstance(fact, Ended) and (
        fact.hints.of_open
        or (
            fact.rank is not _HOOK
            and fact.result.failed
            and fact.run_key is None
            and not fact.hints.exact
            and not fact.named_by_payload
        )
    )
