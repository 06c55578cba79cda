"""Match a fact to an open phase, strategy or hook of a run: by id, name, alias or publisher, or the only one that is open."""

from __future__ import annotations

from itertools import islice

from spanbus._correlation.crowd import Crowd
from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.open_run import OpenRun
from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Ended, Fact, Rank, Started, Verb
from spanbus._reading.spelling import segments, subject
from spanbus._semantics import Result


def find(
    run: OpenRun, fact: Fact, task: str | None = None, within: SpanState | None = None
) -> tuple[OpenPhase | None, bool]:
    """Return the open phase that a fact belongs to, and whether the match was ambiguous."""
    name = fact.name
    group = run.phases.get(name) if name is not None else None
    if run.by_id and (phase := _by_id(run, group, fact)) is not None:
        return phase, False
    if group:
        if len(group) == 1:
            return group[0], False
        crowd = run.crowds[group[0].record.name]
        phase = _by_publisher(crowd, fact.hints.task or task, within)
        return (phase, False) if phase is not None else _oldest(group, fact, crowd)
    ends = fact.verb is not Verb.EVENT and fact.verb is not Verb.START
    if ends and name is not None and not fact.hints.exact:
        phase = _by_kind(run, fact, fact.hints.task or task, within)
        if phase is not None:
            return phase, False
    rank = fact.rank
    if fact.hints.exact and (name is not None or rank is Rank.STEP):
        return None, False
    if name is not None and not (run.has_aliases or fact.aliases or rank is Rank.STRATEGY):
        return None, False  # no aliases to search
    opened = list(run.open_phases())
    if name is None:
        return (opened[0], False) if len(opened) == 1 else (None, False)
    related = [
        phase
        for phase in opened
        if phase.outer < fact.rank and (name in phase.aliases or phase.record.name in fact.aliases)
    ]
    if fact.rank is Rank.STRATEGY and not any(_is_new_to(phase, fact) for phase in related):
        near = [
            phase
            for phase in opened
            if phase.outer < fact.rank
            and _same_work(phase.record.name, name)
            and phase not in related
        ]
        related = [phase for phase in near if _is_new_to(phase, fact)] or related or near
    return _oldest(related, fact)


def _by_id(run: OpenRun, group: list[OpenPhase] | None, fact: Fact) -> OpenPhase | None:
    """Return the open phase with the id of the event. An end that carries no name may match a phase of another name."""
    subject_id = fact.hints.subject_id
    known = run.by_id.get(subject_id) if subject_id is not None else None
    if known is None:
        return None
    if group:
        for phase in min(group, known, key=len):  # ids and names may both be shared by many
            if phase.subject_id == subject_id and phase.record.name == fact.name:
                return phase
        return None
    if fact.verb is Verb.START:
        return None
    about = subject(fact.event.name)
    for phase in known:
        if any(subject(start) == about for start in phase.starts):
            return phase
    return None


def _by_kind(
    run: OpenRun, fact: Fact, task: str | None, within: SpanState | None
) -> OpenPhase | None:
    """Return the open phase for an end named only by its kind (``task.failed``): the publisher's, or the only one."""
    parts = segments(fact.event.name)
    if len(parts) < 2 or parts[-2] != fact.name:
        return None
    about = subject(fact.event.name)
    some = [
        phase
        for phase in run.open_phases()
        if phase.subject_id is None or fact.hints.subject_id is None
        if any(subject(start) == about for start in phase.starts)
    ]
    return _by_publisher(Crowd(some), task, within) or (some[0] if len(some) == 1 else None)


def _by_publisher(crowd: Crowd, task: str | None, within: SpanState | None) -> OpenPhase | None:
    """Return the one of several phases that encloses the publisher or was opened by it."""
    while within is not None:
        phase = crowd.of_record(within)
        if phase is not None:
            return phase
        within = within.parent
    return crowd.of_task(task) if task is not None else None


def is_separate_phase(
    run: OpenRun, phase: OpenPhase, fact: Started, subject_id: str | None, *, other_publisher: bool
) -> bool:
    """Whether a start is not the next attempt of the failed ``phase``, but a phase beside it.

    It is one of an ``other_publisher`` where publishers share the name, or one with another id that is named by its kind only.
    """
    if phase.pending is None or phase.retry_announced:
        return False
    if other_publisher and (
        phase.record.name in run.shared_names or fact.event.at_ns < phase.pending_at_ns
    ):
        return True
    if subject_id is None or phase.subject_id in (None, subject_id):
        return False
    if "=" in subject_id:  # another part of the same task
        return True
    return fact.name in segments(fact.event.name)[-2:-1]


def host_of_strategy(run: OpenRun, fact: Fact) -> OpenPhase | None:
    """Return the phase in which a strategy of another name runs: the only open one."""
    if fact.rank is not Rank.STRATEGY:
        return None
    opened = list(run.open_phases())
    return opened[0] if len(opened) == 1 and opened[0].outer < Rank.STRATEGY else None


def open_strategy(run: OpenRun, name: str | None) -> tuple[OpenPhase, SpanState] | None:
    """Return the open strategy of this name, with its phase."""
    for phase in run.open_phases():
        for record in phase.strategies:
            if record.name == name:
                return phase, record
    return None


def host_of_hook(run: OpenRun, fact: Fact) -> tuple[OpenPhase | None, SpanState | None]:
    """Return the phase in which a hook runs, and its strategy if that is a span of its own."""
    opened = list(run.open_phases())
    named = (
        fact.event.payload.get("phase")
        if not isinstance(fact.event.payload.get("step_id"), str)
        else fact.event.payload.get("step_id")
    )
    wanted = [
        text for text in (fact.aliases + ((named,) if isinstance(named, str) else ())) if text
    ]
    for text in wanted:
        if group := run.phases.get(text):
            return group[0], _strategy_of(group[0], fact.hints.stage)
    if fact.hints.stage is not None:
        for phase in opened:
            if (strategy := _strategy_of(phase, fact.hints.stage)) is not None:
                return phase, strategy
        related = [phase for phase in opened if is_staged(phase, fact.hints.stage)]
        if related:
            return related[0], None
    holding = [phase for phase in opened if fact.name in phase.hooks]
    if holding:
        return holding[0], None
    return (opened[-1] if opened else None), None


def is_staged(phase: OpenPhase, stage: str) -> bool:
    """Whether hooks of this stage run in this phase."""
    return (
        phase.record.name == stage
        or stage in phase.aliases
        or _same_work(phase.record.name, stage)
        or _strategy_of(phase, stage) is not None
    )


def _strategy_of(phase: OpenPhase, stage: str | None) -> SpanState | None:
    return next((record for record in phase.strategies if record.name == stage), None)


def _oldest(
    phases: list[OpenPhase], fact: Fact, crowd: Crowd | None = None
) -> tuple[OpenPhase | None, bool]:
    """Return the oldest phase for which this fact is new, and whether there were several."""
    if not phases:
        return None, False
    if crowd is not None and fact.verb is Verb.START and fact.rank in crowd.announced_by_all:
        return phases[0], True
    new = list(islice((phase for phase in phases if _is_new_to(phase, fact)), 2))
    if new:
        return new[0], len(new) > 1
    if crowd is not None and fact.verb is Verb.START:
        crowd.announced_by_all.add(fact.rank)
    return phases[0], len(phases) > 1


def _is_new_to(phase: OpenPhase, fact: Fact) -> bool:
    """Whether the fact's rank has not yet announced this start or end for the current attempt."""
    if fact.verb is Verb.START:
        return fact.rank not in phase.seen and phase.pending is None
    return fact.verb is Verb.EVENT or fact.rank in phase.open_ranks


def may_end(run: OpenRun, fact: Ended) -> bool:
    """Whether the state of a run is consistent with this end of it."""
    result = fact.result
    if fact.hints.stage is not None and result.failed:
        return fact.hints.stage in run.phases
    if result.failed:
        return run.first_failure is not None or any(
            phase.pending is not None for phase in run.open_phases()
        )
    if result is Result.CANCELLATION:
        return bool(run.phases)
    return all(phase.pending is not None for phase in run.open_phases())


def _same_work(step: str, strategy: str) -> bool:
    """Whether a step is that of a strategy: ``fast_hooks`` runs strategy ``fast``."""
    return step == strategy or step.startswith((f"{strategy}_", f"{strategy}-", f"{strategy} "))
