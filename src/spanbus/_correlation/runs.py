"""Runs: their identity, start and end, announced by events or inferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spanbus._correlation.failures import abandoned_text, inherited
from spanbus._correlation.fan_out import FanOut
from spanbus._correlation.hooks import Hooks
from spanbus._correlation.limits import Counts, Limits
from spanbus._correlation.open_run import EndedRun, OpenRun, add_event
from spanbus._correlation.open_spans import OpenSpans
from spanbus._correlation.phases import Phases
from spanbus._correlation.span_state import Link, SpanState
from spanbus._correlation.waiting import Waiting
from spanbus._reading.facts import Ended, Fact, Rank, Started, Verb
from spanbus._reading.spelling import ending, subject
from spanbus._semantics import ErrorType, Failure, Flag, Level, Result, names
from spanbus._workflow import identity

IMPLICIT: Final = "implicit"
"""Name of the run for phases without a run of their own."""

Caller = Callable[[], tuple[str | None, str | None]]
"""Returns ``traceparent`` and ``tracestate`` of the current publisher."""


class Runs:
    """Opens and closes the runs of a correlator."""

    def __init__(
        self,
        out: FanOut,
        hooks: Hooks,
        phases: Phases,
        counts: Counts,
        limits: Limits,
        waiting: Waiting,
        spans: OpenSpans,
        *,
        unique_ids: bool,
        caller: Caller | None,
        on_ended: Callable[[SpanState], None] | None,
    ) -> None:
        self._out = out
        self._hooks = hooks
        self._phases = phases
        self._counts = counts
        self._limits = limits
        self._waiting = waiting
        self._spans = spans
        self._unique_ids = unique_ids
        self._caller = caller
        self._on_ended = on_ended
        self._uses: dict[str, int] = {}
        self._early_ends: dict[str, Ended] = {}

    def started(self, fact: Started, task: str | None, inside: OpenRun | None = None) -> SpanState:
        """Apply the start of a run, which may already be open because one of its phases came first.

        ``inside`` is the run in whose context the event was published.
        """
        key, at_ns = fact.run_key, fact.event.at_ns
        if key is not None:
            waiting = self._spans.by_key.get(key)
            if waiting and waiting[0].announced and fact.hints.state:
                return add_event(waiting[0], waiting[0].record, fact)  # state unchanged
            if waiting and not waiting[0].announced:
                first = waiting[0]
                if (
                    not fact.hints.shared
                    or at_ns <= first.record.started_at_ns
                    or not first.occurrences
                ):
                    return self._announce_late(first, fact)
        same = self._already_started(fact, inside)
        if same is not None:
            same.starts |= {fact.event.name}
            return add_event(same, same.record, fact)
        implicit = self._spans.implicit
        if implicit is not None and at_ns < implicit.record.started_at_ns:
            return self._announce_late(implicit, fact)
        run = self.opened(fact, task, announced=True)
        run.subject, run.starts = subject(fact.event.name), frozenset({fact.event.name})
        kept = add_event(run, run.record, fact)
        self._end_if_known(run, fact)
        return kept

    def _already_started(self, fact: Started, inside: OpenRun | None) -> OpenRun | None:
        """Return the open run if this start was already announced in other words, as ``starting`` before ``started``."""
        if fact.run_key is not None:
            runs = self._spans.by_key.get(fact.run_key, [])
        else:
            run = inside or self._spans.only_active()
            runs = [run] if run is not None and run.key is None and not run.occurrences else []
        name = fact.event.name
        if not runs or ending(name) is None:
            return None
        return next(
            (
                run
                for run in runs
                if run.starts and name not in run.starts and run.subject == subject(name)
            ),
            None,
        )

    def _announce_late(self, run: OpenRun, fact: Started) -> SpanState:
        """Apply the start of a run whose phases came before it."""
        if self._spans.implicit is run:
            self._spans.set_key(run, fact.run_key)
        run.announced = True
        run.subject, run.starts = subject(fact.event.name), frozenset({fact.event.name})
        self._waiting.forget(run)
        record = run.record
        record.unflag(Flag.INFERRED)
        record.started_at_ns = min(record.started_at_ns, fact.event.at_ns)
        record.workflow = record.name = fact.hints.workflow or "workflow"
        self._end_if_known(run, fact)
        return add_event(run, record, fact)

    def _end_if_known(self, run: OpenRun, fact: Started) -> None:
        """Remember an end that came before this start; it applies when the stream ends."""
        key = fact.run_key
        early = self._early_ends.pop(key, None) if key is not None else None
        if early is not None and early.event.at_ns >= fact.event.at_ns:
            run.known_end = early

    def opened(
        self,
        fact: Fact,
        task: str | None,
        *,
        announced: bool,
        implicit: bool = False,
        each: bool = False,
    ) -> OpenRun:
        """Open a run for a fact; ``each``: the run is the job that the fact starts."""
        key = None if implicit else fact.run_key
        hints, at_ns = fact.hints, fact.event.at_ns
        workflow = IMPLICIT if implicit else hints.workflow or "workflow"
        if each:
            key, workflow = key or hints.task, hints.workflow or fact.name or workflow
        run_id, mark = self._identity(key, workflow, fact, each=each)
        parent, tracestate = None, hints.tracestate
        if fact.rank is Rank.RUN or implicit or each:
            traceparent = hints.traceparent
            if traceparent is None and self._caller is not None and fact.verb is Verb.START:
                traceparent, called = self._caller()
                tracestate = called if traceparent is not None else tracestate
            parent = identity.parse_traceparent(traceparent)
        record = SpanState(
            Level.RUN,
            workflow,
            run_id=run_id,
            workflow=workflow,
            trace_id=identity.trace_id_of(mark, parent),
            span_id=identity.run_span_id(mark),
            started_at_ns=at_ns,
            remote_parent=parent,
            tracestate=tracestate,
        )
        again = fact.event.payload.get("rerun_of")
        rerun = identity.parse_traceparent(again if isinstance(again, str) else None)
        if rerun is not None:
            record.link(Link(rerun.trace_id, rerun.span_id, names.LINK_RERUN_OF))
        run = OpenRun(
            record,
            key,
            self._out.changed,
            implicit=implicit,
            announced=announced,
            correlation=hints.correlation,
            last_at_ns=at_ns,
        )
        run.each = each
        if key is None and fact.rank is Rank.RUN:
            run.subject_id = hints.subject_id
        if not announced:
            record.flag(Flag.INFERRED)
            self._waiting.infer(run)
        while len(self._spans.runs) >= self._limits.open_runs:
            oldest = next(iter(self._spans.runs.values()))
            self.abandon(oldest, oldest.last_at_ns)
        self._spans.add(run)
        self._out.opened(record)
        for early in self._waiting.claim(fact.run_key, task):
            add_event(run, record, early.fact)
            self._counts.recorded += 1
            self._out.noted(record, early.fact.event)
        return run

    def _identity(
        self, key: str | None, workflow: str, fact: Fact, *, each: bool
    ) -> tuple[str, str]:
        """Return the run id, and the text from which trace and span ids are derived; it has the time if ids are reused."""
        made = key is None or (fact.hints.shared and not each)
        if made:
            event = fact.event
            event_id = event.event_id or f"{event.name}@{event.at_ns}"
            run_id = f"{workflow}-{identity.short_hash(event_id, workflow)}"
        else:
            run_id = str(key)
        unique = made or self._unique_ids
        mark = run_id if unique else f"{run_id}@{fact.event.at_ns}"
        uses = self._uses[mark] = self._uses.pop(mark, 0) + 1
        while len(self._uses) > self._limits.ended_runs_remembered * 4:
            del self._uses[next(iter(self._uses))]
        if uses > 1:
            mark = f"{mark}~{uses}"
            run_id = mark if unique else run_id
        return run_id, mark

    def ended(self, fact: Ended, within: OpenRun | None) -> SpanState | None:
        """Apply the end of a run; return None if no open run matches."""
        run, ambiguous = self._spans.run_to_end(fact, within)
        if run is None:
            ended = self._spans.was_ended(fact)
            if fact.hints.of_open or (fact.hints.state and ended):
                return None
            self._counts.unmatched_ends += 1
            key = fact.run_key
            if (
                key is not None
                and len(self._early_ends) < self._limits.ended_runs_remembered
                and not ended
            ):
                self._early_ends.setdefault(key, fact)
            return None
        if ambiguous:
            run.record.flag(Flag.AMBIGUOUS)
        kept = add_event(run, run.record, fact)
        at_ns, result, stage = fact.event.at_ns, fact.result, fact.hints.stage
        if stage is not None and result.failed:
            for phase in list(run.phases.get(stage, ())):
                if phase.pending is None:
                    self._phases.close(
                        run, phase, result, fact.failure or phase.evidence, at_ns, None
                    )
        duration_ns = fact.duration_ns if fact.final else None
        self._phases.close_all(run, result, at_ns, ErrorType.ABANDONED)
        self._close(run, result, fact.failure, at_ns, duration_ns)
        return kept

    def publisher_ended(
        self, run: OpenRun, result: Result, failure: Failure | None, at_ns: int
    ) -> None:
        """End a run whose publishing task ended without an end event."""
        at_ns = max(at_ns, run.last_at_ns)
        if result.failed or result is Result.CANCELLATION:
            self._phases.close_all(run, result, at_ns, ErrorType.ABANDONED, cut=True)
            self._close(run, result, failure, at_ns, None)
        elif not run.announced:
            self.close_inferred(run, at_ns)

    def close_inferred(
        self, run: OpenRun, at_ns: int, leftover: ErrorType = ErrorType.ABANDONED
    ) -> None:
        """End an unannounced run with the result of its phases."""
        self._phases.close_all(run, Result.ERROR, at_ns, leftover)
        self.close_by_phases(run, at_ns)

    def close_by_phases(self, run: OpenRun, at_ns: int) -> None:
        """Close a run whose phases have all ended, with their combined result."""
        result, failure = Result.SUCCESS, None
        if run.first_failure is not None:
            result, failure = run.first_failure
        elif Result.CANCELLATION in run.results:
            result = Result.CANCELLATION
        elif run.results == frozenset({Result.SKIP}):
            result = Result.SKIP
        self._close(run, result, failure, at_ns, None)

    def close(self, run: OpenRun, error_type: ErrorType, at_ns: int | None) -> None:
        """End a run at the end of the stream."""
        end_ns = max(at_ns if at_ns is not None else 0, run.last_at_ns)
        known = run.known_end
        if known is not None:
            end_ns = max(known.event.at_ns, end_ns)
            self._phases.close_all(run, known.result, end_ns, ErrorType.ABANDONED)
            self._close(run, known.result, known.failure, end_ns, None)
        elif not run.announced:
            self.close_inferred(run, end_ns, error_type)
        else:
            self.abandon(run, end_ns, error_type)

    def abandon(
        self, run: OpenRun, at_ns: int, error_type: ErrorType = ErrorType.ABANDONED
    ) -> None:
        """Close a run without an end event: as abandoned if it was announced, else with the result of its phases."""
        at_ns = max(at_ns, run.last_at_ns)
        if not run.announced:
            self.close_inferred(run, at_ns, error_type)
            return
        self._counts.abandoned += 1
        run.record.flag(Flag.ABANDONED)
        self._phases.close_all(run, Result.ERROR, at_ns, error_type)
        failure = Failure(error_type, abandoned_text(run.record, error_type))
        self._close(run, Result.ERROR, failure, at_ns, None)

    def forget_early_ends(self) -> None:
        """Forget ends without a start, at the end of the stream."""
        self._early_ends.clear()

    def _close(
        self,
        run: OpenRun,
        result: Result,
        failure: Failure | None,
        at_ns: int,
        duration_ns: int | None,
    ) -> None:
        record = run.record
        left = [hook for hooks in run.hooks.values() for hook in hooks]
        run.hooks.clear()
        self._hooks.close_left(left, result, at_ns)
        if result.failed:
            failure = inherited(failure, run.first_failure)
        self._spans.forget(run)
        self._waiting.forget(run)
        record.finish(result, failure, at_ns, duration_ns)
        self._spans.ended.append(
            EndedRun(
                run.key if run.key is not None else run.subject_id,
                record.run_id,
                run.ended,
                record.started_at_ns,
                record.ended_at_ns or at_ns,
                run.announced and not run.each,
            )
        )
        self._counts.runs_ended += 1
        if result.failed:
            self._counts.run_failures += 1
        self._out.closed(record)
        if self._on_ended is not None:
            self._out.call(self._on_ended, record)
        else:
            record.release_children()
