"""Assignment of events to open phases: concurrent tasks of one name, ends without a name, states without a type."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from told import Events, published

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load


def event(kind: str, apart: bool = True, **said: object) -> dict[str, object]:
    return {"type": kind, "payload": said} if apart else {"type": kind, **said}


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ({"id": "a1"}, {"id": "b2"}, ["task", "task"]),
        ({"id": 1, "name": "fetch"}, {"id": 2, "name": "fetch"}, ["fetch", "fetch"]),
        ({"task": {"id": 1, "name": "x"}}, {"task": {"id": 2, "name": "x"}}, ["x", "x"]),
        (
            {"task_id": "8f14e45f", "task_name": "fetch"},
            {"task_id": "9a1b2c3d", "task_name": "fetch"},
            ["fetch", "fetch"],
        ),
    ],
)
def test_concurrent_tasks_of_one_name_are_distinguished_by_id(
    a: dict[str, object], b: dict[str, object], names: list[str], apart: bool
) -> None:
    ((*_, result, phases),), state = published(
        [
            event("run.started", apart, run_id="7"),
            event("task.started", apart, run_id="7", **a),
            event("task.started", apart, run_id="7", **b),
            event("task.completed", apart, run_id="7", **a),
            event("task.failed", apart, run_id="7", error="no", **b),
            event("run.failed", apart, run_id="7"),
        ]
    )
    assert [name for name, *_ in phases] == names
    assert [one[1:] for one in phases] == [("success", 1), ("failure", 1)]
    assert (result, state.retries, state.abandoned) == ("failure", 0, 0)


def test_an_end_may_have_the_id_alone() -> None:
    ((*_, phases),), state = published(
        [
            event("task.started", task="fetch", id=1),
            event("task.started", task="build", id=2),
            event("task.failed", id=1),
            event("task.completed", id=2),
        ]
    )
    assert phases == [("fetch", "failure", 1), ("build", "success", 1)]
    assert (state.orphan_ends, state.abandoned) == (0, 0)


def test_a_start_with_a_new_id_is_a_retry_only_if_the_task_has_a_name() -> None:
    run = event("run.started", run_id="7")
    for said, phases in [
        ({"task": "fetch"}, [("fetch", "success", 2)]),
        ({}, [("task", "failure", 1), ("task", "success", 1)]),
    ]:
        ((*_, found),), _ = published(
            [
                run,
                event("task.started", run_id="7", id=1, **said),
                event("task.failed", run_id="7", id=1, **said),
                event("task.started", run_id="7", id=2, **said),
                event("task.completed", run_id="7", id=2, **said),
                event("run.completed", run_id="7"),
            ]
        )
        assert found == phases


@pytest.mark.parametrize("again", ["task.failed", None])
def test_event_ids_are_not_taken_for_task_ids(again: str | None) -> None:
    numbers = itertools.count()
    kinds = ["run.started", "task.started", "task.completed", "task.started", again]
    kinds += ["task.started", "task.completed", "run.completed"]
    events: Events = [
        {"type": kind, "id": f"e{next(numbers)}", **({"task": "a"} if "task" in kind else {})}
        for kind in kinds
        if kind is not None
    ]
    ((*_, result, phases),), state = published(events)
    assert (result, phases) == ("success", [("a", "success", 1), ("a", "success", 2)])
    assert (state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("said", [{"id": 1}, {"name": "a"}, {"id": 1, "name": "a"}])
def test_an_end_ends_the_run_with_its_id_or_name(said: dict[str, object], apart: bool) -> None:
    other = {key: 2 if key == "id" else "b" for key in said}
    runs, _ = published(
        [
            event("job.started", apart, **said),
            event("job.started", apart, **other),
            event("job.failed", apart, **said),
            event("job.completed", apart, **other),
        ]
    )
    names = ("a", "b") if "name" in said else ("workflow", "workflow")
    assert [(name, result) for name, _, result, _ in runs] == [
        (names[0], "failure"),
        (names[1], "success"),
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_the_run_id_of_a_step_matches_the_id_of_the_runs_start(apart: bool) -> None:
    runs, state = published(
        [
            event("run.started", apart, id="7"),
            event("task.started", apart, run_id="7", task="a"),
            event("task.completed", apart, run_id="7", task="a"),
            event("run.completed", apart, id="7"),
            event("task.started", apart, run_id="7", task="too late"),
        ]
    )
    assert [(result, phases) for *_, result, phases in runs] == [("success", [("a", "success", 1)])]
    assert state.runs_ended == 1


# --- ends without a name ----------------------------------------------------------------------------------------------


def test_an_end_without_a_name_ends_the_only_open_phase_of_its_kind() -> None:
    ((*_, phases),), state = published(
        [
            event("run.started"),
            event("task.started", task="a"),
            event("task.completed"),
            event("task.started", task="b"),
            event("check.completed"),
            event("task.failed", error="no"),
            event("run.failed"),
        ]
    )
    assert phases == [("a", "success", 1), ("b", "failure", 1), ("check", "success", 1)]
    assert (state.orphan_ends, state.abandoned) == (1, 0)


@pytest.mark.parametrize(
    "said",
    [
        {"ok": False},
        {"passed": False},
        {"exit_code": 2},
        {"returncode": -9},
        {"errors": ["2 of 40"]},
        {"exc_info": (ValueError, ValueError("2 of 40"), None)},
        {"result": type("Outcome", (), {"ok": False, "error": "2 of 40"})()},
        {"result": type("Outcome", (), {"success": False})()},
        {"result": type("Err", (), {"error": "2 of 40"})()},
        {"result": {"error": "2 of 40"}},
        {"failed": True},
        {"is_error": True, "message": "2 of 40"},
        {"hasErrors": True},
        {"rc": 2},
        {"exitCode": 2},
        {"verdict": "FAILED"},
        {"status_code": 503},
        {"httpStatus": 500},
    ],
)
def test_an_end_with_any_failure_field_is_a_failure(said: dict[str, object]) -> None:
    events = [event("task.started", task="a"), event("task.finished", task="a", **said)]
    ((*_, phases),), _ = published(events)
    assert phases == [("a", "failure", 1)]


@pytest.mark.parametrize(
    "said",
    [
        {"ok": True},
        {"exit_code": 0, "errors": []},
        {"exc_info": (None, None, None)},
        {"failed": False, "rc": 0, "has_error": False},
        {"failed": 0, "verdict": "passed"},
        {"status_code": 200},
        {"status_code": 404},
        {"result": type("Ok", (), {"value": 1, "error": None})()},
    ],
)
def test_an_end_with_success_fields_is_a_success(said: dict[str, object]) -> None:
    events = [event("task.started", task="a"), event("task.finished", task="a", **said)]
    ((*_, phases),), _ = published(events)
    assert phases == [("a", "success", 1)]


# --- several publishers -----------------------------------------------------------------------------------------------


class Publishers:
    """Events of one run from several publishers, which are known to the correlator by name only."""

    def __init__(self) -> None:
        self.dialect = load("generic")
        self.runs: list[SpanState] = []
        self.correlator = Correlator(policy=self.dialect.policy, on_run_ended=self.runs.append)
        self.say("run.started", 0, "main", run_id="7")

    def say(self, kind: str, at: int, by: str, **said: object) -> None:
        said = {"run_id": "7", **said}
        fact = self.dialect.read(
            {"type": kind, "at_ns": 1_700_000_000_000_000_000 + at, "payload": said}
        )
        self.correlator.apply(fact, None, by)

    def phases(self) -> list[tuple[str, int]]:
        self.say("run.completed", 1_000, "main")
        return [(str(one.result), one.attempts) for one in self.runs[0].children]


def test_a_late_start_is_not_merged_with_another_publishers_phase() -> None:
    one = Publishers()
    one.say("task.started", 10, "a", task="resize")
    one.say("task.completed", 30, "a", task="resize")
    one.say("task.started", 20, "b", task="resize")
    one.say("task.failed", 40, "b", task="resize")
    assert one.phases() == [("success", 1), ("failure", 1)]


def test_starts_of_two_publishers_at_the_same_time_are_two_phases() -> None:
    one = Publishers()
    one.say("task.started", 10, "a", task="resize")
    one.say("task.started", 10, "b", task="resize")
    one.say("task.failed", 20, "a", task="resize")
    one.say("task.completed", 20, "b", task="resize")
    assert one.phases() == [("failure", 1), ("success", 1)]


def test_a_start_before_a_failure_is_not_a_retry_of_it() -> None:
    one = Publishers()
    one.say("task.started", 10, "a", task="resize")
    one.say("task.failed", 30, "a", task="resize")
    one.say("task.started", 20, "b", task="resize")
    one.say("task.completed", 40, "b", task="resize")
    assert one.phases() == [("failure", 1), ("success", 1)]


def test_with_concurrent_phases_of_a_name_a_later_start_is_no_retry() -> None:
    one = Publishers()
    one.say("task.started", 10, "a", task="resize")
    one.say("task.started", 11, "b", task="resize")
    one.say("task.completed", 20, "a", task="resize")
    one.say("task.failed", 21, "b", task="resize")
    one.say("task.started", 30, "a", task="resize")
    one.say("task.completed", 40, "a", task="resize")
    assert one.phases() == [("success", 1), ("failure", 1), ("success", 1)]


def test_another_worker_may_retry_a_failed_phase() -> None:
    one = Publishers()
    one.say("task.started", 10, "a", task="resize")
    one.say("task.failed", 20, "a", task="resize")
    one.say("task.started", 30, "b", task="resize")
    one.say("task.completed", 40, "b", task="resize")
    assert one.phases() == [("success", 2)]


# --- states without a type --------------------------------------------------------------------------------------------


class Task:
    def __init__(self, name: str, state: str) -> None:
        self.name, self.state = name, state


def test_an_object_with_a_state_and_no_type_is_read_by_its_kind() -> None:
    runs, state = published(
        [
            {"job_id": "7", "state": "queued"},
            {"job_id": "7", "state": "RUNNING"},
            {"job_id": "7", "task": "a", "status": "running", "progress": 10},
            {"job_id": "7", "task": "a", "status": "running", "progress": 50},
            {"job_id": "7", "task": "a", "status": "failed"},
            {"job_id": "7", "state": "FAILED"},
        ]
    )
    assert runs == [("workflow", "7", "failure", [("a", "failure", 1)])]
    assert (state.errors, state.retries, state.unmatched_ends) == (0, 0, 0)
    ((*_, phases),), _ = published(
        [Task("a", "RUNNING"), Task("b", "RUNNING"), Task("a", "DONE"), Task("b", "FAILED")]
    )
    assert phases == [("a", "success", 1), ("b", "failure", 1)]


def test_states_of_other_kinds_of_objects_open_no_phase() -> None:
    runs, _ = published(
        [{"order": 1, "status": "completed"}, {"user": "x", "state": "running"}] * 3
    )
    assert runs == []


# --- watches of Kubernetes --------------------------------------------------------------------------------------------


def job(kind: str, ended: str | None = None, started: str | None = "2026-01-01T00:00:00Z") -> Any:
    conditions = [{"type": ended, "status": "True", "message": "no"}] if ended else None
    owner = [{"kind": "CronJob", "name": "nightly", "uid": "c"}]
    metadata = {"name": "nightly-28912345", "uid": "j1", "ownerReferences": owner}
    status = {"startTime": started, "conditions": conditions}
    return {"type": kind, "object": {"kind": "Job", "metadata": metadata, "status": status}}


def pod(kind: str, uid: str, phase: str, *, owner: str | None = "Job", code: int = 0) -> Any:
    owners = [{"kind": owner, "name": "nightly-28912345", "uid": "j1"}] if owner else None
    ended = {"terminated": {"exitCode": code, "reason": "OOMKilled" if code else "Completed"}}
    return {
        "type": kind,
        "object": {
            "kind": "Pod",
            "metadata": {"name": f"nightly-{uid}", "uid": uid, "ownerReferences": owners},
            "spec": {"containers": [{"name": "main"}]},
            "status": {"phase": phase, "containerStatuses": [{"state": ended if code else {}}]},
        },
    }


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (
            [
                job("ADDED", started=None),
                job("MODIFIED"),
                pod("ADDED", "p1", "Pending"),
                pod("MODIFIED", "p1", "Running"),
                pod("MODIFIED", "p1", "Running"),
                pod("MODIFIED", "p1", "Failed", code=137),
                pod("ADDED", "p2", "Pending"),
                pod("MODIFIED", "p2", "Running"),
                pod("MODIFIED", "p2", "Succeeded"),
                job("MODIFIED", "Complete"),
                pod("DELETED", "p2", "Succeeded"),
                job("DELETED", "Complete"),
            ],
            [("nightly", "j1", "success", [("main", "success", 2)])],
        ),
        (
            [
                job("ADDED"),
                pod("ADDED", "p1", "Running"),
                pod("ADDED", "p2", "Running"),
                pod("MODIFIED", "p1", "Failed", code=1),
                pod("MODIFIED", "p2", "Succeeded"),
                job("MODIFIED", "Failed"),
            ],
            [("nightly", "j1", "failure", [("main", "failure", 1), ("main", "success", 1)])],
        ),
        (
            [
                job("ADDED"),
                pod("ADDED", "p1", "Running"),
                pod("DELETED", "p1", "Running"),
                job("DELETED"),
            ],
            [("nightly", "j1", "cancellation", [("main", "cancellation", 1)])],
        ),
        (
            [
                job("ADDED", "Complete"),
                pod("ADDED", "p1", "Succeeded"),
                pod("ADDED", "s1", "Running", owner=None),
                pod("ADDED", "s2", "Running", owner="ReplicaSet"),
                {"type": "ADDED", "object": {"kind": "ConfigMap"}},
                {"type": "BOOKMARK", "object": {}},
                {"type": "ADDED", "object": "x"},
            ],
            [],
        ),
    ],
    ids=["a pod that is made again", "pods side by side", "deleted", "history and services"],
)
def test_a_job_of_kubernetes_is_a_run_with_its_pods(events: list[Any], told: list[Any]) -> None:
    runs, state = published(events)
    assert runs == told
    assert (state.orphan_ends, state.unmatched_ends, state.errors) == (0, 0, 0)
