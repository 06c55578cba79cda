"""Correlation of imperfect streams: runs without a start event, reused ids, retries, duplicates, days of work."""

from __future__ import annotations

from itertools import product

import pytest
from streams import SECOND, START_NS, Stream

from spanbus._correlation.correlator import Limits
from spanbus._semantics import ErrorType, Failure, Result

# --- inferred runs: no event announces the run ------------------------------------------------------------------------


def test_an_inferred_run_of_two_successful_tasks_succeeds() -> None:
    stream = Stream()
    for task in ("fetch", "build"):
        stream.say("task.started", {"task": task})
        stream.say("task.completed", {"task": task})
    state = stream.end()
    assert stream.told() == [
        ("implicit", "success", [("fetch", "success", 1), ("build", "success", 1)])
    ]
    assert (state.run_failures, state.phase_failures, state.abandoned) == (0, 0, 0)
    assert sorted(stream.runs[0].flags) == ["inferred"]


@pytest.mark.parametrize(
    ("ends", "result"),
    [
        (["completed", "failed"], "failure"),
        (["completed", "timeout"], "timeout"),
        (["completed", "cancelled"], "cancellation"),
        (["skipped", "skipped"], "skip"),
        (["skipped", "completed"], "success"),
    ],
)
@pytest.mark.parametrize("run_id", [None, "r-1"])
def test_the_result_of_an_inferred_run_is_that_of_its_phases(
    ends: list[str], result: str, run_id: str | None
) -> None:
    stream = Stream()
    of = {} if run_id is None else {"run_id": run_id}
    for number, word in enumerate(ends):
        if word != "skipped":
            stream.say("task.started", {"task": f"t{number}", **of})
        stream.say(f"task.{word}", {"task": f"t{number}", **of})
    state = stream.end()
    assert [str(run.result) for run in stream.runs] == [result]
    assert state.run_failures == (result in ("failure", "timeout"))


def test_a_failed_attempt_does_not_fail_an_inferred_run() -> None:
    stream = Stream()
    for word in ("started", "failed", "started", "completed"):
        stream.say(f"task.{word}", {"task": "fetch", "run_id": "r"})
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("fetch", "success", 2)])]
    assert (state.phase_failures, state.run_failures, state.retries) == (0, 0, 1)


def test_an_inferred_run_without_an_id_ends_after_five_idle_seconds() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "long"})
    stream.correlator.tick(stream.now_ns + 3_600 * SECOND)
    assert stream.correlator.state().runs_open == 1  # an open phase keeps the run open
    stream.say("task.completed", {"task": "long"}, after_s=3_600)
    stream.correlator.tick(stream.now_ns + 4 * SECOND)
    assert stream.correlator.state().runs_open == 1
    stream.correlator.tick(stream.now_ns + 5 * SECOND)
    assert stream.correlator.state().runs_open == 0
    stream.say("task.started", {"task": "next"}, after_s=6)
    stream.say("task.completed", {"task": "next"})
    stream.end()
    assert [len(run.children) for run in stream.runs] == [1, 1]
    assert stream.runs[0].ended_at_ns == stream.runs[0].children[0].ended_at_ns


def test_an_inferred_run_with_an_id_ends_after_ten_idle_minutes() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "a", "run_id": "r"})
    stream.say("task.completed", {"task": "a", "run_id": "r"})
    stream.say("task.started", {"task": "b", "run_id": "r"}, after_s=599)
    stream.say("task.completed", {"task": "b", "run_id": "r"})
    stream.correlator.tick(stream.now_ns + 599 * SECOND)
    assert stream.correlator.state().runs_open == 1
    stream.correlator.tick(stream.now_ns + 601 * SECOND)
    assert stream.correlator.state().runs_open == 0
    assert stream.told() == [("workflow", "success", [("a", "success", 1), ("b", "success", 1)])]


def test_an_inferred_run_ends_with_the_task_of_its_publisher() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "a", "run_id": "r"})
    stream.say("task.completed", {"task": "a", "run_id": "r"})
    [run] = stream.correlator.open_records()
    stream.correlator.publisher_ended(run, Result.SUCCESS)
    assert stream.told() == [("workflow", "success", [("a", "success", 1)])]


@pytest.mark.parametrize(
    ("result", "failure", "counted"),
    [
        (Result.CANCELLATION, None, 0),
        (Result.FAILURE, Failure("ValueError", "no"), 1),
    ],
)
def test_an_announced_run_takes_the_failure_or_cancellation_of_its_publisher(
    result: Result, failure: Failure | None, counted: int
) -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "r"})
    stream.say("task.started", {"task": "a", "run_id": "r"})
    run = stream.correlator.open_records()[0]
    stream.correlator.publisher_ended(run, result, failure)
    state = stream.end()
    assert stream.told() == [("workflow", str(result), [("a", str(result), 1)])]
    assert (state.run_failures, state.abandoned) == (counted, 0)
    assert stream.runs[0].failure == failure


def test_an_announced_run_stays_open_when_its_publisher_returns() -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "r"})
    [run] = stream.correlator.open_records()
    stream.correlator.publisher_ended(run, Result.SUCCESS)
    stream.say("pipeline.completed", {"run_id": "r"})
    assert stream.told() == [("workflow", "success", [])]


def test_only_an_announced_run_is_abandoned() -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "heard"})
    stream.say("task.started", {"task": "a", "run_id": "inferred"})
    state = stream.end()
    flags = {run.run_id: sorted(run.flags) for run in stream.runs}
    assert flags == {"heard": ["abandoned"], "inferred": ["inferred"]}
    assert state.abandoned == 2  # the run, and the phase of the other one


def test_a_late_end_event_decides_the_result_of_an_idle_run() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "a", "run_id": "r"})
    stream.say("task.completed", {"task": "a", "run_id": "r"})
    stream.say("run.failed", {"run_id": "r", "error": "ValueError: no"}, after_s=86_400)
    state = stream.end()
    assert stream.told() == [("workflow", "failure", [("a", "success", 1)])]
    assert (state.run_failures, state.unmatched_ends) == (1, 0)


# --- an ordinary event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        *product(
            ("config.reloaded", "user.created", "cache.miss"), ({}, {"run_id": "r"}, {"size": 3})
        ),
        # with a run id it would be a failure in that run
        *product(("config.error",), ({}, {"size": 3})),
    ],
)
def test_an_ordinary_event_opens_no_run(event_type: str, payload: dict[str, object]) -> None:
    stream = Stream()
    assert stream.say(event_type, payload) is None
    assert stream.correlator.open_records() == []
    state = stream.end()
    assert (stream.runs, state.run_failures, state.events_seen, state.events_late) == ([], 0, 1, 1)
    assert stream.late == [event_type]


def test_an_ordinary_event_belongs_to_the_next_run_of_its_publisher() -> None:
    stream = Stream()
    stream.say("config.reloaded", task="A")
    stream.say("cache.filled", task="B")
    stream.say("pipeline.started", {"run_id": "a"}, task="A")
    stream.say("pipeline.completed", {"run_id": "a"}, task="A")
    state = stream.end()
    assert stream.runs[0].events_in_tree == 3
    assert stream.late == ["cache.filled"]
    assert (state.events_recorded, state.events_late) == (3, 1)


def test_an_ordinary_event_without_a_run_is_late_after_five_seconds() -> None:
    stream = Stream()
    stream.say("config.reloaded")
    stream.say("pipeline.started", {"run_id": "a"}, after_s=5.5)
    stream.say("pipeline.completed", {"run_id": "a"})
    stream.end()
    assert stream.runs[0].events_in_tree == 2
    assert stream.late == ["config.reloaded"]


def test_the_number_of_events_that_wait_for_a_run_is_bounded() -> None:
    stream = Stream(limits=Limits(early_events=10))
    for _ in range(25):
        stream.say("config.reloaded", after_s=0.01)
    assert len(stream.late) == 15


# --- reused ids -------------------------------------------------------------------------------------------------------


def nightly(stream: Stream, after_s: float, word: str = "completed") -> None:
    stream.say("job.started", {"job_id": "nightly"}, after_s=after_s)
    stream.say("task.started", {"job_id": "nightly", "task": "fetch"})
    stream.say("task.completed", {"job_id": "nightly", "task": "fetch"})
    stream.say(f"job.{word}", {"job_id": "nightly"})


def test_a_reused_job_id_gives_a_new_trace_each_time() -> None:
    stream = Stream()
    for night in range(3):
        nightly(stream, 86_400, "failed" if night == 1 else "completed")
    state = stream.end()
    assert [run.run_id for run in stream.runs] == ["nightly"] * 3
    assert (
        len({run.trace_id for run in stream.runs}) == len({run.span_id for run in stream.runs}) == 3
    )
    assert [str(run.result) for run in stream.runs] == ["success", "failure", "success"]
    assert [len(run.children) for run in stream.runs] == [1, 1, 1]
    assert state.runs_ended == 3


def test_the_same_stream_gives_the_same_trace_ids() -> None:
    ids: list[list[int]] = []
    for _ in range(2):
        stream = Stream()
        nightly(stream, 1)
        nightly(stream, 86_400)
        stream.end()
        ids.append([run.trace_id for run in stream.runs])
    assert ids[0] == ids[1]


def test_inferred_runs_may_reuse_an_id() -> None:
    stream = Stream()
    for _ in range(2):
        stream.say("task.started", {"job_id": "nightly", "task": "fetch"}, after_s=86_400)
        stream.say("task.completed", {"job_id": "nightly", "task": "fetch"})
    stream.end()
    assert [run.run_id for run in stream.runs] == ["nightly", "nightly"]
    assert len({run.trace_id for run in stream.runs}) == 2


def test_with_unique_run_ids_the_start_time_is_not_part_of_the_trace_id() -> None:
    for said, ids in (("unique", 1), ("reused", 2)):
        traces: set[int] = set()
        for after_s in (1, 2):
            stream = Stream({"extends": "generic", "run_ids": said})
            nightly(stream, after_s)
            traces.add(stream.runs[0].trace_id)
        assert len(traces) == ids


def test_runs_with_one_id_and_one_start_time_are_two_traces() -> None:
    stream = Stream()
    for _ in range(2):
        stream.say("run.started", {"run_id": "r"}, after_s=0)
    stream.end()
    assert len({run.trace_id for run in stream.runs}) == 2


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", [None, "r"])
@pytest.mark.parametrize(
    "words",
    [
        "started retrying started completed",
        "started failed retrying started completed",
        "started retrying failed started completed",
        "started failed started completed",
        "started started completed",
        "starting started running retrying started running completed",
        "started up_for_retry started succeeded",
    ],
)
@pytest.mark.parametrize("dialect", ["generic"])
def test_a_retried_task_is_one_phase_with_two_attempts(
    dialect: str, words: str, run_id: str | None
) -> None:
    stream = Stream(dialect)
    of = {} if run_id is None else {"run_id": run_id}
    stream.say("pipeline.started", of)
    for word in words.split():
        stream.say(f"task.{word}", {"task": "fetch", **of})
    stream.say("pipeline.completed", of)
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("fetch", "success", 2)])]
    assert (state.phase_failures, state.abandoned, state.retries, state.run_failures) == (
        0,
        0,
        1,
        0,
    )


def test_retry_then_start_is_one_phase_in_the_spanbus_dialect() -> None:
    stream = Stream("spanbus")
    stream.say("workflow.started", run_id="r")
    for word in ("started", "retrying", "started", "completed"):
        stream.say(f"workflow.phase.{word}", run_id="r", phase="p")
    stream.say("workflow.completed", run_id="r")
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("p", "success", 2)])]
    assert (state.abandoned, state.phase_failures) == (0, 0)


def test_a_start_by_another_publisher_is_a_concurrent_phase() -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "r"})
    for word in ("started", "completed"):
        for task in ("A", "B"):
            stream.say(f"task.{word}", {"task": "fetch", "run_id": "r"}, task=task)
    stream.say("pipeline.completed", {"run_id": "r"})
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("fetch", "success", 1)] * 2)]
    assert (state.retries, state.abandoned) == (0, 0)
    assert [phase.duration_s for phase in stream.runs[0].children] == [2.0, 2.0]


def test_with_restart_parallel_a_second_start_is_a_concurrent_phase() -> None:
    stream = Stream({"extends": "generic", "restart": "parallel"})
    stream.say("pipeline.started", {"run_id": "r"})
    for word in ("started", "started", "completed", "completed"):
        stream.say(f"task.{word}", {"task": "fetch", "run_id": "r"})
    stream.say("pipeline.completed", {"run_id": "r"})
    stream.end()
    assert stream.told() == [("workflow", "success", [("fetch", "success", 1)] * 2)]


@pytest.mark.parametrize("attempts", [1, 2, 3, 7])
def test_the_number_of_attempts_in_an_end_event_is_used(attempts: int) -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "r"})
    stream.say("task.started", {"task": "fetch", "run_id": "r"})
    stream.say("task.completed", {"task": "fetch", "run_id": "r", "attempts": attempts})
    stream.say("pipeline.completed", {"run_id": "r"})
    state = stream.end()
    assert stream.told()[0][2] == [("fetch", "success", attempts)]
    assert state.retries == attempts - 1


def test_the_dialect_names_the_key_of_attempts() -> None:
    stream = Stream({"extends": "generic", "attempts_key": "tries"})
    stream.say("task.started", {"task": "fetch"})
    stream.say("task.completed", {"task": "fetch", "tries": 4, "attempts": 9})
    stream.end()
    assert stream.told()[0][2] == [("fetch", "success", 4)]


def test_hook_strategies_that_repeat_inside_an_attempt_belong_to_it() -> None:
    stream = Stream("crackerjack")
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "fast_hooks", "step_name": "Fast"})
    stream.say("hooks.strategy.started", {"step_id": "fast_hooks", "strategy": "fast"})
    for failed in (1, 0):
        stream.say("hooks.strategy.started", {"strategy": "fast", "execution_mode": "acb"})
        stream.say(
            "hooks.strategy.completed",
            {
                "strategy": "fast",
                "execution_mode": "acb",
                "summary": {"counts": {"failed": failed}},
            },
        )
    stream.say(
        "hooks.strategy.completed", {"step_id": "fast_hooks", "strategy": "fast", "success": True}
    )
    stream.say(
        "workflow.quality.completed",
        {"step_id": "fast_hooks", "step_name": "Fast", "success": True},
    )
    stream.say("workflow.completed", {"workflow_id": "w"})
    state = stream.end()
    assert stream.told() == [("w", "success", [("fast_hooks", "success", 1)])]
    assert (state.retries, state.phase_failures) == (0, 0)


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        ({"summary": {"counts": {"failed": 2}}}, "failure"),
        ({"summary": {"counts": {"failed": 0}}}, "success"),
        ({"summary": {"counts": {"failed": 2}}, "success": True}, "success"),
        ({"summary": {"counts": {"failed": 2}}, "status": "ok"}, "success"),
        ({"summary": {"counts": "many"}}, "success"),
        ({"summary": "2 failed"}, "success"),
    ],
)
def test_a_count_of_failed_hooks_is_a_failure_unless_the_event_says_success(
    payload: dict[str, object], result: str
) -> None:
    stream = Stream("crackerjack")
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("hooks.strategy.started", {"strategy": "fast", "execution_mode": "acb"})
    stream.say("hooks.strategy.completed", {"strategy": "fast", "execution_mode": "acb", **payload})
    stream.say("workflow.completed", {"workflow_id": "w"})
    stream.end()
    assert stream.told()[0][2] == [("fast", result, 1)]


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_a_duplicate_has_the_same_id_and_the_same_type() -> None:
    stream = Stream()
    for _ in range(2):
        stream.say("task.started", {"task": "a"}, event_id="7", after_s=0.5)
        stream.say("task.completed", {"task": "a"}, event_id="7", after_s=0.5)
    state = stream.end()
    assert stream.told()[0][2] == [("a", "success", 1)]
    assert (state.events_duplicate, state.events_recorded) == (2, 2)


@pytest.mark.parametrize("key", ["id", "task_id", "uuid"])
def test_the_id_of_a_task_is_not_an_event_id(key: str) -> None:
    stream = Stream()
    for number, word in enumerate(("started", "retry", "started", "completed")):
        stream.hear(
            {
                "type": f"task.{word}",
                key: "t-1",
                "name": "fetch",
                "run_id": "r",
                "timestamp": START_NS / 1e9 + number,
            }
        )
    state = stream.end()
    assert state.events_duplicate == 0
    assert [(phase.attempts, str(phase.result)) for phase in stream.runs[0].children] == [
        (2, "success")
    ]


def test_the_id_of_an_envelope_is_an_event_id() -> None:
    stream = Stream()
    for _ in range(2):
        stream.hear(
            {
                "specversion": "1.0",
                "id": "e-1",
                "type": "task.started",
                "source": "/x",
                "time": "2026-09-21T00:00:00Z",
                "data": {"task": "fetch", "run_id": "r"},
            }
        )
    assert stream.end().events_duplicate == 1


# --- time -------------------------------------------------------------------------------------------------------------


def test_runs_and_phases_may_take_days() -> None:
    stream = Stream()
    stream.say("workflow.started", {"run_id": "r"})
    stream.say("task.started", {"task": "train", "run_id": "r"})
    stream.correlator.tick(stream.now_ns + 25 * 3_600 * SECOND)
    stream.say("task.completed", {"task": "train", "run_id": "r"}, after_s=25 * 3_600)
    stream.say("workflow.completed", {"run_id": "r"}, after_s=25 * 3_600)
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("train", "success", 1)])]
    assert (state.abandoned, state.run_failures, state.unmatched_ends) == (0, 0, 0)


@pytest.mark.parametrize("at_ns", [0, -1, -56 * 365 * 86_400 * SECOND])
def test_a_clock_before_1970_breaks_nothing(at_ns: int) -> None:
    from spanbus._workflow.events import Event

    stream = Stream("spanbus")
    for number, (word, phase) in enumerate(
        [("started", None), ("phase.started", "a"), ("phase.completed", "a"), ("completed", None)]
    ):
        stream.hear(
            Event(
                f"workflow.{word}",
                f"e{number}",
                at_ns + number,
                {"duration": 2.5} if "completed" in word else {},
                "engine",
                "r",
                phase,
            )
        )
    state = stream.end()
    assert stream.told() == [("workflow", "success", [("a", "success", 1)])]
    assert [phase.duration_s for phase in (stream.runs[0], *stream.runs[0].children)] == [2.5, 2.5]
    assert stream.runs[0].started_at_ns > 0
    assert state.abandoned == 0


def test_idle_time_is_measured_by_the_monotonic_clock() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "a"})
    stream.say("task.completed", {"task": "a"})
    stream.correlator.tick()  # the timestamps are of another year, but the events were fed just now
    assert stream.correlator.state().runs_open == 1


# --- dialects with run = "each" ---------------------------------------------------------------------------------------

QUEUE = {
    "extends": "generic",
    "run": "each",
    "name_memory": "uuid",
    "rules": [
        {"type": "task-received", "level": "phase", "verb": "event", "name": ["name"]},
        {"type": "task-started", "level": "phase", "verb": "start", "name": ["name", "word:0"]},
        {
            "type": ["task-succeeded", "task-failed"],
            "level": "phase",
            "verb": "end",
            "name": ["name", "word:0"],
            "final": True,
            "result_by_word": {"succeeded": "success", "failed": "failure"},
        },
    ],
}


def test_with_run_each_every_outermost_task_is_a_run() -> None:
    stream = Stream(QUEUE)
    for uuid, name in (("1", "mail"), ("2", "mail"), ("3", "thumbnail")):
        stream.say("task-received", {"uuid": uuid, "name": name}, after_s=0.1)
    for uuid in "123":
        stream.say("task-started", {"uuid": uuid}, after_s=0.1)
    for uuid, word in (("2", "failed"), ("3", "succeeded"), ("1", "succeeded")):
        stream.say(f"task-{word}", {"uuid": uuid}, after_s=0.1)
    state = stream.end()
    assert [(run.run_id, *told) for run, told in zip(stream.runs, stream.told(), strict=True)] == [
        ("2", "mail", "failure", [("mail", "failure", 1)]),
        ("3", "thumbnail", "success", [("thumbnail", "success", 1)]),
        ("1", "mail", "success", [("mail", "success", 1)]),
    ]
    assert (state.runs_ended, state.run_failures, state.abandoned, state.orphan_ends) == (
        3,
        1,
        0,
        0,
    )


def test_with_run_each_a_task_without_an_id_is_a_run() -> None:
    stream = Stream({"extends": "generic", "run": "each"})
    for job in ("mail", "thumbnail"):
        stream.say("task.started", {"task": job})
        stream.say("task.completed", {"task": job})
    stream.end()
    assert stream.told() == [
        ("mail", "success", [("mail", "success", 1)]),
        ("thumbnail", "success", [("thumbnail", "success", 1)]),
    ]


def test_with_run_each_a_nested_task_is_a_phase() -> None:
    stream = Stream({"extends": "generic", "run": "each"})
    outer = stream.say("task.started", {"task": "mail"}, task="A")
    stream.say("task.started", {"task": "render"}, task="A", within=outer)
    stream.say("task.completed", {"task": "render"}, task="A", within=outer)
    stream.say("task.completed", {"task": "mail"}, task="A", within=outer)
    stream.end()
    assert stream.told() == [
        ("mail", "success", [("mail", "success", 1), ("render", "success", 1)])
    ]


def test_an_abandoned_phase_of_an_inferred_run_has_the_flag() -> None:
    stream = Stream()
    stream.say("task.started", {"task": "a", "run_id": "r"})
    stream.end()
    phase = stream.runs[0].children[0]
    assert phase.failure is not None and phase.failure.error_type == ErrorType.ABANDONED
    assert (str(phase.result), sorted(phase.flags)) == ("error", ["abandoned"])
