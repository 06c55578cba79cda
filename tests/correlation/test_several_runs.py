"""Several open runs, and events that do not name their run."""

from __future__ import annotations

import random

import pytest

from spanbus._correlation.correlator import Correlator, CorrelatorState
from spanbus._correlation.span_state import SpanState
from spanbus._reading import dialect_file
from spanbus._reading.read import Raw

Told = tuple[float, str, dict[str, object]]


def recorded(*told: Told) -> tuple[list[SpanState], CorrelatorState]:
    runs: list[SpanState] = []
    correlator = Correlator(on_run_ended=runs.append)
    rules = dialect_file.load("crackerjack")
    for number, (at_s, event_type, payload) in enumerate(sorted(told, key=lambda one: one[0])):
        correlator.apply(
            rules.fact(
                Raw(event_type, f"event-{number}", round((1_000_000_000 + at_s) * 1e9), "", payload)
            )
        )
    correlator.close()
    return sorted(runs, key=lambda run: run.started_at_ns), correlator.state()


def outcomes(runs: list[SpanState]) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
    return [
        (
            run.name,
            str(run.result),
            [(phase.name, str(phase.result), phase.attempts) for phase in run.children],
        )
        for run in runs
    ]


def bridge(at_s: float, step: str, *, end: str | None = None) -> Told:
    """Return an event of the engine bridge, whose payloads name no run."""
    payload: dict[str, object] = {"step_id": step, "step_name": step.title()}
    if end is None:
        return at_s, "workflow.quality.started", payload
    if end == "success":
        return at_s, "workflow.quality.completed", {**payload, "success": True}
    return at_s, "workflow.failed", {**payload, "error": "it failed", "success": False}


def action(at_s: float, step: str, *, end: str | None = None) -> Told:
    payload: dict[str, object] = {"step_id": step, "phase": step}
    if end is None:
        return at_s, "workflow.quality.started", payload
    return at_s, "workflow.quality.completed" if end == "success" else "workflow.failed", payload


def run(at_s: float, word: str, **payload: object) -> Told:
    return at_s, f"workflow.{word}", payload


@pytest.mark.parametrize("second", ["first", "other"])
def test_a_step_with_two_announcers_fails_once_beside_another_run(
    second: str,
) -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="first"),
        bridge(1, "lint"),
        run(2, "started", workflow_id=second),
        action(3, "lint"),
        action(4, "lint", end="failure"),
        bridge(5, "lint", end="failure"),
        run(6, "failed", workflow_id="first", error="it failed"),
        run(7, "completed", workflow_id=second),
    )
    assert outcomes(runs) == [
        ("first", "failure", [("lint", "failure", 1)]),
        (second, "success", []),
    ]
    assert (state.phase_failures, state.retries, state.orphan_ends, state.abandoned) == (1, 0, 0, 0)


def test_concurrent_runs_of_one_definition_keep_their_phases() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="w"),
        bridge(1, "lint"),
        action(2, "lint"),
        run(3, "started", workflow_id="w"),
        bridge(4, "lint"),
        action(5, "lint"),
        action(6, "lint", end="success"),
        bridge(7, "lint", end="success"),
        action(8, "lint", end="success"),
        bridge(9, "lint", end="success"),
        run(10, "completed", workflow_id="w"),
        run(11, "completed", workflow_id="w"),
    )
    assert outcomes(runs) == [("w", "success", [("lint", "success", 1)])] * 2
    assert (state.phase_failures, state.retries, state.orphan_ends, state.abandoned) == (0, 0, 0, 0)
    assert [
        "ambiguous" in {flag.value for flag in phase.flags}
        for one in runs
        for phase in one.children
    ] == [True, False]


def test_a_start_that_fits_two_runs_gets_an_inferred_run() -> None:
    runs, _ = recorded(
        run(0, "started", workflow_id="a"),
        run(1, "started", workflow_id="b"),
        bridge(2, "lint"),
        bridge(3, "lint", end="success"),
        run(4, "completed", workflow_id="a"),
        run(5, "completed", workflow_id="b"),
    )
    assert [(one.name, len(one.children)) for one in runs] == [("a", 0), ("b", 0), ("implicit", 1)]


@pytest.mark.parametrize("speakers", [(bridge,), (bridge, action)])
def test_failures_of_interleaved_runs_are_counted_once(
    speakers: tuple[object, ...],
) -> None:
    for seed in range(50):
        chance = random.Random(seed)
        told: list[Told] = []
        failed = 0
        for number in range(2):  # the second starts when the first has ended its first step
            at_s = number * 100.0
            told.append(run(at_s, "started", workflow_id=f"w{number}"))
            told.append(bridge(at_s + 0.1, "config"))
            told.append(bridge(at_s + 0.2, "config", end="success"))
            end = chance.choice(("success", "failure"))
            failed += end == "failure"
            told.append(bridge(at_s + 1, "lint"))
            if action in speakers:
                told.append(action(at_s + 2, "lint"))
                told.append(action(120 + number * 10 + chance.random(), "lint", end=end))
            told.append(bridge(130 + number * 10 + chance.random(), "lint", end=end))
            told.append(
                run(
                    200 + number,
                    "completed" if end == "success" else "failed",
                    workflow_id=f"w{number}",
                )
            )
        runs, state = recorded(*told)
        assert len(runs) == 2, seed
        assert (state.phase_failures, state.retries, state.phases_ended) == (failed, 0, 4), seed


def test_late_ends_of_a_cancelled_run_open_nothing_in_the_next_run() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="w"),
        bridge(1, "lint"),
        bridge(2, "tests"),
        run(3, "interrupted", workflow_id="w"),
        run(4, "started", workflow_id="w"),
        bridge(5, "config"),
        bridge(6, "lint", end="success"),
        bridge(7, "tests", end="failure"),
        bridge(8, "config", end="success"),
        bridge(9, "lint"),
        bridge(10, "lint", end="success"),
        run(11, "completed", workflow_id="w"),
    )
    assert outcomes(runs) == [
        ("w", "cancellation", [("lint", "cancellation", 1), ("tests", "cancellation", 1)]),
        ("w", "success", [("config", "success", 1), ("lint", "success", 1)]),
    ]
    assert (
        state.events_late,
        state.unmatched_ends,
        state.orphan_ends,
        state.retries,
        state.phase_failures,
    ) == (2, 2, 0, 0, 0)


def test_two_skips_without_a_start_go_to_the_two_runs_of_the_id() -> None:
    skipped = {"workflow_id": "w", "success": True, "skipped": True}
    runs, _ = recorded(
        run(0, "started", workflow_id="w"),
        run(1, "started", workflow_id="w"),
        (2, "workflow.publish.completed", skipped),
        (3, "workflow.publish.completed", dict(skipped)),
        run(4, "completed", workflow_id="w"),
        run(5, "completed", workflow_id="w"),
    )
    assert outcomes(runs) == [("w", "success", [("publish", "skip", 1)])] * 2


def test_a_failure_that_names_a_stage_ends_the_run_with_that_open_stage() -> None:
    runs, _ = recorded(
        run(0, "started", workflow_id="w"),
        (1, "workflow.config.started", {"workflow_id": "w"}),
        (2, "workflow.config.completed", {"workflow_id": "w"}),
        run(3, "started", workflow_id="w"),
        (4, "workflow.config.started", {"workflow_id": "w"}),
        run(5, "failed", workflow_id="w", stage="config", error="no"),
        run(6, "completed", workflow_id="w"),
    )
    assert outcomes(runs) == [
        ("w", "success", [("config", "success", 1)]),
        ("w", "failure", [("config", "failure", 1)]),
    ]


def test_a_run_started_without_an_id_is_ended_by_an_end_with_an_id() -> None:
    runs, state = recorded(
        run(0, "started"),
        bridge(1, "lint"),
        bridge(2, "lint", end="success"),
        run(3, "completed", workflow_id="w"),
    )
    assert [str(one.result) for one in runs] == ["success"]
    assert (state.unmatched_ends, state.abandoned) == (0, 0)


def test_events_of_a_run_before_its_start_belong_to_it() -> None:
    runs, _ = recorded(
        run(0, "session.initializing", workflow_id="w"),
        run(1, "started", workflow_id="w"),
        bridge(2, "lint"),
        bridge(3, "lint", end="success"),
        run(4, "completed", workflow_id="w"),
    )
    assert outcomes(runs) == [("w", "success", [("lint", "success", 1)])]
    assert runs[0].events_in_tree == 5


def orchestrator(at_s: float, word: str, *, strategy: str = "fast") -> Told:
    return at_s, f"hooks.strategy.{word}", {"strategy": strategy, "execution_mode": "acb"}


def hook(at_s: float, name: str, *, end: str | None = None, stage: str = "fast") -> Told:
    if end is None:
        return at_s, "hooks.execution.started", {"hook": name, "stage": stage}
    return at_s, "hooks.execution.completed", {"hook": name, "stage": stage, "status": end}


def test_a_retry_in_one_run_is_not_a_start_in_another() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="a"),
        bridge(1, "lint"),
        action(2, "lint"),
        run(3, "started", workflow_id="b"),
        action(4, "lint", end="failure"),
        action(5, "lint"),
        bridge(6, "lint"),
        action(7, "lint"),
        action(8, "lint", end="success"),
        bridge(9, "lint", end="success"),
        action(10, "lint", end="success"),
        bridge(11, "lint", end="success"),
        run(12, "completed", workflow_id="a"),
        run(13, "completed", workflow_id="b"),
    )
    assert outcomes(runs) == [
        ("a", "success", [("lint", "success", 2)]),
        ("b", "success", [("lint", "success", 1)]),
    ]
    assert (state.retries, state.phase_failures, state.orphan_ends, state.abandoned) == (1, 0, 0, 0)


def test_a_second_step_of_a_name_is_concurrent_with_a_retried_one() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="a"),
        bridge(1, "lint"),
        action(2, "lint"),
        action(3, "lint", end="failure"),
        action(4, "lint"),
        bridge(5, "lint"),
        action(6, "lint", end="success"),
        bridge(7, "lint", end="success"),
        bridge(8, "lint", end="success"),
        run(9, "completed", workflow_id="a"),
    )
    assert outcomes(runs) == [("a", "success", [("lint", "success", 2), ("lint", "success", 1)])]
    assert (state.retries, state.abandoned) == (1, 0)


def test_hooks_belong_to_the_run_of_their_strategy() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="a"),
        bridge(1, "fast_hooks"),
        orchestrator(2, "started"),
        run(3, "started", workflow_id="b"),
        hook(5, "ruff"),
        hook(6, "ruff", end="failed"),
        orchestrator(7, "completed"),
        bridge(8, "fast_hooks", end="success"),
        run(10, "completed", workflow_id="a"),
        run(11, "completed", workflow_id="b"),
    )
    assert outcomes(runs) == [
        ("a", "success", [("fast_hooks", "success", 1)]),
        ("b", "success", []),
    ]
    assert [(child.name, str(child.result)) for child in runs[0].children[0].children] == [
        ("ruff", "failure")
    ]
    assert (state.orphan_ends, state.retries) == (0, 0)


def test_strategies_of_concurrent_runs_are_not_attempts_of_one_phase() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="a"),
        run(1, "started", workflow_id="b"),
        bridge(2, "fast_hooks"),
        orchestrator(3, "started"),
        bridge(4, "fast_hooks"),
        orchestrator(5, "started"),
        orchestrator(6, "completed"),
        orchestrator(7, "completed"),
        bridge(8, "fast_hooks", end="success"),
        bridge(9, "fast_hooks", end="success"),
        run(10, "completed", workflow_id="a"),
        run(11, "completed", workflow_id="b"),
    )
    assert sum(len(one.children) for one in runs) == 2
    assert (state.retries, state.phase_failures) == (0, 0)


def test_a_hook_outside_any_phase_is_a_span_of_the_run() -> None:
    runs, state = recorded(
        run(0, "started", workflow_id="a"),
        hook(1, "ruff"),
        hook(3, "ruff", end="error"),
        hook(4, "left open"),
        run(5, "completed", workflow_id="a"),
    )
    told = [
        (
            child.name,
            str(child.result),
            child.started_at_ns // 10**9 - 10**9,
            round(child.duration_s),
        )
        for child in runs[0].children
    ]
    assert told == [("ruff", "failure", 1, 2), ("left open", "error", 4, 1)]
    assert (state.orphan_ends, state.phase_failures) == (0, 0)


def test_the_number_of_open_hooks_outside_any_phase_is_bounded() -> None:
    correlator = Correlator()
    rules = dialect_file.load("crackerjack")
    for number in range(5_000):
        correlator.apply(
            rules.fact(
                Raw(
                    "hooks.execution.started",
                    f"event-{number}",
                    10**18 + number,
                    "",
                    {"hook": f"hook {number}"},
                )
            )
        )
    assert len(correlator.open_records()) < 1_000
    correlator.close()
    assert correlator.open_records() == []
