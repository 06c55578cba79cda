"""Events in the formats of other systems, on an instrumented bus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import Enum
from types import SimpleNamespace

import blinker
import pytest
from told import Events, Watched, published

from spanbus._reading.dialect_file import load


def camel_case(**common: object) -> Callable[..., object]:
    return lambda kind, **fields: {"eventType": kind, **common, **fields}


def in_camel_case() -> Iterator[object]:
    of = camel_case(workflowRunId="r-1")
    yield of("workflowStarted", workflowName="nightly")
    yield of("taskStarted", taskName="fetch")
    yield of("taskRetrying", taskName="fetch", errorMessage="no")
    yield of("taskStarted", taskName="fetch")
    yield of("taskCompleted", taskName="fetch", durationMs=250)
    yield of("taskStarted", taskName="test")
    yield of("taskFailed", taskName="test", errorMessage="2 of 40", errorType="TestsFailed")
    yield of("workflowFailed")


def camel_case_in_payloads() -> Iterator[object]:
    for kind, fields in [
        ("run.started", {"workflowName": "nightly"}),
        ("step.started", {"stepId": "fetch"}),
        ("step.retrying", {"stepId": "fetch"}),
        ("step.started", {"stepId": "fetch"}),
        ("step.completed", {"stepId": "fetch", "durationMs": 250}),
        ("step.started", {"step-id": "test"}),
        ("step.completed", {"StepID": "test", "success": False, "error.message": "2 of 40"}),
        ("run.failed", {}),
    ]:
        yield SimpleNamespace(type=kind, payload={"runId": "r-1", **fields})


def states_of_airflow() -> Iterator[object]:
    run = {"dag_id": "nightly", "run_id": "r-1"}
    yield {"event": "dag_run_state_changed", **run, "state": "queued"}
    yield {"event": "dag_run_state_changed", **run, "state": "running"}
    for task, state in [
        ("fetch", "scheduled"),
        ("fetch", "running"),
        ("fetch", "running"),
        ("fetch", "up_for_retry"),
        ("fetch", "running"),
        ("fetch", "success"),
        ("fetch", "success"),
        ("test", "running"),
        ("test", "failed"),
    ]:
        yield {"event": "task_instance_state_changed", **run, "task_id": task, "state": state}
        yield {"event": "dag_run_state_changed", **run, "state": "running"}
    yield {"event": "dag_run_state_changed", **run, "state": "failed"}
    yield {"event": "dag_run_state_changed", **run, "state": "failed"}


class State(Enum):
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    ERROR = "ERROR"
    FAILED = "FAILED"


def phases_of_argo() -> Iterator[object]:
    def of(kind: str, state: State, **fields: object) -> object:
        return SimpleNamespace(
            type=f"{kind}Updated", workflow="nightly", runId="r-1", phase=state, **fields
        )

    yield of("Workflow", State.RUNNING)
    yield of("Node", State.RUNNING, node="fetch")
    yield of("Node", State.RETRYING, node="fetch")
    yield of("Node", State.RUNNING, node="fetch")
    yield of("Node", State.SUCCEEDED, node="fetch")
    yield of("Node", State.RUNNING, node="test")
    yield of("Node", State.ERROR, node="test")
    yield of("Workflow", State.FAILED)


def messages_of_kafka() -> Iterator[object]:
    for number, event in enumerate(plain()):
        assert isinstance(event, dict)
        kind = "".join(word.title() for word in event["type"].split("."))
        value = json.dumps({"type": kind, **event["payload"]}).encode()
        yield SimpleNamespace(topic="jobs", partition=0, offset=number, key=b"r-1", value=value)


def messages_of_redis() -> Iterator[object]:
    for event in plain():
        yield {"type": "message", "pattern": None, "channel": b"jobs", "data": json.dumps(event)}


def notifications_of_sns() -> Iterator[object]:
    for event in plain():
        yield {"Type": "Notification", "TopicArn": "arn:jobs", "Message": json.dumps(event)}


def messages_of_amqp() -> Iterator[object]:
    for event in plain():
        yield SimpleNamespace(routing_key="jobs.nightly", body=json.dumps(event).encode())


def messages_with_headers() -> Iterator[object]:
    for event in plain():
        assert isinstance(event, dict)
        said = dict(event["payload"])
        headers = {"messageName": event["type"], "runId": said.pop("run_id"), "contentType": "json"}
        yield {"headers": headers, "payload": said}


def messages_with_pairs_of_headers() -> Iterator[object]:
    for event in plain():
        assert isinstance(event, dict)
        said = dict(event["payload"])
        headers = [("ce_type", event["type"].encode()), ("run_id", said.pop("run_id").encode())]
        yield SimpleNamespace(headers=headers, payload=json.dumps(said).encode())


def events_in_events() -> Iterator[object]:
    for event in plain():
        assert isinstance(event, dict)
        yield {"event": {"type": event["type"], **event["payload"]}, "seq": 7}


def types_that_are_names() -> Iterator[object]:
    for event in plain():
        assert isinstance(event, dict)
        yield {"name": event["type"].replace(".", " ").capitalize(), **event["payload"]}


def events_of_eventbridge() -> Iterator[object]:
    for event in plain():
        assert isinstance(event, dict)
        yield {
            "version": "0",
            "detail-type": event["type"],
            "source": "shop",
            "region": "eu",
            "resources": [],
            "detail": event["payload"],
        }


def cdevents() -> Iterator[object]:
    def of(kind: str, **data: object) -> object:
        return {
            "specversion": "1.0",
            "type": f"dev.cdevents.{kind}.0.2.0",
            "source": "/ci",
            "data": {"pipelineRunId": "r-1", "pipelineName": "nightly", **data},
        }

    yield of("pipelinerun.started")
    yield of("taskrun.started", taskName="fetch")
    yield of("taskrun.retrying", taskName="fetch")
    yield of("taskrun.started", taskName="fetch")
    yield of("taskrun.finished", taskName="fetch", outcome="success")
    yield of("taskrun.started", taskName="test")
    yield of("taskrun.finished", taskName="test", outcome="failure")
    yield of("pipelinerun.finished", outcome="failure")


def objects_in_payloads() -> Iterator[object]:
    job = {"id": "r-1", "name": "nightly"}
    for event in plain():
        assert isinstance(event, dict)
        said = dict(event["payload"])
        if (step := said.pop("step", None)) is not None:
            said["step"] = {"id": f"step of {step}", "name": step}
        del said["run_id"]
        said.pop("workflow", None)
        yield {"type": event["type"].replace("run.", "job."), "data": {"job": job, **said}}


def plain() -> Iterator[object]:
    for kind, said in [
        ("run.started", {"workflow": "nightly"}),
        ("step.started", {"step": "fetch"}),
        ("step.retrying", {"step": "fetch"}),
        ("step.started", {"step": "fetch"}),
        ("step.completed", {"step": "fetch"}),
        ("step.started", {"step": "test"}),
        ("step.failed", {"step": "test", "error": "2 of 40"}),
        ("run.failed", {}),
    ]:
        yield {"type": kind, "payload": {"run_id": "r-1", **said}}


@pytest.mark.parametrize(
    "kind",
    [
        plain,
        in_camel_case,
        camel_case_in_payloads,
        states_of_airflow,
        phases_of_argo,
        messages_of_kafka,
        messages_of_redis,
        notifications_of_sns,
        messages_of_amqp,
        messages_with_headers,
        messages_with_pairs_of_headers,
        events_in_events,
        types_that_are_names,
        events_of_eventbridge,
        cdevents,
        objects_in_payloads,
    ],
)
def test_the_same_job_in_every_format_gives_the_same_run(
    kind: Callable[[], Iterator[object]],
) -> None:
    runs, state = published(list(kind()))
    assert runs == [
        ("nightly", "r-1", "failure", [("fetch", "success", 2), ("test", "failure", 1)])
    ]
    assert (state.errors, state.retries, state.orphan_ends, state.unmatched_ends) == (0, 1, 0, 0)
    assert (state.runs_ended, state.phases_ended, state.abandoned) == (1, 2, 0)


def webhook(number: int, name: str, action: str, job: str | None = None, end: str = "") -> object:
    ended = {"conclusion": end} if end else {}
    if job is None:
        return {
            "event": "workflow_run",
            "payload": {"action": action, "workflow_run": {"id": number, "name": name, **ended}},
        }
    about = {"id": hash(job), "run_id": number, "name": job, "status": action, **ended}
    return {"event": "workflow_job", "payload": {"action": action, "workflow_job": about}}


def test_webhooks_of_two_runs_at_once() -> None:
    runs, state = published(
        [
            webhook(1, "CI", "requested"),
            webhook(1, "CI", "in_progress"),
            webhook(2, "CI", "in_progress"),
            webhook(1, "CI", "in_progress", "build"),
            webhook(2, "CI", "queued", "build"),
            webhook(2, "CI", "in_progress", "build"),
            webhook(2, "CI", "completed", "build", "failure"),
            webhook(1, "CI", "completed", "build", "success"),
            webhook(1, "CI", "in_progress", "lint"),
            webhook(1, "CI", "completed", "lint", "skipped"),
            webhook(1, "CI", "completed", end="success"),
            webhook(2, "CI", "completed", end="cancelled"),
        ]
    )
    assert runs == [
        ("CI", "1", "success", [("build", "success", 1), ("lint", "skip", 1)]),
        ("CI", "2", "cancellation", [("build", "failure", 1)]),
    ]
    assert (state.errors, state.orphan_ends, state.abandoned) == (0, 0, 0)


def test_a_status_update_class_is_read_by_its_status() -> None:
    class TaskUpdate:
        def __init__(self, task_id: str, status: State, detail: str = "") -> None:
            self.task_id, self.status, self.detail = task_id, status, detail

    runs, state = published(
        [
            TaskUpdate("a", State.RUNNING),
            TaskUpdate("a", State.SUCCEEDED),
            TaskUpdate("b", State.RUNNING),
            TaskUpdate("b", State.RUNNING, "half of it"),
            TaskUpdate("b", State.FAILED),
        ]
    )
    assert [(result, phases) for _, _, result, phases in runs] == [
        ("failure", [("a", "success", 1), ("b", "failure", 1)])
    ]
    assert (state.errors, state.retries) == (0, 0)


def test_temporal_style_workflow_and_activity_events_are_read() -> None:
    def of(kind: str, **fields: object) -> object:
        return SimpleNamespace(event_type=kind, run_id="r-9", workflow_type="Nightly", **fields)

    runs, state = published(
        [
            of("WORKFLOW_EXECUTION_STARTED"),
            of("ACTIVITY_TASK_SCHEDULED", activity_type="fetch"),
            of("ACTIVITY_TASK_STARTED", activity_type="fetch"),
            of("ACTIVITY_TASK_COMPLETED", activity_type="fetch"),
            of("ACTIVITY_TASK_STARTED", activity_type="build"),
            of("ACTIVITY_TASK_TIMED_OUT", activity_type="build"),
            of("ACTIVITY_TASK_STARTED", activity_type="test"),
            of("ACTIVITY_TASK_CANCELED", activity_type="test"),
            of("WORKFLOW_EXECUTION_TERMINATED"),
        ]
    )
    phases = [("fetch", "success", 1), ("build", "timeout", 1), ("test", "cancellation", 1)]
    assert runs == [("Nightly", "r-9", "cancellation", phases)]
    assert (state.errors, state.orphan_ends, state.abandoned) == (0, 0, 0)


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("Stopped", "cancellation"),
        ("Halted", "cancellation"),
        ("Terminated", "cancellation"),
        ("Killed", "failure"),
        ("Rejected", "failure"),
    ],
)
def test_words_that_end_open_runs_and_phases_only(word: str, result: str) -> None:
    said = {"run_id": "r", "step": "fetch"}
    runs, state = published(
        [
            {"type": "RunStarted", "payload": {"run_id": "r"}},
            {"type": "StepStarted", "payload": said},
            {"type": f"Step{word}", "payload": said},
            {"type": f"Step{word}", "payload": {"run_id": "r", "step": "never begun"}},
            {"type": f"Run{word}", "payload": {"run_id": "r"}},
        ]
    )
    assert runs == [("workflow", "r", result, [("fetch", result, 1)])]
    assert (state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0)


def test_the_outcome_is_read_in_every_spelling() -> None:
    events: Events = []
    said = {
        "a": {"outcome": "failure"},
        "b": {"conclusion": "Timed-Out", "status": "completed"},
        "c": {"state": State.FAILED},
        "d": {"status": "CANCELED"},
        "e": {"outcome": "skipped"},
        "f": {"conclusion": "success", "state": "error"},
        "g": {"state": "DE"},
        "h": {"result": "FAILURE"},
        "i": {"result": "Failed"},
        "j": {"result": State.SUCCEEDED},
        "k": {"result": "failed to find any problem"},
    }
    for name, outcome in said.items():
        events += [
            {"type": "task.started", "payload": {"run_id": "r", "task": name}},
            {"type": "task.finished", "payload": {"run_id": "r", "task": name, **outcome}},
        ]
    ((*_, phases),), _ = published(events)
    assert [result for _, result, _ in phases] == [
        "failure",
        "timeout",
        "failure",
        "cancellation",
        "skip",
        "success",
        "success",
        "failure",
        "failure",
        "success",
        "success",
    ]


ORDINARY: Events = [
    {"type": "order.updated", "payload": {"id": 1, "status": "completed"}},
    {"type": "user.state_changed", "state": "running"},
    {"type": "cache", "status": "failed"},
    {"type": "pull_request", "payload": {"action": "closed"}},
    {"type": "workflow_dispatch", "payload": {"action": "completed"}},
    {"type": "task.updated", "payload": {"task": "a", "state": "queued"}},
    {"type": "task.updated", "payload": {"task": "a"}},
    {"type": "server.stopped", "payload": {"name": "web"}},
    {"type": "process.killed", "payload": {"run_id": "7"}},
    {"type": "offer.rejected", "payload": {}},
    {"type": "message", "data": "hello"},
    {"type": "message", "data": json.dumps({"type": "start"})},
    {"topic": "news", "value": b"{}"},
    {"type": "alert.sent", "payload": {"type": "task.failed", "task": "a"}},
    {"userId": 7, "type": "page.viewed", "payload": {"taskName": "x"}},
]


def test_ordinary_events_open_no_run() -> None:
    runs, state = published(ORDINARY * 3)
    assert runs == []
    assert (state.events_seen, state.runs_ended, state.phases_ended, state.errors) == (45, 0, 0, 0)


def test_payload_keys_keep_their_spelling_unless_the_dialect_reads_them() -> None:
    dialect = load({"extends": "generic", "phase_keys": ["taskName"]})
    fact = dialect.read(
        {"type": "a.note", "payload": {"taskName": "x", "userName": "u", "runId": 1}}
    )
    assert (fact.name, fact.run_key) == ("x", "1")
    assert dict(fact.event.payload) == {"taskName": "x", "userName": "u", "run_id": 1}


def test_of_two_spellings_of_a_key_that_of_the_dialect_is_read() -> None:
    fact = load("generic").read({"type": "a.note", "payload": {"runId": "no", "run_id": "yes"}})
    assert fact.run_key == "yes"


@pytest.mark.parametrize("before", [0, 2])
def test_signals_created_after_attaching_are_observed(before: int) -> None:
    namespace = blinker.Namespace()
    names = ["run-started", "task-started", "task-failed", "run-failed"]
    for name in names[:before]:
        namespace.signal(name)
    watched = Watched(namespace)
    for name in names:
        namespace.signal(name).send("shop", run_id="r", **({"task": "a"} if "task" in name else {}))
        assert namespace.signal(name) is namespace[name]
    watched.handle.detach()
    assert watched.told() == [("shop", "r", "failure", [("a", "failure", 1)])]
    namespace.signal("task-started").send("shop", run_id="r", task="b")
    namespace.signal("later").send("shop")
    assert watched.handle.state().events_seen == 4
