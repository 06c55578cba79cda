"""Webhook bodies of CI systems, as in their documentation, published on a bus without changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from told import published

PHASES = [("fetch", "success", 2), ("test", "failure", 1)]
ONE_RUN = [("group/shop", "31", "failure", PHASES)]


def pipeline(status: str, number: int = 31, **more: object) -> dict[str, object]:
    """Return the webhook of GitLab for a changed pipeline status."""
    about = {
        "id": number,
        "iid": 3,
        "name": None,
        "ref": "main",
        "status": status,
        "stages": ["build", "test"],
        "created_at": "2016-08-12 15:23:28 UTC",
        "duration": 63,
        **more,
    }
    return {
        "object_kind": "pipeline",
        "object_attributes": about,
        "user": {"id": 1, "name": "Administrator"},
        "project": {"id": 1, "name": "shop", "path_with_namespace": "group/shop"},
        "commit": {"id": "bcbb5ec3", "timestamp": "2016-08-12T17:23:21+02:00"},
        "builds": [{"id": 380, "stage": "deploy", "name": "production", "status": "skipped"}],
    }


def job(name: str, status: str, number: int = 31) -> dict[str, object]:
    """Return the webhook of GitLab for a changed job status."""
    return {
        "object_kind": "build",
        "ref": "main",
        "build_id": 1977,
        "build_name": name,
        "build_stage": "test",
        "build_status": status,
        "build_created_at": "2021-02-23 02:41:37 UTC",
        "build_started_at": None,
        "build_duration": 0.5,
        "build_failure_reason": "script_failure" if status == "failed" else "unknown_failure",
        "pipeline_id": number,
        "project_id": 380,
        "project_name": "group / shop",
        "commit": {"id": 2366, "name": "Build pipeline", "status": "created", "duration": None},
    }


BODIES = [
    pipeline("pending"),
    job("fetch", "created"),
    job("fetch", "pending"),
    pipeline("running"),
    job("fetch", "running"),
    job("fetch", "failed"),
    job("fetch", "running"),
    job("fetch", "success"),
    job("test", "running"),
    job("test", "failed"),
    pipeline("failed"),
    pipeline("failed"),
]


def by_header(body: dict[str, object]) -> object:
    kind = "Pipeline Hook" if body["object_kind"] == "pipeline" else "Job Hook"
    return {"type": kind, "payload": body}


def on_a_channel(body: dict[str, object]) -> object:
    return {"channel": "webhooks", "type": "gitlab", "data": body}


@pytest.mark.parametrize("sent", [lambda body: body, by_header, on_a_channel])
def test_a_pipeline_of_gitlab_and_its_jobs(sent: Callable[[dict[str, object]], object]) -> None:
    runs, state = published([sent(body) for body in BODIES])
    assert runs == ONE_RUN
    assert (state.errors, state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0, 0)
    assert state.retries == 1


def test_pipelines_of_gitlab_side_by_side() -> None:
    runs, state = published(
        [
            pipeline("running"),
            job("lint", "running", 32),  # its pipeline says so later
            pipeline("running", 32, name="nightly"),
            job("lint", "running"),
            job("lint", "success", 32),
            job("lint", "canceled"),
            pipeline("canceled"),
            pipeline("success", 32, name="nightly"),
        ]
    )
    assert runs == [
        ("group/shop", "31", "cancellation", [("lint", "cancellation", 1)]),
        ("nightly", "32", "success", [("lint", "success", 1)]),
    ]
    assert (state.errors, state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0, 0)


def build(phase: str, status: str | None = None, number: int = 18) -> dict[str, object]:
    """Return the body of the notification plugin of Jenkins. A start has the status of the previous build."""
    return {
        "name": "asgard",
        "display_name": "asgard",
        "url": "job/asgard/",
        "build": {
            "full_url": f"http://ci/job/asgard/{number}/",
            "number": number,
            "phase": phase,
            "status": status,
            "url": f"job/asgard/{number}/",
            "duration": 1_500,
        },
    }


def test_builds_of_jenkins() -> None:
    runs, state = published(
        [
            build("QUEUED"),
            build("STARTED", "FAILURE"),
            build("STARTED", "FAILURE", 19),
            build("COMPLETED", "SUCCESS"),
            build("FINALIZED", "SUCCESS"),
            build("COMPLETED", "UNSTABLE", 19),
            build("FINALIZED", "UNSTABLE", 19),
            build("STARTED", None, 20),
            build("COMPLETED", "ABORTED", 20),
        ]
    )
    told = [(name, run_id[-3:-1], result) for name, run_id, result, _ in runs]
    assert told == [
        ("asgard", "18", "success"),
        ("asgard", "19", "failure"),
        ("asgard", "20", "cancellation"),
    ]
    assert (state.errors, state.unmatched_ends, state.abandoned) == (0, 0, 0)


def buildkite(
    event: str, number: str, state: str = "running", job: str | None = None, **about: object
) -> dict[str, object]:
    """Return the webhook of Buildkite; all builds have the same pipeline."""
    body: dict[str, object] = {
        "event": event,
        "build": {"id": number, "number": 7, "state": state if job is None else "running"},
        "pipeline": {"id": "p-1", "slug": "shop", "name": "Shop"},
        "sender": {"id": "u-1", "name": "Somebody"},
    }
    if job is not None:
        body["job"] = {"id": f"{job}-{number}", "type": "script", "name": job, "state": state}
        body["job"] |= about  # type: ignore[operator]
    return body


@pytest.mark.parametrize(
    "sent",
    [
        lambda body: body,
        lambda body: {"type": "webhook", "payload": body},
        lambda body: {"type": body["event"], "data": {**body, "event": None}},
    ],
)
def test_builds_of_buildkite_side_by_side(
    sent: Callable[[dict[str, object]], object],
) -> None:
    bodies = [
        buildkite("build.scheduled", "b1", "scheduled"),
        buildkite("job.scheduled", "b1", "scheduled", "fetch"),
        buildkite("build.running", "b1"),
        buildkite("build.running", "b2"),
        buildkite("job.started", "b1", job="fetch"),
        buildkite("job.started", "b2", job="fetch"),
        buildkite("job.finished", "b2", "passed", "fetch", exit_status=0),
        buildkite("job.finished", "b1", "failed", "fetch", exit_status=1),
        buildkite("job.started", "b1", job="fetch"),
        buildkite("job.finished", "b1", "timed_out", "fetch"),
        buildkite("job.started", "b2", job="test", parallel_group_index=1),
        buildkite("job.finished", "b2", "canceled", "test", parallel_group_index=1),
        buildkite("build.failing", "b1", "failing"),
        buildkite("build.finished", "b1", "failed"),
        buildkite("build.finished", "b2", "canceled"),
    ]
    runs, state = published([sent(body) for body in bodies])
    assert runs == [
        ("Shop", "b1", "failure", [("fetch", "timeout", 2)]),
        ("Shop", "b2", "cancellation", [("fetch", "success", 1), ("test[1]", "cancellation", 1)]),
    ]
    assert (state.errors, state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0, 0)


def test_runs_of_github_bring_their_workflow_along() -> None:
    def body(number: int, action: str, end: str | None = None) -> dict[str, object]:
        run = {"id": number, "name": "CI", "conclusion": end}
        workflow = {"id": 9, "name": "CI", "path": ".github/workflows/ci.yml"}
        return {
            "event": "workflow_run",
            "payload": {"action": action, "workflow_run": run, "workflow": workflow},
        }

    runs, state = published(
        [
            body(1, "in_progress"),
            body(2, "in_progress"),
            body(1, "completed", "success"),
            body(2, "completed", "failure"),
        ]
    )
    assert runs == [("CI", "1", "success", []), ("CI", "2", "failure", [])]
    assert (state.errors, state.unmatched_ends, state.abandoned) == (0, 0, 0)


def status(kind: str, word: str, **about: object) -> dict[str, object]:
    return {"type": kind, "job_run_id": "r-1", "job_name": "nightly", **about, "status": word}


def run_status(kind: str, word: str, **about: object) -> dict[str, object]:
    fields = {"jobRunId": "r-1", "jobName": "nightly", **about, "runStatus": word}
    return {"eventType": kind, "payload": fields}


@pytest.mark.parametrize("of", [status, run_status])
def test_the_status_of_a_run_of_a_job(of: Callable[..., dict[str, object]]) -> None:
    runs, state = published(
        [
            of("job_run_status", "QUEUED"),
            of("job_run_status", "RUNNING"),
            of("task_run_status", "RUNNING", task_name="fetch"),
            of("task_run_status", "SUCCESS", task_name="fetch"),
            of("task_run_status", "RUNNING", task_name="test"),
            of("task_run_status", "TIMEDOUT", task_name="test"),
            of("job_run_status", "FAILURE"),
        ]
    )
    assert runs == [
        ("nightly", "r-1", "failure", [("fetch", "success", 1), ("test", "timeout", 1)])
    ]
    assert (state.errors, state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0, 0)


def test_other_bodies_open_nothing() -> None:
    bodies: list[object] = [
        {"object_kind": "push", "ref": "refs/heads/main", "project": {"name": "shop"}},
        {
            "object_kind": "merge_request",
            "event_type": "merge_request",
            "object_attributes": {"state": "merged", "status": "success", "action": "merge"},
        },
        {"object_kind": "pipeline", "object_attributes": None},
        {"object_kind": "pipeline", "object_attributes": {"status": "running"}},
        {"object_kind": "build", "build_status": "running"},
        {"object_kind": 7},
        pipeline("manual"),
        {"name": "asgard", "build": {"phase": "STARTED"}},
        {"name": "asgard", "build": "18"},
        {"name": "image.pushed", "build": {"number": 3, "phase": "x", "status": "SUCCESS"}},
    ]
    runs, state = published(bodies * 2)
    assert runs == []
    assert (state.errors, state.runs_ended, state.phases_ended) == (0, 0, 0)
