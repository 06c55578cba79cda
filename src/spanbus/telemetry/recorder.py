"""Correlation: the state machine that says to which run, phase and attempt a fact belongs.

It is fed by events from any thread or loop, does no I/O and waits for nothing. Live events, a recorded stream and what a
killed process left all go through it, and its output is a function of the events alone: the same events give the same
spans with the same ids, times and results.

The rules, in short (``docs/dialects.md`` has the long form):

- A step that is announced two or three times (engine bridge, action, orchestrator) is one phase and one failure. The
  outermost speaker that was heard decides when it ends; what the inner ones say are events and attempts.
- Repeated start and end pairs under one open step are attempts. A failure that may still be retried is held until the
  next start, the end of its run, or for 30 seconds of event time.
- An end without a start is a span of its own and says so; a start without an end is closed with its parent, by time to
  live, or when the stream ends, as ``error``/``abandoned``.
- Ends that could belong to several open spans close the oldest and say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

from spanbus.telemetry import names
from spanbus.telemetry.facts import Fact, Rank, Verb
from spanbus.telemetry.names import ErrorType, Flag, Level, Result
from spanbus.telemetry.open_work import EndedPhase, EndedRun, OpenPhase, OpenRun, OpenWork, find, host_of_hook, host_of_strategy, open_strategy
from spanbus.telemetry.records import EventNote, Failure, Held, Link, NoteSink, Record, RecordSink
from spanbus.workflow import identity
from spanbus.workflow.events import Event

_HOOKS_OF_A_RUN = 256
_SUCCESS, _PHASE, _ATTEMPT = Result.SUCCESS, Level.PHASE, Level.ATTEMPT  # asked for at every event: a member is looked up by a descriptor
IMPLICIT = "implicit"
"""Name of the run of events that belong to no run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the recorder may hold. What goes beyond is closed as ``abandoned``, the oldest first, and counted."""

    open_runs: int = 4_096
    open_phases: int = 16_384
    children_kept: int = 10_000
    ended_runs_remembered: int = 1_024
    ended_phases_remembered: int = 4_096
    event_ids_remembered: int = 32_768
    retry_window_s: float = 30.0
    time_to_live_s: float = 24 * 3600.0


class RecorderState(NamedTuple):
    """A snapshot of the recorder's counts."""

    events_seen: int
    events_recorded: int
    events_duplicate: int
    events_late: int
    runs_open: int
    phases_open: int
    runs_ended: int
    phases_ended: int
    run_failures: int
    phase_failures: int
    retries: int
    orphan_ends: int
    unmatched_ends: int
    abandoned: int


class Recorder:
    """Feed it facts; it tells its sinks what opened, what closed and what was noted.

    Sinks are called under the recorder's lock, in the order of the facts. A sink that raises is counted and logged by the
    caller given as ``on_sink_error``; the recorder goes on.
    """

    def __init__(
        self, sinks: Iterable[RecordSink] = (), *, note_sinks: Iterable[NoteSink] = (), limits: Limits | None = None, on_sink_error: Callable[[Exception], None] | None = None,
        on_run_ended: Callable[[Record], None] | None = None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._note_sinks = tuple(note_sinks)
        self._limits = limits or Limits()
        self._on_sink_error = on_sink_error
        self._on_run_ended = on_run_ended
        self._lock = threading.RLock()
        self._work = OpenWork(self._limits.ended_runs_remembered)
        self._used_ids: dict[str, int] = {}
        self._early_ends: dict[str, Fact] = {}
        self._ids_new: set[str] = set()
        self._ids_old: set[str] = set()
        self._pending: dict[int, tuple[OpenRun, OpenPhase]] = {}
        self._disowned: set[int] = set()
        self._disowned_records: list[Record] = []
        self._phases_open = 0
        self._next_sweep_ns = 0
        self._window_ns = int(self._limits.retry_window_s * 1e9)
        self._ttl_ns = int(self._limits.time_to_live_s * 1e9)
        self.latest_at_ns = 0
        self._seen = self._recorded = self._duplicates = self._late = 0
        self._runs_ended = self._phases_ended = self._run_failures = self._phase_failures = 0
        self._retries = self._orphan_ends = self._unmatched_ends = self._abandoned = 0

    # --- in -----------------------------------------------------------------------------------------------------------

    def feed(self, fact: Fact, *, within: str | None = None) -> Record | None:
        """Take one fact; the record that keeps its event, or None when it was a duplicate or came too late for any.

        ``within`` is the id of the run in whose context the event was published, where the caller knows it.
        """
        with self._lock:
            self._seen += 1
            if fact.event_id and self._is_duplicate(fact.event_id):
                self._duplicates += 1
                return None
            if fact.at_ns > self.latest_at_ns:
                self.latest_at_ns = fact.at_ns
                if self._pending or fact.at_ns >= self._next_sweep_ns:
                    self._sweep(fact.at_ns)
            note = EventNote(fact.event_type, fact.at_ns, fact.event_id, fact.source, fact.payload, fact.attempt or 1)
            if fact.rank is Rank.RUN and fact.verb is not Verb.EVENT:
                record = self._run_started(fact, note) if fact.verb is Verb.START else self._run_ended(fact, note, within)
            else:
                record = self._inside(fact, note, within)
            if record is None:
                self._late += 1
                for sink in self._sinks:
                    self._tell(sink.late, note)
                return None
            self._kept(record, note)
            return record

    def would_open_run(self, fact: Fact) -> bool:
        """Whether this start may be the first that is heard of a run, whose caller then matters."""
        return fact.rank is Rank.RUN or fact.run_key is None or fact.run_key not in self._work.by_key

    # The short ways: no fact is made of a plain event. False says that nothing was done and it has to take the long way.

    def note(self, event: Event) -> bool:
        """An event that is nothing but an event of the one open phase of its name."""
        with self._lock:
            run = self._plain_run_of(event)
            group = run.phases.get(event.phase or "") if run is not None else None
            if run is None or group is None or len(group) > 1:
                return False
            note = self._seen_first(event)
            if note is not None:
                self._kept(self._keep(run, group[0].innermost, note), note)
            return True

    def begin(self, event: Event, rank: Rank, task_type: str | None, needs: Sequence[str]) -> bool:
        """The start of the first phase of its name."""
        with self._lock:
            run, name = self._plain_run_of(event), event.phase
            if run is None or name is None or name in run.phases or name in run.ended:
                return False
            note = self._seen_first(event)
            if note is not None:
                record = self._open_phase(run, name, event.at_ns, rank, task_type or name, event.attempt or 1, needs).record
                self._kept(self._keep(run, record, note), note)
            return True

    def end(self, event: Event, rank: Rank, duration_ns: int | None) -> bool:
        """The end of the one open phase of its name, with success."""
        with self._lock:
            run = self._plain_run_of(event)
            group = run.phases.get(event.phase or "") if run is not None else None
            if run is None or group is None or len(group) > 1 or group[0].outer < rank:
                return False
            note = self._seen_first(event)
            if note is not None:
                phase = group[0]
                kept = self._keep(run, phase.innermost, note)
                self._close_phase(run, phase, _SUCCESS, None, event.at_ns, duration_ns)
                self._kept(kept, note)
            return True

    def _plain_run_of(self, event: Event) -> OpenRun | None:
        """The only run of this id, when nothing else is to be done first."""
        runs = self._work.by_key.get(event.run_id or "")
        if runs is None or len(runs) > 1 or self._pending or event.at_ns >= self._next_sweep_ns or not event.event_id:
            return None
        return runs[0]

    def _seen_first(self, event: Event) -> EventNote | None:
        """Count an event; its note, or None when it was seen before."""
        self._seen += 1
        if self._is_duplicate(event.event_id):
            self._duplicates += 1
            return None
        if event.at_ns > self.latest_at_ns:
            self.latest_at_ns = event.at_ns
        kind = event.event_type
        return EventNote(kind if type(kind) is str else str(kind), event.at_ns, event.event_id, event.source, event.payload, event.attempt or 1)

    def _kept(self, record: Record, note: EventNote) -> None:
        self._recorded += 1
        for sink in self._note_sinks:
            self._tell(sink.noted, record, note)

    def tick(self, now_ns: int) -> None:
        """Let time pass where no event does: held failures are settled, what outlived its time is closed."""
        with self._lock:
            if self._pending or now_ns >= self._next_sweep_ns:
                self._sweep(now_ns)

    def close(self, *, error_type: ErrorType = ErrorType.ABANDONED, at_ns: int | None = None) -> None:
        """End everything that is open, as ``error`` with ``error_type``; may be called twice."""
        with self._lock:
            for run in list(self._work.runs.values()):
                end_ns = max(at_ns if at_ns is not None else 0, run.last_at_ns)
                known = run.known_end
                if known is not None:
                    self._close_run(run, known.result or Result.SUCCESS, known.failure, max(known.at_ns, end_ns), None)
                else:
                    self._abandoned += 1
                    run.record.flag(Flag.ABANDONED)
                    self._close_run(run, Result.ERROR, Failure(error_type, _abandoned_text(run.record, error_type)), end_ns, None, error_type)
            self._early_ends.clear()

    @contextmanager
    def paused(self) -> Generator[None]:
        """While this is entered no fact is taken: what sinks have counted stands still."""
        with self._lock:
            yield

    def tell(self, sinks: Iterable[RecordSink], note_sinks: Iterable[NoteSink] = ()) -> None:
        """From now on these are told. May be called by a sink."""
        with self._lock:
            self._sinks, self._note_sinks = tuple(sinks), tuple(note_sinks)

    def forked(self, sinks: Iterable[RecordSink], note_sinks: Iterable[NoteSink] = ()) -> None:
        """In a child process: what is open belongs to the parent, which ends it; new work is told to ``sinks``.

        Phases that the child starts still nest under the run that was open when it was made.
        """
        self._lock = threading.RLock()
        self._sinks, self._note_sinks = tuple(sinks), tuple(note_sinks)
        self._disowned.update(id(record) for record in self.open_records())
        self._disowned_records.extend(self.open_records())

    def state(self) -> RecorderState:
        """The counts, taken together."""
        with self._lock:
            return RecorderState(
                self._seen, self._recorded, self._duplicates, self._late, len(self._work.runs), self._phases_open, self._runs_ended,
                self._phases_ended, self._run_failures, self._phase_failures, self._retries, self._orphan_ends, self._unmatched_ends,
                self._abandoned,
            )

    def open_records(self) -> list[Record]:
        """The records that are open now, parents before children."""
        with self._lock:
            found: list[Record] = []
            for run in self._work.runs.values():
                found.append(run.record)
                for phase in run.open_phases():
                    found.append(phase.record)
                    if phase.attempt is not None:
                        found.append(phase.attempt)
                    found.extend(phase.strategies)
                    found.extend(hook for hooks in phase.hooks.values() for hook in hooks)
                found.extend(hook for hooks in run.hooks.values() for hook in hooks)
            return found

    def innermost(self, run_id: str, phase: str | None) -> Record | None:
        """The open record whose work a publisher in this run and phase is doing: attempt, phase or run."""
        with self._lock:
            runs = self._work.by_key.get(run_id)
            if not runs:
                return None
            run = runs[-1]
            group = run.phases.get(phase) if phase is not None else None
            return group[-1].innermost if group else run.record

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _run_started(self, fact: Fact, note: EventNote) -> Record:
        key = fact.run_key
        if key is not None:
            waiting = self._work.by_key.get(key)
            if waiting and not waiting[0].announced and (
                not fact.run_key_is_shared or fact.at_ns <= waiting[0].record.started_at_ns or not waiting[0].occurrences
            ):
                return self._announced_late(waiting[0], fact, note)
        if self._work.implicit is not None and fact.at_ns < self._work.implicit.record.started_at_ns:
            return self._announced_late(self._work.implicit, fact, note)
        run = self._open_run(fact, implicit=False)
        kept = self._keep(run, run.record, note)
        self._end_if_known(run, fact)
        return kept

    def _announced_late(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        """The start of a run whose phases were heard before it."""
        key = fact.run_key
        if self._work.implicit is run:
            self._work.implicit, run.implicit = None, False
            run.key = key
            if key is not None:
                self._work.by_key.setdefault(key, []).append(run)
        run.announced = True
        run.record.started_at_ns = min(run.record.started_at_ns, fact.at_ns)
        run.record.workflow = run.record.name = fact.workflow or "workflow"
        self._end_if_known(run, fact)
        return self._keep(run, run.record, note)

    def _end_if_known(self, run: OpenRun, fact: Fact) -> None:
        """An end of this run that came before its start decides how it ends, once nothing more can come."""
        key = fact.run_key
        early = self._early_ends.pop(key, None) if key is not None else None
        if early is not None and early.at_ns >= fact.at_ns:
            run.known_end = early

    def _open_run(self, fact: Fact, *, implicit: bool) -> OpenRun:
        key = None if implicit else fact.run_key
        workflow = IMPLICIT if implicit else fact.workflow or "workflow"
        if key is None or fact.run_key_is_shared:
            run_id = f"{workflow}-{identity.short_hash(fact.event_id or f'{fact.event_type}@{fact.at_ns}', workflow)}"
        else:
            run_id = key
        uses = self._used_ids[run_id] = self._used_ids.pop(run_id, 0) + 1
        while len(self._used_ids) > self._limits.ended_runs_remembered * 4:
            del self._used_ids[next(iter(self._used_ids))]
        if uses > 1:
            run_id = f"{run_id}~{uses}"
        parent = identity.parse_traceparent(fact.traceparent) if fact.rank is Rank.RUN or implicit else None
        record = Record(
            Level.RUN, workflow, run_id=run_id, workflow=workflow, trace_id=identity.trace_id_of(run_id, parent),
            span_id=identity.run_span_id(run_id),
            started_at_ns=fact.at_ns, remote_parent=parent, tracestate=fact.tracestate,
        )
        rerun = identity.parse_traceparent(_string(fact.payload.get("rerun_of")))
        if rerun is not None:
            record.link(Link(rerun.trace_id, rerun.span_id, names.LINK_RERUN_OF))
        run = OpenRun(record, key, implicit, announced=fact.rank is Rank.RUN and fact.verb is Verb.START, correlation=fact.correlation, last_at_ns=fact.at_ns)
        while len(self._work.runs) >= self._limits.open_runs:
            self._abandon_run(next(iter(self._work.runs.values())), self.latest_at_ns)
        self._work.add(run)
        self._opened(record)
        return run

    def _run_ended(self, fact: Fact, note: EventNote, within: str | None) -> Record | None:
        run, ambiguous = self._work.run_to_end(fact, within)
        if run is None:
            self._unmatched_ends += 1
            if fact.run_key is not None and len(self._early_ends) < self._limits.ended_runs_remembered and not self._work.was_ended(fact):
                self._early_ends.setdefault(fact.run_key, fact)
            return None
        if ambiguous:
            run.record.flag(Flag.AMBIGUOUS)
        kept = self._keep(run, run.record, note)
        result = fact.result or Result.SUCCESS
        if fact.stage is not None and result.failed:
            for phase in list(run.phases.get(fact.stage, ())):
                if phase.pending is None:
                    self._close_phase(run, phase, result, fact.failure or phase.evidence, fact.at_ns, None)
        self._close_run(run, result, fact.failure, fact.at_ns, fact.duration_ns if fact.final else None)
        return kept

    def _close_run(
        self, run: OpenRun, result: Result, failure: Failure | None, at_ns: int, duration_ns: int | None, leftover: ErrorType = ErrorType.ABANDONED
    ) -> None:
        record = run.record
        for phase in list(run.open_phases()):
            if phase.pending is not None:
                self._settle(run, phase)
            elif result is Result.CANCELLATION:
                self._close_phase(run, phase, Result.CANCELLATION, None, at_ns, None, announced=False)
            else:
                self._abandon_phase(run, phase, at_ns, leftover)
        left = [hook for hooks in run.hooks.values() for hook in hooks]
        run.hooks.clear()
        self._close_left(left, result, at_ns)
        if result.failed:
            first = run.first_failure
            if failure is None or (failure.error_type in (ErrorType.OTHER, ErrorType.UNSUCCESSFUL) and first is not None):
                inherited = first[1] if first is not None else None
                failure = Failure(
                    inherited.error_type if inherited is not None else failure.error_type if failure is not None else ErrorType.UNSUCCESSFUL,
                    failure.message if failure is not None and failure.message else inherited.message if inherited is not None else None,
                )
        self._work.forget(run)
        self._finish(record, result, failure, at_ns, duration_ns)
        self._work.ended.append(EndedRun(run.key, record.run_id, run.ended, record.started_at_ns, record.ended_at_ns or at_ns))
        self._runs_ended += 1
        if result.failed:
            self._run_failures += 1
        self._closed(record)
        if self._on_run_ended is not None:
            self._tell(self._on_run_ended, record)

    def _abandon_run(self, run: OpenRun, at_ns: int) -> None:
        self._abandoned += 1
        run.record.flag(Flag.ABANDONED)
        failure = Failure(ErrorType.ABANDONED, _abandoned_text(run.record, ErrorType.ABANDONED))
        self._close_run(run, Result.ERROR, failure, max(at_ns, run.last_at_ns), None)

    # --- everything inside a run --------------------------------------------------------------------------------------

    def _inside(self, fact: Fact, note: EventNote, within: str | None) -> Record | None:
        run = self._work.run_of(fact, within)
        if run is None:
            if self._work.is_late(fact):
                if fact.verb is Verb.END:
                    self._unmatched_ends += 1
                return None
            if fact.run_key is not None:
                run = self._open_run(fact, implicit=False)
            else:
                run = self._work.implicit or self._open_run(fact, implicit=True)
        if fact.rank is Rank.RUN:
            return self._keep(run, run.record, note)
        if fact.rank is Rank.HOOK:
            return self._hook(run, fact, note)
        if fact.verb is Verb.EVENT:
            phase = find(run, fact)[0]
            return self._keep(run, phase.innermost if phase is not None else run.record, note)
        if fact.verb is Verb.START:
            return self._phase_started(run, fact, note)
        if fact.verb is Verb.RETRY:
            return self._phase_retried(run, fact, note)
        return self._phase_ended(run, fact, note)

    # --- phases -------------------------------------------------------------------------------------------------------

    def _phase_started(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        phase, _ = find(run, fact)
        if phase is None:
            ended = run.ended.get(fact.name) if fact.name is not None else None
            if ended is not None and (fact.at_ns <= ended.ended_at_ns if ended.orphan else fact.at_ns < ended.ended_at_ns):
                return self._keep(run, run.record, note)  # a late announcement of what has ended
            host = host_of_strategy(run, fact)
            if host is not None:
                return self._strategy_started(run, host, fact, note)
            return self._keep(run, self._open_phase_of(run, fact).record, note)
        phase.known_as(fact.aliases)
        if fact.name is not None and fact.name != phase.record.name:
            phase.known_as((fact.name,))
        if phase.pending is not None or fact.rank in phase.seen:
            if phase.pending is None and fact.rank in phase.open_ranks and fact.rank == phase.outer:
                if fact.at_ns <= phase.attempts_started_at_ns:  # the same start, heard late or again
                    phase.record.started_at_ns = min(phase.record.started_at_ns, fact.at_ns)
                    return self._keep(run, phase.innermost, note)
                return self._keep(run, self._open_phase_of(run, fact).record, note)  # a second one of the same name beside it
            if fact.at_ns >= (phase.pending_at_ns if phase.pending is not None else phase.attempts_started_at_ns):
                self._next_attempt(run, phase, fact.at_ns, phase.evidence, None, note=None)
                phase.seen = phase.open_ranks  # an outer speaker whose start still holds has been heard
        elif fact.rank < phase.outer:
            phase.outer = fact.rank  # an outer speaker is heard after an inner one
            phase.record.started_at_ns = min(phase.record.started_at_ns, fact.at_ns)
        phase.seen |= {fact.rank}
        phase.open_ranks |= {fact.rank}
        return self._keep(run, phase.innermost, note)

    def _open_phase_of(self, run: OpenRun, fact: Fact) -> OpenPhase:
        name = fact.name or "phase"
        task_type = fact.task_type or (name if fact.exact else None)
        phase = self._open_phase(run, name, fact.at_ns, fact.rank, task_type, fact.attempt or 1, fact.needs)
        phase.known_as(fact.aliases)
        phase.task = fact.task
        return phase

    def _open_phase(
        self, run: OpenRun, name: str, at_ns: int, rank: Rank, task_type: str | None, attempt: int, needs: Iterable[str]
    ) -> OpenPhase:
        occurrence = run.occurrences[name] = run.occurrences.get(name, 0) + 1
        if len(run.occurrences) > self._limits.ended_phases_remembered:
            del run.occurrences[next(iter(run.occurrences))]
        parent = run.record
        record = Record(
            _PHASE, name, run_id=parent.run_id, workflow=parent.workflow, trace_id=parent.trace_id,
            span_id=identity.phase_span_id(parent.span_id, name, occurrence), started_at_ns=at_ns, parent=parent, task_type=task_type, attempt=attempt,
        )
        for need in needs:
            if (done := run.ended.get(need)) is not None:
                record.link(Link(parent.trace_id, done.span_id, names.LINK_DEPENDS_ON))
        phase = OpenPhase(record, rank)
        while self._phases_open >= self._limits.open_phases:
            self._abandon_oldest_phase()
        run.phases.setdefault(name, []).append(phase)
        self._phases_open += 1
        self._opened(record)
        return phase

    def _abandon_oldest_phase(self) -> None:
        for run in self._work.runs.values():
            for phase in run.open_phases():
                self._abandon_phase(run, phase, self.latest_at_ns, ErrorType.ABANDONED)
                return
        raise AssertionError("phases are counted as open that are in no run")

    def _phase_retried(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        phase, _ = find(run, fact)
        if phase is None:
            return self._keep(run, run.record, note)
        kept = self._keep(run, phase.innermost, note)
        self._next_attempt(run, phase, fact.at_ns, fact.failure, fact.result, note=fact)
        return kept

    def _next_attempt(
        self, run: OpenRun, phase: OpenPhase, at_ns: int, failure: Failure | None, result: Result | None, *, note: Fact | None
    ) -> None:
        """End the current attempt and open the next; the first attempt gets its span only now, for it was not alone."""
        record = phase.record
        if phase.pending is not None:
            result, pending_failure = phase.pending
            failure = pending_failure or failure
            ended_at_ns = phase.pending_at_ns
            phase.pending, record.held = None, None
            self._pending.pop(id(phase), None)
        else:
            ended_at_ns = phase.inner_ended_at_ns if note is None and phase.inner_ended_at_ns is not None else at_ns
            if result is None:
                result = Result.ERROR if failure is None and phase.open_ranks - {phase.outer} else Result.FAILURE if failure else Result.SUCCESS
                if result is Result.ERROR:
                    failure = Failure(ErrorType.ABANDONED, "the next attempt began before this one ended")
        number = record.attempts
        attempt = phase.attempt
        if attempt is None:
            attempt = self._attempt_record(phase, number, phase.attempts_started_at_ns, None)
            self._opened(attempt)
        self._close_inside(run, phase, result, ended_at_ns)
        duration_ns = note.duration_ns if note is not None else None
        self._finish(attempt, result, failure, ended_at_ns, duration_ns)
        self._closed(attempt)
        self._retries += 1
        record.attempts = number + 1
        started_at_ns = at_ns + (note.delay_ns if note is not None else 0)
        phase.attempt = self._attempt_record(phase, number + 1, started_at_ns, attempt)
        phase.attempts_started_at_ns = started_at_ns
        phase.evidence = None
        phase.inner_ended_at_ns = None
        phase.open_ranks &= {phase.outer}
        self._opened(phase.attempt)

    def _attempt_record(self, phase: OpenPhase, number: int, started_at_ns: int, previous: Record | None) -> Record:
        parent = phase.record
        span_id = _nested(parent, "attempt", number)
        attempt = Record(
            Level.ATTEMPT, f"{parent.name} attempt {number}", run_id=parent.run_id, workflow=parent.workflow, trace_id=parent.trace_id,
            span_id=span_id, started_at_ns=started_at_ns, parent=parent, task_type=parent.task_type, attempt=number,
        )
        if previous is not None:
            attempt.link(Link(previous.trace_id, previous.span_id, names.LINK_RETRY_OF))
        return attempt

    def _phase_ended(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        phase, ambiguous = find(run, fact)
        result, failure = fact.result or Result.SUCCESS, fact.failure
        if phase is None:
            strategy = open_strategy(run, fact.name)
            if strategy is not None:
                return self._strategy_ended(run, *strategy, fact, note)
            if fact.verb is Verb.END and fact.name in run.ended:
                return self._keep(run, run.record, note)  # said again, by another speaker or late: the phase has ended
            if fact.name is None:
                self._unmatched_ends += 1
                return self._keep(run, run.record, note)
            return self._orphan(run, fact, note)
        if ambiguous:
            phase.record.flag(Flag.AMBIGUOUS)
        phase.known_as(fact.aliases)
        kept = self._keep(run, phase.innermost, note)
        phase.open_ranks -= {fact.rank}
        if fact.rank > phase.outer:
            # an inner speaker: the phase goes on, and may try again
            phase.inner_ended_at_ns = fact.at_ns
            if failure is not None:
                phase.evidence = _more_precise(phase.evidence, failure)
            elif result is Result.SUCCESS:
                phase.evidence = None
            return kept
        phase.outer = min(phase.outer, fact.rank)
        failure = _more_precise(phase.evidence, failure) if result.failed else None
        if result is Result.FAILURE and failure is not None and failure.error_type == ErrorType.TIMEOUT:
            result = Result.TIMEOUT
        if result.failed and not (fact.final or run.implicit) and fact.at_ns >= phase.record.started_at_ns:
            phase.pending, phase.record.held = (result, failure), Held(result, failure, fact.at_ns)
            phase.pending_at_ns = fact.at_ns
            phase.evidence = failure
            self._pending[id(phase)] = (run, phase)
            return kept
        phase.pending, phase.record.held = None, None
        self._close_phase(run, phase, result, failure, fact.at_ns, fact.duration_ns if fact.final else None)
        return kept

    def _orphan(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        """An end without its start: a span of its own, back-dated where the event tells how long it took."""
        started_at_ns = fact.at_ns - (fact.duration_ns or 0)
        phase = self._open_phase_of(run, fact._replace(at_ns=max(1, started_at_ns)))
        phase.orphan = True
        if fact.verb is Verb.END:
            phase.record.flag(Flag.ORPHAN_END)
            self._orphan_ends += 1
        kept = self._keep(run, phase.record, note)
        result, failure = fact.result or Result.SUCCESS, fact.failure
        if result.failed and not (fact.final or run.implicit):
            phase.pending, phase.record.held = (result, failure), Held(result, failure, fact.at_ns)
            phase.pending_at_ns = fact.at_ns
            phase.evidence = failure
            phase.open_ranks = frozenset()
            self._pending[id(phase)] = (run, phase)
            return kept
        if fact.reason is not None:
            phase.record.skip_reason = fact.reason
        self._close_phase(run, phase, result, failure, fact.at_ns, fact.duration_ns)
        return kept

    def _settle(self, run: OpenRun, phase: OpenPhase) -> None:
        """A failure that was held is final: nobody tried again."""
        pending = phase.pending
        assert pending is not None
        self._close_phase(run, phase, *pending, phase.pending_at_ns, None)

    def _abandon_phase(self, run: OpenRun, phase: OpenPhase, at_ns: int, error_type: ErrorType) -> None:
        self._abandoned += 1
        phase.record.flag(Flag.ABANDONED)
        failure = Failure(error_type, _abandoned_text(phase.record, error_type))
        self._close_phase(run, phase, Result.ERROR, failure, max(at_ns, run.last_at_ns), None, announced=False)

    def _close_phase(
        self, run: OpenRun, phase: OpenPhase, result: Result, failure: Failure | None, at_ns: int, duration_ns: int | None, *, announced: bool = True
    ) -> None:
        record = phase.record
        self._pending.pop(id(phase), None)
        self._close_inside(run, phase, result, at_ns)
        if phase.attempt is not None:
            ends = at_ns if duration_ns is None else min(at_ns, max(record.started_at_ns + duration_ns, phase.attempt.started_at_ns))
            self._finish(phase.attempt, result, failure, ends, None)
            self._closed(phase.attempt)
        group = run.phases.get(record.name)
        if group is not None and phase in group:
            group.remove(phase)
            if not group:
                del run.phases[record.name]
        self._phases_open -= 1
        self._phases_ended += 1
        self._finish(record, result, failure, at_ns, duration_ns)
        run.ended[record.name] = EndedPhase(record.ended_at_ns or at_ns, record.span_id, phase.orphan, announced)
        for alias in phase.aliases:
            run.ended.setdefault(alias, run.ended[record.name])
        while len(run.ended) > self._limits.ended_phases_remembered:
            del run.ended[next(iter(run.ended))]
        if result.failed:
            self._phase_failures += 1
            if run.first_failure is None:
                run.first_failure = (result, failure)
        self._closed(record)

    # --- hooks and strategies -----------------------------------------------------------------------------------------

    def _strategy_started(self, run: OpenRun, host: OpenPhase, fact: Fact, note: EventNote) -> Record:
        record = self._child(host.innermost, Level.STRATEGY, fact.name or "strategy", fact)
        record.describe(names.STRATEGY_NAME, record.name)
        host.strategies.append(record)
        self._opened(record)
        return self._keep(run, record, note)

    def _strategy_ended(self, run: OpenRun, phase: OpenPhase, record: Record, fact: Fact, note: EventNote) -> Record:
        kept = self._keep(run, record, note)
        phase.strategies.remove(record)
        for name, hooks in list(phase.hooks.items()):
            beneath = [hook for hook in hooks if hook.parent is record]
            phase.hooks[name] = [hook for hook in hooks if hook.parent is not record]
            if not phase.hooks[name]:
                del phase.hooks[name]
            self._close_left(beneath, fact.result or Result.SUCCESS, fact.at_ns)
        self._finish(record, fact.result or Result.SUCCESS, fact.failure, fact.at_ns, fact.duration_ns)
        self._closed(record)
        if fact.failure is not None:
            phase.evidence = _more_precise(phase.evidence, fact.failure)
        return kept

    def _hook(self, run: OpenRun, fact: Fact, note: EventNote) -> Record:
        name = fact.name or "hook"
        phase, strategy = host_of_hook(run, fact)
        if fact.verb is Verb.START:
            parent = strategy or (phase.innermost if phase is not None else run.record)
            record = self._child(parent, Level.HOOK if "hook" in fact.payload else Level.COMMAND, name, fact)
            if phase is None:
                self._make_room_for_hook(run)
            (phase.hooks if phase is not None else run.hooks).setdefault(name, []).append(record)
            self._opened(record)
            self._keep(run, record, note)
            return record
        hooks = phase.hooks if phase is not None and name in phase.hooks else run.hooks
        open_hooks = hooks.get(name)
        if not open_hooks:
            parent = strategy or (phase.innermost if phase is not None else run.record)
            if fact.verb is Verb.EVENT:
                return self._keep(run, parent, note)
            self._orphan_ends += 1
            record = self._child(parent, Level.HOOK if "hook" in fact.payload else Level.COMMAND, name, fact)
            record.started_at_ns = fact.at_ns - (fact.duration_ns or 0)
            record.flag(Flag.ORPHAN_END)
            self._opened(record)
        else:
            record = open_hooks.pop(0)
            if open_hooks:
                record.flag(Flag.AMBIGUOUS)
            else:
                del hooks[name]
        self._keep(run, record, note)
        _describe_process(record, fact)
        self._finish(record, fact.result or Result.SUCCESS, fact.failure, fact.at_ns, fact.duration_ns)
        self._closed(record)
        return record

    def _make_room_for_hook(self, run: OpenRun) -> None:
        """Of hooks outside any phase only so many are open at once; the oldest name goes first."""
        if len(run.hooks) >= _HOOKS_OF_A_RUN:
            name = next(iter(run.hooks))
            self._close_left(run.hooks.pop(name), Result.ERROR, run.last_at_ns)

    def _child(self, parent: Record, level: Level, name: str, fact: Fact) -> Record:
        key = f"{level}:{name}"
        number = parent.number_of(key)
        record = Record(
            level, name, run_id=parent.run_id, workflow=parent.workflow, trace_id=parent.trace_id,
            span_id=_nested(parent, level, name, number), started_at_ns=fact.at_ns, parent=parent, attempt=parent.attempt,
        )
        if level in (Level.HOOK, Level.COMMAND):
            if level is Level.HOOK:
                record.describe(names.HOOK_NAME, name)
            _describe_process(record, fact)
        return record

    def _close_inside(self, run: OpenRun, phase: OpenPhase, result: Result, at_ns: int) -> None:
        """Close what is still open beneath a phase or attempt that ends: with its fate, or as abandoned."""
        left = [hook for hooks in phase.hooks.values() for hook in hooks] + phase.strategies
        phase.hooks.clear()
        phase.strategies.clear()
        self._close_left(left, result, at_ns)

    def _close_left(self, left: Iterable[Record], result: Result, at_ns: int) -> None:
        for record in left:
            if result in (Result.CANCELLATION, Result.TIMEOUT):
                failure = Failure(ErrorType.TIMEOUT) if result is Result.TIMEOUT else None
                self._finish(record, result, failure, at_ns, None)
            else:
                record.flag(Flag.ABANDONED)
                self._finish(record, Result.ERROR, Failure(ErrorType.ABANDONED), at_ns, None)
            self._closed(record)

    # --- out ----------------------------------------------------------------------------------------------------------

    def _keep(self, run: OpenRun, record: Record, note: EventNote) -> Record:
        record.events.append(note)
        if note.at_ns > run.last_at_ns:
            run.last_at_ns = note.at_ns
        above: Record | None = record
        while above is not None:
            above.events_in_tree += 1
            above = above.parent
        return record

    def _finish(self, record: Record, result: Result, failure: Failure | None, at_ns: int, duration_ns: int | None) -> None:
        record.result = result
        record.failure = failure if result.failed else None
        if duration_ns is not None and record.level is not _ATTEMPT:
            record.duration_ns = duration_ns
            # The clock of durations and that of events differ a little: what lies beneath a record does not stand out of it.
            at_ns = max(record.started_at_ns + duration_ns, min(at_ns, record.inner_ended_at_ns))
        if at_ns < record.started_at_ns:
            record.flag(Flag.CLOCK)
            at_ns = record.started_at_ns
        record.ended_at_ns = at_ns

    def _opened(self, record: Record) -> None:
        parent = record.parent
        if parent is not None:
            parent.adopt(record, self._limits.children_kept)
        for sink in self._sinks:
            try:
                sink.opened(record)
            except Exception as error:
                self._sink_failed(error)

    def _closed(self, record: Record) -> None:
        parent, ended_at_ns = record.parent, record.ended_at_ns
        if parent is not None and ended_at_ns is not None and ended_at_ns > parent.inner_ended_at_ns:
            parent.inner_ended_at_ns = ended_at_ns
        if not self._disowned or id(record) not in self._disowned:
            for sink in self._sinks:
                try:
                    sink.closed(record)
                except Exception as error:
                    self._sink_failed(error)
        record.events.release()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self._sink_failed(error)

    def _sink_failed(self, error: Exception) -> None:
        if self._on_sink_error is not None:
            self._on_sink_error(error)

    # --- time and memory ----------------------------------------------------------------------------------------------

    def _is_duplicate(self, event_id: str) -> bool:
        if event_id in self._ids_new or event_id in self._ids_old:
            return True
        self._ids_new.add(event_id)
        if len(self._ids_new) >= self._limits.event_ids_remembered // 2:
            self._ids_old, self._ids_new = self._ids_new, set()
        return False

    def _sweep(self, now_ns: int) -> None:
        for run, phase in list(self._pending.values()):
            if now_ns - phase.pending_at_ns >= self._window_ns:
                self._settle(run, phase)
        if now_ns < self._next_sweep_ns:
            return
        self._next_sweep_ns = now_ns + max(1, self._ttl_ns // 100)
        for run in list(self._work.runs.values()):
            if now_ns - run.last_at_ns >= self._ttl_ns:
                self._abandon_run(run, run.last_at_ns)


def _nested(parent: Record, *path: object) -> int:
    return identity.child_span_id(parent.span_id, *path)


def _more_precise(first: Failure | None, second: Failure | None) -> Failure | None:
    """What the inner speaker said stands, unless the outer one knows better: a time-out, or the class where the inner knew none."""
    if first is None or second is None:
        return second or first
    if second.error_type == ErrorType.TIMEOUT:
        return second
    knows_more = first.error_type == ErrorType.OTHER and second.error_type not in (ErrorType.OTHER, ErrorType.UNSUCCESSFUL)
    error_type = second.error_type if knows_more else first.error_type
    return Failure(error_type, first.message or second.message, first.stacktrace or second.stacktrace)


def _describe_process(record: Record, fact: Fact) -> None:
    payload, describe = fact.payload, record.describe
    executable, command, exit_code = payload.get("executable"), payload.get("command"), payload.get("exit_code")
    if isinstance(executable, str):
        describe(names.PROCESS_EXECUTABLE, executable)
    if isinstance(command, list | tuple):
        describe(names.PROCESS_COMMAND_ARGS, tuple(str(part) for part in cast("Sequence[object]", command)))
    if isinstance(exit_code, int) and not isinstance(exit_code, bool):
        describe(names.PROCESS_EXIT_CODE, exit_code)
    if payload.get("cached") is True:
        describe(names.HOOK_CACHED, True)
    tail = payload.get("output_tail")
    if isinstance(tail, str) and tail:
        describe(names.OUTPUT_TAIL, tail)


def _abandoned_text(record: Record, error_type: ErrorType) -> str:
    what = f"{record.level} {record.name!r}"
    if error_type is ErrorType.ABANDONED:
        return f"{what} started and no end was announced"
    return f"{what} was open when its process was {error_type}"


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
