"""Event types: spellings, lifecycle words, and the fields and classes that hold the type."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from streams import Stream

from spanbus._reading.dialect_file import load
from spanbus._reading.read import read
from spanbus._reading.spelling import (
    CANCELLATIONS,
    ENDS,
    FAILURES,
    RETRIES,
    SKIPS,
    STARTS,
    TIMEOUTS,
    normal,
    plain,
    segments,
)

RUNS = "run pipeline job flow workflow dag saga build session batch".split()
SPELLINGS = [
    "PipelineFailed",
    "pipelineFailed",
    "pipeline:failed",
    "pipeline-failed",
    "pipeline_failed",
    "PIPELINE_FAILED",
    "pipeline.failed",
    "pipeline/failed",
    "Pipeline Failed",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_a_type_are_equal(spelling: str) -> None:
    assert normal(spelling) == "pipeline.failed"
    stream = Stream(
        {
            "extends": "generic",
            "rules": [{"type": spelling, "level": "hook", "verb": "start", "name": ["x"]}],
        }
    )
    for other in SPELLINGS:
        fact = stream.reader.read({"type": other, "payload": {"x": "1"}})
        assert (fact.rank.name, fact.verb.name, fact.event.name) == ("HOOK", "START", other)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("task.started", ("task", "started")),
        ("TaskStarted", ("task", "started")),
        ("task_started", ("task", "started")),
        ("fetch_data_started", ("fetch_data", "started")),
        ("etl.fetch_started", ("etl", "fetch", "started")),
        ("my_task.timed_out", ("my_task", "timed_out")),
        ("task_timed_out", ("task", "timed_out")),
        ("UpForRetry", ("UpForRetry",)),
        ("task.up_for_retry", ("task", "up_for_retry")),
        ("started", ("started",)),
        ("config.reloaded", ("config", "reloaded")),
        ("", ("",)),
        ("TaskStartedEvent", ("task", "started")),
        ("etl.fetch_started.v1", ("etl", "fetch", "started")),
        ("on_task_started", ("task", "started")),
        ("start.event", ("start", "event")),
    ],
)
def test_a_type_is_split_into_segments(text: str, parts: tuple[str, ...]) -> None:
    assert segments(text) == parts


DECORATED = [
    "{Kind}{Word}Event",
    "On{Kind}{Word}",
    "on_{kind}_{word}",
    "{kind}.{word}.event",
    "{kind}-{word}-message",
    "com.example.{kind}.{word}.v1",
    "dev.example.{kind}.{word}.0.3.0",
    "org.example.{kind}.{word}",
]


@pytest.mark.parametrize("spell", DECORATED)
@pytest.mark.parametrize(
    ("word", "result"), [("completed", "success"), ("failed", "failure"), ("timeout", "timeout")]
)
def test_prefixes_and_suffixes_that_only_mark_an_event_are_ignored(
    spell: str, word: str, result: str
) -> None:
    stream = Stream()
    for kind, state in (("run", "started"), ("task", "started"), ("task", word), ("run", word)):
        told = {"kind": kind, "word": state, "Kind": kind.title(), "Word": state.title()}
        stream.say(
            spell.format(**told),
            {"run_id": "r", "task": "fetch"} if kind == "task" else {"run_id": "r"},
        )
    stream.end()
    assert stream.told() == [("workflow", result, [("fetch", result, 1)])]


def test_a_class_name_may_end_in_event() -> None:
    kind = dataclasses.make_dataclass("TaskStartedEvent", ["task"])
    assert read(kind("fetch")).event_type == "TaskStartedEvent"


@pytest.mark.parametrize("text", ["StartEvent", "config.event", "release.v1", "on.started"])
def test_a_type_that_consists_of_event_markers_is_kept(text: str) -> None:
    stream = Stream()
    stream.say(text, {"task": "fetch"})
    assert plain(text) == normal(text)


@pytest.mark.parametrize("pattern", ["task.opened.event", "TaskOpenedEvent", "*.event"])
def test_a_rule_may_name_the_full_type_with_its_markers(pattern: str) -> None:
    rules = [{"type": pattern, "level": "hook", "verb": "start", "name": ["x"]}]
    stream = Stream({"extends": "generic", "rules": rules})
    fact = stream.reader.read({"type": "TaskOpenedEvent", "payload": {"x": "1"}})
    assert (fact.rank.name, fact.verb.name) == ("HOOK", "START")


@pytest.mark.parametrize("spell", ["{0}.{1}", "{0}:{1}", "{0}_{1}", "{0}-{1}"])
@pytest.mark.parametrize("word", STARTS)
def test_words_that_start(word: str, spell: str) -> None:
    stream = Stream()
    stream.say(spell.format("task", word), {"name": "fetch"})
    stream.say(spell.format("task", "done"), {"name": "fetch"})
    stream.end()
    assert stream.told() == [("implicit", "success", [("fetch", "success", 1)])]


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (ENDS, "success"),
        (FAILURES, "failure"),
        (TIMEOUTS, "timeout"),
        (CANCELLATIONS, "cancellation"),
        (SKIPS, "skip"),
    ],
)
@pytest.mark.parametrize("level", ["task", "pipeline"])
def test_words_that_end(words: list[str], result: str, level: str) -> None:
    for word in words:
        stream = Stream()
        stream.say(f"{level}.started", {"name": "fetch", "run_id": "r"})
        stream.say(f"{level}_{word}", {"name": "fetch", "run_id": "r"})
        state = stream.end()
        [run] = stream.runs
        assert str(run.result) == result, word
        assert [str(phase.result) for phase in run.children] == (
            [result] if level == "task" else []
        )
        assert (state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0), word


@pytest.mark.parametrize("word", RETRIES)
def test_words_that_retry(word: str) -> None:
    stream = Stream()
    stream.say("task.started", {"name": "fetch"})
    stream.say(f"task.{word}", {"name": "fetch"})
    stream.say("task.started", {"name": "fetch"})
    stream.say("task.ok", {"name": "fetch"})
    stream.end()
    assert stream.told() == [("implicit", "success", [("fetch", "success", 2)])]


@pytest.mark.parametrize("word", RUNS)
@pytest.mark.parametrize("spell", ["{}.{}", "{}:{}", "{}_{}", "{}-{}"])
def test_words_of_runs(word: str, spell: str) -> None:
    stream = Stream()
    stream.say(spell.format(word, "started"), {"run_id": "r-1"})
    stream.say("task.started", {"run_id": "r-1", "task": "a"})
    stream.say("task.completed", {"run_id": "r-1", "task": "a"})
    stream.say(spell.format(word, "completed"), {"run_id": "r-1"})
    stream.end()
    assert stream.told() == [("workflow", "success", [("a", "success", 1)])]
    assert (stream.runs[0].run_id, sorted(stream.runs[0].flags)) == ("r-1", [])


def test_a_job_or_build_inside_a_pipeline_is_a_phase_of_it() -> None:
    for of in ({}, {"run_id": "r"}):
        stream = Stream()
        stream.say("pipeline.started", of)
        for kind in ("build", "job"):
            stream.say(f"{kind}.started", of)
            stream.say(f"{kind}.completed", of)
        stream.say("pipeline.completed", of)
        stream.end()
        assert stream.told() == [
            ("workflow", "success", [("build", "success", 1), ("job", "success", 1)])
        ]


# --- location of the type ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class PipelineStarted:
    run_id: str


@dataclasses.dataclass
class TaskStarted:
    name: str
    run_id: str


@dataclasses.dataclass
class TaskCompleted:
    name: str
    run_id: str


class PipelineFailed:
    __slots__ = ("error", "run_id")

    def __init__(self, run_id: str, error: str) -> None:
        self.run_id, self.error = run_id, error


def test_the_class_name_is_the_type_if_there_is_no_other() -> None:
    stream = Stream()
    for event in (
        PipelineStarted("r"),
        TaskStarted("fetch", "r"),
        TaskCompleted("fetch", "r"),
        PipelineFailed("r", "ValueError: no"),
    ):
        stream.hear(event)
    stream.end()
    assert stream.told() == [("workflow", "failure", [("fetch", "success", 1)])]
    assert stream.runs[0].run_id == "r"
    assert stream.runs[0].failure is not None
    assert stream.runs[0].failure.error_type == "ValueError"


@pytest.mark.parametrize(
    ("event", "event_type"),
    [
        ({"name": "task.started"}, "task.started"),
        ({"event": "task.started"}, "task.started"),
        ({"event_name": "task.started"}, "task.started"),
        ({"event": "task.started", "name": "fetch"}, "task.started"),
        ({"event_name": "task_failed", "name": "fetch"}, "task_failed"),
        ({"event": "config.reloaded", "name": "nightly"}, "config.reloaded"),
        ({"type": "build", "event": "task.started"}, "task.started"),
        ({"type": "task.started", "name": "fetch.started"}, "task.started"),
        ({"kind": "task", "name": "fetch"}, "task"),
        (SimpleNamespace(name="task.started"), "task.started"),
        (TaskStarted("fetch", "r"), "TaskStarted"),
        ({"metadata": {"event_type": "a.started"}, "type": "b.started"}, "a.started"),
    ],
)
def test_the_type_is_found(event: object, event_type: str) -> None:
    assert read(event).event_type == event_type


@pytest.mark.parametrize(
    "event", [{}, {"payload": {"a": 1}}, {"type": None}, 7, "text", None, object()]
)
def test_an_event_without_a_type_is_an_error(event: object) -> None:
    with pytest.raises(ValueError, match="has no type"):
        read(event)


@pytest.mark.parametrize(
    ("text", "verb", "rank", "name"),
    [
        ("start_task", "START", "PHASE", "task"),
        ("finish_task", "END", "PHASE", "task"),
        ("StartTask", "START", "PHASE", "task"),
        ("FailedTask", "END", "PHASE", "task"),
        ("on_finished_step", "END", "PHASE", "step"),
        ("end:stage", "END", "PHASE", "stage"),
        ("started_run", "START", "RUN", "run"),
        ("finished.workflow", "END", "RUN", "workflow"),
        ("TimedOutTaskEvent", "END", "PHASE", "task"),
        ("retrying_task", "RETRY", "PHASE", "task"),
        ("started_task_run", "START", "PHASE", "task_run"),
    ],
)
def test_the_lifecycle_word_may_precede_its_subject(
    text: str, verb: str, rank: str, name: str
) -> None:
    fact = load("generic").read({"type": text, "payload": {}})
    assert (fact.verb.name, fact.rank.name, fact.name) == (verb, rank, name)
    assert fact.event.name == text


@pytest.mark.parametrize(
    "text",
    [
        "start_date",
        "finish_line_crossed",
        "completed_orders",
        "cancel_task",  # a request
        "retry_job",
        "run_task",
        "error_task_queue",
        "failed_login",
        "ended_user_chat",
    ],
)
def test_requests_and_unknown_subjects_are_ordinary_events(text: str) -> None:
    assert load("generic").read({"type": text, "payload": {}}).verb.name == "EVENT"


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        ("shop.workflow.started", "RUN"),
        ("orca:pipeline:starting", "RUN"),
        ("prefect.flow-run.Running", "RUN"),
        ("acme/billing/dag_run/failed", "RUN"),
        ("jenkins.jobCompleted", "RUN"),
        ("/jobs/run/started", "RUN"),
        ("EVENT_RUN_STARTED", "RUN"),
        ("evt_task_started", "PHASE"),
        ("prefect.task-run.Running", "PHASE"),
        ("workflow.job.started", "PHASE"),
        ("workflow.pipeline.started", "PHASE"),
        ("hooks.run.started", "PHASE"),
        ("child.workflow.started", "PHASE"),
        ("user.session.started", "PHASE"),
        ("shop.checkout_workflow.started", "RUN"),
        ("NightlyPipelineStarted", "RUN"),
        ("ci.build.started", "RUN"),
        ("acme/task#started", "PHASE"),
        ("acme|run>started", "RUN"),
        ("task->started", "PHASE"),
        ("Run.started()", "RUN"),
        ("child_workflow.started", "PHASE"),
        ("test_run.started", "PHASE"),
    ],
)
def test_an_application_prefix_does_not_change_the_level(text: str, rank: str) -> None:
    assert load("generic").read({"type": text, "payload": {}}).rank.name == rank
