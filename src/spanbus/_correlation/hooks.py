"""Hooks and strategies: spans below a phase or attempt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, cast

from spanbus._correlation.fan_out import FanOut
from spanbus._correlation.limits import Counts
from spanbus._correlation.matching import host_of_hook
from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.open_run import OpenRun, add_event
from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Ended, Fact, Started
from spanbus._semantics import ErrorType, Failure, Flag, Level, Result, names
from spanbus._workflow import identity

_HOOKS_OF_A_RUN: Final = 256


class Hooks:
    """Opens and closes the hooks and strategies of a run."""

    def __init__(self, out: FanOut, counts: Counts) -> None:
        self._out = out
        self._counts = counts

    def strategy_started(self, run: OpenRun, host: OpenPhase, fact: Started) -> SpanState:
        """Open a strategy whose name differs from that of its phase."""
        record = _child(host.innermost, Level.STRATEGY, fact.name or "strategy", fact)
        record.describe(names.STRATEGY_NAME, record.name)
        host.strategies.append(record)
        self._out.opened(record)
        return add_event(run, record, fact)

    def strategy_ended(
        self, run: OpenRun, phase: OpenPhase, record: SpanState, fact: Ended
    ) -> SpanState:
        """Close a strategy and its open hooks."""
        kept = add_event(run, record, fact)
        phase.strategies.remove(record)
        for name, hooks in list(phase.hooks.items()):
            beneath = [hook for hook in hooks if hook.parent is record]
            phase.hooks[name] = [hook for hook in hooks if hook.parent is not record]
            if not phase.hooks[name]:
                del phase.hooks[name]
            self.close_left(beneath, fact.result, fact.event.at_ns)
        record.finish(fact.result, fact.failure, fact.event.at_ns, fact.duration_ns)
        self._out.closed(record)
        return kept

    def take(self, run: OpenRun, fact: Fact) -> SpanState:
        """Apply the start or end of a hook, or an event in it."""
        name = fact.name or "hook"
        phase, strategy = host_of_hook(run, fact)
        parent = strategy or (phase.innermost if phase is not None else run.record)
        if isinstance(fact, Started):
            record = _child(parent, _level(fact), name, fact)
            if phase is None:
                self._make_room(run)
            (phase.hooks if phase is not None else run.hooks).setdefault(name, []).append(record)
            self._out.opened(record)
            return add_event(run, record, fact)
        hooks = phase.hooks if phase is not None and name in phase.hooks else run.hooks
        opened = hooks.get(name)
        if not isinstance(fact, Ended):
            return add_event(run, opened[0] if opened else parent, fact)
        if not opened:
            self._counts.orphan_ends += 1
            record = _child(parent, _level(fact), name, fact)
            record.started_at_ns = fact.event.at_ns - (fact.duration_ns or 0)
            record.flag(Flag.ORPHAN_END)
            self._out.opened(record)
        else:
            record = opened.pop(0)
            if opened:
                record.flag(Flag.AMBIGUOUS)
            else:
                del hooks[name]
        add_event(run, record, fact)
        _describe_process(record, fact)
        record.finish(fact.result, fact.failure, fact.event.at_ns, fact.duration_ns)
        self._out.closed(record)
        return record

    def close_inside(self, phase: OpenPhase, result: Result, at_ns: int) -> None:
        """Close what is open below a phase or attempt that ends: with its result if cut off by it, else as abandoned."""
        if not phase.hooks and not phase.strategies:
            return
        left = [hook for hooks in phase.hooks.values() for hook in hooks] + phase.strategies
        phase.hooks.clear()
        phase.strategies.clear()
        self.close_left(left, result, at_ns)

    def close_left(self, left: Iterable[SpanState], result: Result, at_ns: int) -> None:
        """Close records without an end event: cancelled or timed out like their parent, else abandoned."""
        for record in left:
            if result in (Result.CANCELLATION, Result.TIMEOUT):
                failure = Failure(ErrorType.TIMEOUT) if result is Result.TIMEOUT else None
                record.finish(result, failure, at_ns, None)
            else:
                record.flag(Flag.ABANDONED)
                record.finish(Result.ERROR, Failure(ErrorType.ABANDONED), at_ns, None)
            self._out.closed(record)

    def _make_room(self, run: OpenRun) -> None:
        """Bound the open hooks outside any phase; those of the oldest name are closed first."""
        if len(run.hooks) >= _HOOKS_OF_A_RUN:
            name = next(iter(run.hooks))
            self.close_left(run.hooks.pop(name), Result.ERROR, run.last_at_ns)


def _level(fact: Fact) -> Level:
    return Level.HOOK if "hook" in fact.event.payload else Level.COMMAND


def _child(parent: SpanState, level: Level, name: str, fact: Fact) -> SpanState:
    number = parent.number_of(f"{level}:{name}")
    span_id = identity.child_span_id(parent.span_id, level, name, number)
    record = parent.child(level, name, span_id, fact.event.at_ns, None, parent.attempt)
    if level in (Level.HOOK, Level.COMMAND):
        if level is Level.HOOK:
            record.describe(names.HOOK_NAME, name)
        _describe_process(record, fact)
    return record


def _describe_process(record: SpanState, fact: Fact) -> None:
    payload, describe = fact.event.payload, record.describe
    executable, command = payload.get("executable"), payload.get("command")
    exit_code = payload.get("exit_code")
    if isinstance(executable, str):
        describe(names.PROCESS_EXECUTABLE, executable)
    if isinstance(command, list | tuple):
        describe(
            names.PROCESS_COMMAND_ARGS,
            tuple([str(part) for part in cast("Sequence[object]", command)]),
        )
    if isinstance(exit_code, int) and not isinstance(exit_code, bool):
        describe(names.PROCESS_EXIT_CODE, exit_code)
    if payload.get("cached") is True:
        describe(names.HOOK_CACHED, True)
    tail = payload.get("output_tail")
    if isinstance(tail, str) and tail:
        describe(names.OUTPUT_TAIL, tail)
