"""Phases and their attempts: steps announced by one or several publishers, retries, restarts, ends without a start."""

from __future__ import annotations

from typing import Final

from spanbus._correlation.failures import abandoned_text, merge, result_without_end
from spanbus._correlation.fan_out import FanOut
from spanbus._correlation.hooks import Hooks
from spanbus._correlation.limits import Counts, Limits
from spanbus._correlation.matching import find, host_of_strategy, is_separate_phase, open_strategy
from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.open_run import (
    EndedPhase,
    OpenRun,
    add_event,
    attempt_of,
    is_entered,
    left_at_ns,
    may_be_retried,
)
from spanbus._correlation.open_spans import OpenSpans
from spanbus._correlation.span_state import Held, Link, SpanState
from spanbus._correlation.waiting import Waiting
from spanbus._reading.facts import Ended, Fact, Rank, Started, Verb
from spanbus._reading.shape import texts_of
from spanbus._semantics import ErrorType, Failure, Flag, Level, Result, names
from spanbus._workflow import identity

_SUCCESS: Final = Result.SUCCESS  # saves the lookup of the member
_PHASE: Final = Level.PHASE
_STEP: Final = Rank.STEP
_END: Final = Verb.END


class Phases:
    """Opens, continues and closes the phases of a run."""

    def __init__(
        self,
        out: FanOut,
        hooks: Hooks,
        counts: Counts,
        limits: Limits,
        waiting: Waiting,
        spans: OpenSpans,
        *,
        restart_is_attempt: bool,
    ) -> None:
        self._out = out
        self._hooks = hooks
        self._counts = counts
        self._waiting = waiting
        self._spans = spans
        self._restart_is_attempt = restart_is_attempt
        self._open_phases = limits.open_phases
        self._phases_remembered = limits.ended_phases_remembered
        self._ids_are_event_ids = False
        """An end had another id than its start, so the ids are those of events, not of phases."""
        self.jobs_done: list[OpenRun] = []
        """Runs of one job each, whose job has just ended."""

    def started(
        self, run: OpenRun, fact: Started, task: str | None, within: SpanState | None
    ) -> SpanState:
        """Apply a start: of a phase, of its next attempt, or a further announcement by another publisher."""
        name, at_ns = fact.name, fact.event.at_ns
        if (
            name is not None
            and fact.rank is _STEP
            and fact.hints.exact
            and name not in run.phases
            and name not in run.ended
        ):
            return add_event(run, self._open(run, fact, at_ns, task).record, fact)
        phase, _ = find(run, fact, task, within)
        subject_id = self._subject_id(fact)
        if phase is not None and is_separate_phase(
            run,
            phase,
            fact,
            subject_id,
            other_publisher=self._is_other_publisher(phase.task, fact, task),
        ):
            self.settle(run, phase)
            phase = None
        if phase is None:
            ended = run.ended.get(name) if name is not None else None
            if (
                ended is not None
                and (at_ns <= ended.ended_at_ns if ended.orphan else at_ns < ended.ended_at_ns)
                and not (
                    self._is_other_publisher(ended.task, fact, task) and ended.rank == fact.rank
                )
            ):
                return add_event(run, run.record, fact)  # late: the phase has ended
            host = host_of_strategy(run, fact)
            if host is not None:
                return self._hooks.strategy_started(run, host, fact)
            return add_event(run, self._open(run, fact, at_ns, task).record, fact)
        if fact.aliases:
            run.add_aliases(phase, fact.aliases)
        if name is not None and name != phase.record.name:
            run.add_aliases(phase, (name,))
        if phase.retry_announced and (phase.pending is not None or fact.rank <= phase.outer):
            self._begin_announced(phase, at_ns)
            run.identify(phase, subject_id or phase.subject_id)
            phase.starts = frozenset({fact.event.name})
        elif phase.pending is not None or fact.rank in phase.seen:
            if phase.pending is None and fact.rank in phase.open_ranks and fact.rank == phase.outer:
                return self._started_again(run, phase, fact, task)
            belongs = fact.rank is Rank.STRATEGY and phase.pending is None and phase.open_ranks
            if not belongs and at_ns >= (
                phase.pending_at_ns if phase.pending is not None else phase.attempts_started_at_ns
            ):
                if phase.pending is not None and phase.record.name in run.shared_names:
                    phase.record.flag(Flag.AMBIGUOUS)
                self._next_attempt(phase, at_ns, phase.evidence, None, None)
                run.identify(phase, subject_id or phase.subject_id)
                phase.starts = frozenset({fact.event.name})
                phase.seen = phase.open_ranks  # starts of outer publishers remain valid
        elif fact.rank < phase.outer:
            phase.outer = fact.rank  # an outer publisher announces after an inner one
            phase.record.started_at_ns = min(phase.record.started_at_ns, at_ns)
        phase.open_ranks |= {fact.rank}
        run.seen_by(phase, phase.seen | {fact.rank})
        return add_event(run, phase.innermost, fact)

    def _started_again(
        self, run: OpenRun, phase: OpenPhase, fact: Started, task: str | None
    ) -> SpanState:
        """Apply a second start by the publisher that opened the phase, without an end between."""
        at_ns = fact.event.at_ns
        subject_id = self._subject_id(fact)
        other = None not in (subject_id, phase.subject_id) and subject_id != phase.subject_id
        if fact.hints.state and not other:  # state unchanged
            return add_event(run, phase.innermost, fact)
        if other or self._is_other_publisher(phase.task, fact, task):
            return add_event(
                run, self._open(run, fact, at_ns, task).record, fact
            )  # a parallel phase
        if at_ns <= phase.attempts_started_at_ns:  # a late or repeated announcement
            phase.record.started_at_ns = min(phase.record.started_at_ns, at_ns)
            return add_event(run, phase.innermost, fact)
        if phase.starts and fact.event.name not in phase.starts:  # "starting", then "started"
            phase.starts |= {fact.event.name}
            return add_event(run, phase.innermost, fact)
        restarts = self._restart_is_attempt and not is_entered(phase)
        if not restarts or (fact.hints.task or task) != phase.task:
            return add_event(
                run, self._open(run, fact, at_ns, task).record, fact
            )  # a parallel phase
        self._next_attempt(phase, at_ns, phase.evidence, None, None)
        run.seen_by(phase, phase.open_ranks)
        phase.starts = frozenset({fact.event.name})
        return add_event(run, phase.innermost, fact)

    def _compare_ids(self, run: OpenRun, phase: OpenPhase, fact: Ended) -> None:
        if phase.subject_id is not None and fact.hints.subject_id not in (None, phase.subject_id):
            self._ids_are_event_ids = True
            run.identify(phase, None)

    def _subject_id(self, fact: Fact) -> str | None:
        return None if self._ids_are_event_ids else fact.hints.subject_id

    def _is_other_publisher(self, known: str | None, fact: Fact, task: str | None) -> bool:
        """Whether a fact comes from another publisher than the phase with task id ``known``."""
        task = fact.hints.task or task
        return self._restart_is_attempt and None is not known != task is not None

    def _begin_announced(self, phase: OpenPhase, at_ns: int) -> None:
        """Start the attempt that a retry event announced."""
        phase.retry_announced = False
        if phase.pending is not None:  # a failure of the previous attempt
            phase.pending, phase.record.held = None, None
            self._waiting.release(phase)
        if phase.attempt is not None and at_ns > phase.attempts_started_at_ns:
            phase.attempts_started_at_ns = at_ns

    def _open(self, run: OpenRun, fact: Fact, at_ns: int, task: str | None) -> OpenPhase:
        name, counts = fact.name or "phase", self._counts
        occurrence = run.occurrences[name] = run.occurrences.get(name, 0) + 1
        if occurrence == 1 and len(run.occurrences) > self._phases_remembered:
            forgotten = next(iter(run.occurrences))
            del run.occurrences[forgotten]
            run.shared_names.pop(forgotten, None)
        parent, event = run.record, fact.event
        needs: tuple[str, ...] = ()
        task_type: str | None = None
        if isinstance(fact, Started):
            needs, task_type = fact.needs, fact.task_type
        elif isinstance(fact, Ended):
            task_type, needs = fact.task_type, texts_of(event.payload.get("needs"))
        record = parent.child(
            _PHASE,
            name,
            identity.phase_span_id(parent.span_id, name, occurrence),
            at_ns,
            task_type or (name if fact.hints.exact else None),
            event.attempt,
        )
        for need in needs:
            if (done := run.ended.get(need)) is not None:
                record.link(Link(parent.trace_id, done.span_id, names.LINK_DEPENDS_ON))
        phase = OpenPhase(record, fact.rank)
        if fact.aliases:
            run.add_aliases(phase, fact.aliases)
        phase.task = fact.hints.task or task
        if self._restart_is_attempt:
            phase.starts = frozenset({event.name})
        while counts.phases_open >= self._open_phases:
            self._abandon_oldest()
        run.add(phase)
        if fact.hints.subject_id is not None:
            run.identify(phase, self._subject_id(fact))
        counts.phases_open += 1
        self._out.opened(record)
        if "max_attempts" in event.payload and may_be_retried(fact):
            phase.attempt = phase.innermost = attempt_of(phase, 1, at_ns, None)
            self._out.opened(phase.attempt)
        return phase

    def _abandon_oldest(self) -> None:
        for run in self._spans.runs.values():
            for phase in run.open_phases():
                self.abandon(run, phase, run.last_at_ns, ErrorType.ABANDONED)
                return
        raise AssertionError("phases are counted as open that are in no run")

    def retried(
        self, run: OpenRun, fact: Ended, task: str | None, within: SpanState | None
    ) -> SpanState:
        """End a failed attempt that another one follows."""
        phase, _ = find(run, fact, task, within)
        if phase is None:
            return add_event(run, run.record, fact)
        kept = add_event(run, phase.innermost, fact)
        self._next_attempt(phase, fact.event.at_ns, fact.failure, fact.result, fact)
        phase.retry_announced = True
        run.seen_by(phase, phase.open_ranks)
        return kept

    def _next_attempt(
        self,
        phase: OpenPhase,
        at_ns: int,
        failure: Failure | None,
        result: Result | None,
        fact: Ended | None,
    ) -> None:
        """End the current attempt and open the next. The first attempt gets its span only now, when it is no longer alone."""
        record = phase.record
        if phase.pending is not None:
            result, pending_failure = phase.pending
            failure = pending_failure or failure
            ended_at_ns = phase.pending_at_ns
            phase.pending, record.held = None, None
            self._waiting.release(phase)
        else:
            inner_ended_at_ns = phase.inner_ended_at_ns
            ended_at_ns = (
                inner_ended_at_ns if fact is None and inner_ended_at_ns is not None else at_ns
            )
            if result is None:
                result, failure = result_without_end(phase, failure)
        number = record.attempts
        attempt = phase.attempt
        if attempt is None:
            attempt = attempt_of(phase, number, phase.attempts_started_at_ns, None)
            self._out.opened(attempt)
        self._hooks.close_inside(phase, result, ended_at_ns)
        attempt.finish(result, failure, ended_at_ns, fact.duration_ns if fact is not None else None)
        self._out.closed(attempt)
        self._counts.retries += 1
        record.attempts = number + 1
        started_at_ns = at_ns + (fact.delay_ns if fact is not None else 0)
        phase.attempt = phase.innermost = attempt_of(phase, number + 1, started_at_ns, attempt)
        phase.attempts_started_at_ns = started_at_ns
        phase.evidence = None
        phase.inner_ended_at_ns = None
        phase.retry_announced = False
        phase.open_ranks &= {phase.outer}
        self._out.opened(phase.attempt)

    def ended(
        self, run: OpenRun, fact: Ended, task: str | None, within: SpanState | None
    ) -> SpanState:
        """Apply an end: of a phase, or of its attempt by an inner publisher."""
        result, failure, at_ns = fact.result, fact.failure, fact.event.at_ns
        group = run.phases.get(fact.name) if fact.name is not None else None
        if (
            group is not None
            and len(group) == 1
            and result is _SUCCESS
            and fact.verb is _END
            and group[0].outer >= fact.rank
            and not (fact.aliases or fact.hints.of_open)
        ):
            phase = group[0]
            if phase.subject_id is not None:
                self._compare_ids(run, phase, fact)
            kept = add_event(run, phase.innermost, fact)
            if fact.attempts > 1:
                self._adopt_attempts(phase, fact)
            self.close(run, phase, result, None, at_ns, fact.duration_ns if fact.final else None)
            return kept
        found, ambiguous = find(run, fact, task, within)
        if found is None:
            return self._ended_without_start(run, fact, task)
        phase = found
        self._compare_ids(run, phase, fact)
        if ambiguous:
            phase.record.flag(Flag.AMBIGUOUS)
        if fact.aliases:
            run.add_aliases(phase, fact.aliases)
        kept = add_event(run, phase.innermost, fact)
        if fact.hints.of_open and phase.pending is not None:  # "after" what failed
            self.settle(run, phase)
            return kept
        phase.open_ranks -= {fact.rank}
        if fact.rank > phase.outer:
            # an inner publisher: the phase continues, and may retry
            phase.inner_ended_at_ns = at_ns
            if failure is not None:
                phase.evidence = merge(phase.evidence, failure)
            elif result is _SUCCESS:
                phase.evidence = None
            return kept
        self._adopt_attempts(phase, fact)
        phase.outer = min(phase.outer, fact.rank)
        failure = merge(phase.evidence, failure) if result.failed else None
        if (
            result is Result.FAILURE
            and failure is not None
            and failure.error_type == ErrorType.TIMEOUT
        ):
            result = Result.TIMEOUT
        if (
            result.failed
            and not (fact.final or run.implicit)
            and at_ns >= phase.record.started_at_ns
        ):
            self._hold(run, phase, result, failure, at_ns)
            return kept
        phase.pending, phase.record.held = None, None
        self.close(run, phase, result, failure, at_ns, fact.duration_ns if fact.final else None)
        return kept

    def _adopt_attempts(self, phase: OpenPhase, fact: Ended) -> None:
        """Take the number of attempts from an end event, if it is larger than the number seen."""
        more = fact.attempts - phase.record.attempts
        if more > 0:
            phase.record.attempts = fact.attempts
            self._counts.retries += more

    def _hold(
        self,
        run: OpenRun,
        phase: OpenPhase,
        result: Result,
        failure: Failure | None,
        at_ns: int,
    ) -> None:
        phase.pending, phase.record.held = (result, failure), Held(result, failure, at_ns)
        phase.pending_at_ns = at_ns
        phase.evidence = failure
        self._waiting.hold(run, phase)

    def _ended_without_start(self, run: OpenRun, fact: Ended, task: str | None) -> SpanState:
        """Apply an end that matches no open phase."""
        strategy = open_strategy(run, fact.name)
        if strategy is not None:
            return self._hooks.strategy_ended(run, *strategy, fact)
        again = fact.verb is Verb.END or fact.hints.state
        if fact.hints.of_open or (again and fact.name in run.ended):
            return add_event(run, run.record, fact)  # late or repeated: the phase has ended
        if fact.name is None:
            self._counts.unmatched_ends += 1
            return add_event(run, run.record, fact)
        return self._orphan(run, fact, task)

    def _orphan(self, run: OpenRun, fact: Ended, task: str | None) -> SpanState:
        """Open and end a phase for an end without a start; its start is back-dated by the duration in the event."""
        at_ns = fact.event.at_ns
        phase = self._open(run, fact, max(1, at_ns - (fact.duration_ns or 0)), task)
        phase.orphan = True
        if fact.verb is Verb.END:
            phase.record.flag(Flag.ORPHAN_END)
            self._counts.orphan_ends += 1
        kept = add_event(run, phase.record, fact)
        self._adopt_attempts(phase, fact)
        result, failure = fact.result, fact.failure
        if result.failed and not (fact.final or run.implicit):
            phase.open_ranks = frozenset()
            self._hold(run, phase, result, failure, at_ns)
            return kept
        if fact.reason is not None:
            phase.record.skip_reason = fact.reason
        self.close(run, phase, result, failure, at_ns, fact.duration_ns)
        return kept

    def settle(self, run: OpenRun, phase: OpenPhase) -> None:
        """Close a phase with its held failure, because no retry came."""
        pending = phase.pending
        assert pending is not None
        self.close(run, phase, pending[0], pending[1], phase.pending_at_ns, None)

    def abandon(self, run: OpenRun, phase: OpenPhase, at_ns: int, error_type: ErrorType) -> None:
        """Close a phase without an end event."""
        if error_type is ErrorType.ABANDONED and is_entered(phase):
            phase.record.flag(Flag.INFERRED)
            self.close(
                run, phase, _SUCCESS, None, left_at_ns(run, phase, at_ns), None, announced=False
            )
            return
        self._counts.abandoned += 1
        phase.record.flag(Flag.ABANDONED)
        failure = Failure(error_type, abandoned_text(phase.record, error_type))
        self.close(
            run, phase, Result.ERROR, failure, max(at_ns, run.last_at_ns), None, announced=False
        )

    def close(
        self,
        run: OpenRun,
        phase: OpenPhase,
        result: Result,
        failure: Failure | None,
        at_ns: int,
        duration_ns: int | None,
        *,
        announced: bool = True,
    ) -> None:
        """Close a phase and everything that is open in it."""
        record = phase.record
        if self._waiting.held:
            self._waiting.release(phase)
        if phase.hooks or phase.strategies:
            self._hooks.close_inside(phase, result, at_ns)
        attempt = phase.attempt
        if attempt is not None:
            ends_ns = at_ns
            if duration_ns is not None:
                ends_ns = min(at_ns, max(record.started_at_ns + duration_ns, attempt.started_at_ns))
            attempt.finish(result, failure, ends_ns, None)
            self._out.closed(attempt)
        name, counts = record.name, self._counts
        run.remove(phase)
        counts.phases_open -= 1
        counts.phases_ended += 1
        record.finish(result, failure, at_ns, duration_ns)
        ended = run.ended[name] = EndedPhase(
            record.ended_at_ns or at_ns,
            record.span_id,
            phase.orphan,
            announced,
            phase.outer,
            phase.task,
        )
        if phase.aliases:
            for alias in phase.aliases:
                run.ended.setdefault(alias, ended)
        while len(run.ended) > self._phases_remembered:
            del run.ended[next(iter(run.ended))]
        if result.failed:
            counts.phase_failures += 1
            if run.first_failure is None:
                run.first_failure = (result, failure)
        self._out.closed(record)
        if not run.announced or run.each:
            run.results |= {result}
            if not run.phases:
                if run.each:
                    self.jobs_done.append(run)
                else:
                    self._waiting.idle(run)

    def close_all(
        self, run: OpenRun, result: Result, at_ns: int, leftover: ErrorType, *, cut: bool = False
    ) -> None:
        """Close the open phases of a run that ends; ``cut``: with the run's result instead of as abandoned."""
        for phase in list(run.open_phases()):
            if phase.pending is not None:
                self.settle(run, phase)
            elif result is Result.CANCELLATION:
                self.close(run, phase, result, None, at_ns, None, announced=False)
            elif cut:
                self.close(run, phase, result, phase.evidence, at_ns, None, announced=False)
            else:
                self.abandon(run, phase, at_ns, leftover)
