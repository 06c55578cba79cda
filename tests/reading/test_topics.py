"""Types that name what they speak of, as topics and sentences do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanbus._reading.dialect_file import load
from spanbus._reading.topics import topic_of


@pytest.mark.parametrize(
    ("text", "event_type", "fields"),
    [
        ("jobs/7/started", "job.started", {"run_id": "7"}),
        ("jobs/7/steps/build/started", "step.started", {"run_id": "7", "step": "build"}),
        ("/plant/jobs/7/steps/build.linux/log", "step.log", {"run_id": "7", "step": "build.linux"}),
        ("job/7/task/build/status", "task.status", {"run_id": "7", "task": "build"}),
        ("workflow.42.task.fetch.failed", "task.failed", {"run_id": "42", "task": "fetch"}),
        ("runs:a3f1-9c:stages:3:timed_out", "stage.timed_out", {"run_id": "a3f1-9c", "task_id": "3"}),
        ("pipelines/nightly/started", "pipeline.started", {"workflow_id": "nightly"}),
        ("pipelines/nightly/tasks/started", "task.started", {"workflow_id": "nightly"}),
        ("dags/nightly/runs/9/finished", "run.finished", {"workflow": "nightly", "run_id": "9"}),
        ("workflows/3/runs/9/failed", "run.failed", {"workflow": "3", "run_id": "9"}),
        ("pipelines/3/jobs/lint/passed", "task.passed", {"run_id": "3", "task": "lint"}),
        ("builds/12/steps/test/attempts/2/started", "step.started", {"run_id": "12", "step": "test"}),
        ("Task build started", "task.started", {"task": "build"}),
        ("task 'build' has finished.", "task.finished", {"task": "build"}),
        ("Step 3 failed: 2 of 40", "step.failed", {"task_id": "3", "error": "2 of 40"}),
        ("Step lint passed: 3 warnings", "step.passed", {"step": "lint", "message": "3 warnings"}),
        ("Stage deploy timed out", "stage.timed.out", {"stage": "deploy"}),
        ("Starting task build", "task.starting", {"task": "build"}),
        ("Failed task test: boom", "task.failed", {"task": "test", "error": "boom"}),
        ("Finished task build in 250 ms", "task.finished", {"task": "build", "duration_s": 0.25}),
        ("Task build done (1.5s)", "task.done", {"task": "build", "duration_s": 1.5}),
        ("Job nightly completed after 2 minutes", "job.completed", {"workflow_id": "nightly", "duration_s": 120.0}),
        ("Pipeline 42 was cancelled", "pipeline.cancelled", {"run_id": "42"}),
    ],
)  # fmt: skip
def test_the_names_in_a_type(text: str, event_type: str, fields: dict[str, object]) -> None:
    topic = topic_of(text)
    assert topic is not None
    assert (topic.event_type, topic.fields) == (event_type, fields)


@pytest.mark.parametrize(
    "text",
    [
        "step.build.started",
        "workflow.started",
        "workflow.config.started",
        "workflow.session.initializing",
        "pipeline.build.started",
        "com.example.run.started",
        "task/build/started",
        "jobs/started",
        "orca/pipeline/started",
        "Run started",
        "Workflow run started",
        "Task 1 of 3 started",
        "Task scheduler started with 4 workers",
        "Server web failed: no route",
        "Finished the job",
        "Task build done in 1.2.3 s",
        "/",
        "...",
        "  ",
        "x" * 600 + "/jobs/7/started",
    ],
)
def test_types_that_name_nothing_else(text: str) -> None:
    assert topic_of(text) is None


WORDS = "job jobs task Task tasks/ run 7 build started Started failed done in 1.5 s ms min : / . - ( ) has been 1.2.3 é".split()


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4))), st.sampled_from(" /:."))
def test_no_text_raises(words: list[str], separator: str) -> None:
    topic = topic_of(separator.join(words))
    assert topic is None or "." in topic.event_type


def test_a_dialect_may_name_topics_itself() -> None:
    rule = {"type": "jobs.*.started", "level": "phase", "verb": "start", "name": ["word:1"]}
    own = load({"extends": "generic", "rules": [rule]})
    fact = own.read({"type": "jobs/7/started"})
    assert (fact.rank.name, fact.name, fact.run_key) == ("PHASE", "7", None)
    assert own.read({"type": "jobs/7/finished"}).run_key == "7"


def test_what_the_payload_says_goes_before_the_topic() -> None:
    fact = load("generic").read(
        {"type": "jobs/7/steps/3/started", "payload": {"run_id": "x-7", "name": "build"}}
    )
    assert (fact.rank.name, fact.name, fact.run_key) == ("PHASE", "build", "x-7")
    assert fact.event.payload["topic"] == "jobs/7/steps/3/started"


def test_topics_of_the_bus_that_is_known_by_its_types_are_read_as_before() -> None:
    fact = load("crackerjack").read({"type": "workflow.42.started", "payload": {"step_name": "a"}})
    assert (fact.event.name, fact.run_key) == ("workflow.42.started", None)
