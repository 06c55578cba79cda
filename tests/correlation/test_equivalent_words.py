"""Equivalent event types: two words for one start or end, requests before their start, and states that are entered."""

from __future__ import annotations

from typing import Any

import pytest
from told import published


def of(kind: str, **said: object) -> dict[str, Any]:
    return {"type": kind, "payload": said}


@pytest.mark.parametrize("run", [{"run_id": "r"}, {}])
def test_starting_and_started_are_one_start(run: dict[str, object]) -> None:
    runs, state = published(
        [
            of("run.starting", workflow="nightly", **run),
            of("run.started", workflow="nightly", **run),
            of("task.starting", task="fetch", **run),
            of("task.started", task="fetch", **run),
            of("task.completed", task="fetch", **run),
            of("run.completed", **run),
        ]
    )
    ((name, _, result, phases),) = runs
    assert (name, result, phases) == ("nightly", "success", [("fetch", "success", 1)])
    assert (state.abandoned, state.retries, state.unmatched_ends) == (0, 0, 0)


def test_a_request_and_its_start_are_one_start() -> None:
    runs, state = published(
        [
            of("StartWorkflow", run_id="r", workflow="nightly"),
            of("WorkflowStarted", run_id="r", workflow="nightly"),
            of("StartTask", run_id="r", task="fetch"),
            of("TaskStarted", run_id="r", task="fetch"),
            of("CompleteTask", run_id="r", task="fetch"),
            of("TaskCompleted", run_id="r", task="fetch"),
            of("CancelTask", run_id="r", task="fetch"),
            of("WorkflowCompleted", run_id="r"),
        ]
    )
    assert runs == [("nightly", "r", "success", [("fetch", "success", 1)])]
    assert (state.abandoned, state.retries, state.unmatched_ends) == (0, 0, 0)


def test_the_same_start_event_twice_is_two_runs() -> None:
    runs, state = published([of("run.started", run_id="r"), of("run.started", run_id="r")])
    assert [result for _, _, result, _ in runs] == ["error", "error"]
    assert state.abandoned == 2


def test_starting_and_started_with_work_between_them_are_two_runs() -> None:
    runs, _ = published(
        [
            of("run.starting", workflow="a"),
            of("task.started", task="fetch"),
            of("task.completed", task="fetch"),
            of("run.started", workflow="b"),
        ]
    )
    assert len(runs) == 2


@pytest.mark.parametrize("word", ["enter", "entered"])
def test_a_state_that_is_entered_and_not_left_is_a_success(word: str) -> None:
    events = [of("run.started", run_id="r", workflow="lamp")]
    for at, name in [(1, "red"), (3, "green"), (7, "yellow")]:
        said = of(f"state.{word}", run_id="r", name=name)
        events.append({**said, "timestamp": 1_764_324_000 + at})
    events[0]["timestamp"] = 1_764_324_000
    events.append({**of("run.completed", run_id="r"), "timestamp": 1_764_324_010})
    runs, state = published(events)
    phases = [("red", "success", 1), ("green", "success", 1), ("yellow", "success", 1)]
    assert runs == [("lamp", "r", "success", phases)]
    assert (state.abandoned, state.phase_failures, state.run_failures) == (0, 0, 0)


def test_entered_and_left_blocks_are_nested_phases() -> None:
    runs, state = published(
        [
            of("run.started", run_id="r", workflow="w"),
            of("block.enter", run_id="r", name="outer"),
            of("block.enter", run_id="r", name="inner"),
            of("block.exit", run_id="r", name="inner"),
            of("block.exit", run_id="r", name="outer"),
            of("run.completed", run_id="r"),
        ]
    )
    assert runs == [("w", "r", "success", [("outer", "success", 1), ("inner", "success", 1)])]
    assert (state.abandoned, state.orphan_ends) == (0, 0)


def test_a_phase_that_is_started_and_not_ended_is_abandoned() -> None:
    runs, state = published(
        [
            of("run.started", run_id="r", workflow="w"),
            of("task.started", run_id="r", task="fetch"),
            of("run.completed", run_id="r"),
        ]
    )
    assert runs == [("w", "r", "success", [("fetch", "error", 1)])]
    assert (state.abandoned, state.phase_failures) == (1, 1)
