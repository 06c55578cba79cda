"""The rules of correlation, one per test."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from spanbus._correlation.correlator import Correlator, CorrelatorState, Limits
from spanbus._correlation.span_state import EventLog, SpanEvent, SpanState
from spanbus._reading import dialect_file
from spanbus._reading.reader import Reader
from spanbus._workflow.events import Event
from spanbus._workflow.identity import parse_traceparent

START_NS = 1_790_000_000_000_000_000
SECOND = 1_000_000_000


class Stream:
    """A correlator that is fed with events one second apart, and the runs that ended."""

    def __init__(self, rules: str = "crackerjack", limits: Limits | None = None) -> None:
        self.reader = Reader(dialect_file.load(rules))
        self.runs: list[SpanState] = []
        self.errors: list[Exception] = []
        self.correlator = Correlator(
            on_run_ended=self.runs.append, on_sink_error=self.errors.append, limits=limits
        )
        self.now_ns = START_NS
        self.count = 0

    def say(
        self,
        event_type: str,
        payload: Mapping[str, object] | None = None,
        *,
        after_s: float = 1.0,
        **identity: object,
    ) -> SpanState | None:
        self.now_ns += int(after_s * SECOND)
        self.count += 1
        event = {
            "event_type": event_type,
            "event_id": f"e{self.count}",
            "at_ns": self.now_ns,
            "payload": payload or {},
            **identity,
        }
        return self.correlator.apply(self.reader.read(event))

    def end(self) -> CorrelatorState:
        self.correlator.close()
        assert self.errors == []
        return self.correlator.state()

    def phases(self) -> list[tuple[str, str, int]]:
        return [
            (phase.name, str(phase.result), phase.attempts)
            for run in self.runs
            for phase in run.children
        ]


def test_a_step_announced_three_times_is_one_phase_and_one_failure() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "tests", "step_name": "Tests"})
    stream.say("workflow.quality.started", {"step_id": "tests", "phase": "testing"})
    stream.say("workflow.failed", {"step_id": "tests", "phase": "testing"})
    stream.say(
        "workflow.failed",
        {
            "step_id": "tests",
            "step_name": "Tests",
            "error": "Test workflow execution failed",
            "duration": 0.0,
        },
    )
    stream.say("workflow.failed", {"workflow_id": "w", "error": "Workflow failed"})
    state = stream.end()
    assert stream.phases() == [("tests", "failure", 1)]
    assert (state.phase_failures, state.run_failures, state.unmatched_ends, state.orphan_ends) == (
        1,
        1,
        0,
        0,
    )
    assert stream.runs[0].children[0].duration_s == 3.0  # not the bridge's 0.0


def test_a_retried_step_with_two_announcers_is_one_phase_with_two_attempts() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "tests", "step_name": "Tests"})
    for _ in range(2):
        stream.say("workflow.quality.started", {"step_id": "tests", "phase": "testing"})
        stream.say("workflow.failed", {"step_id": "tests", "phase": "testing"})
    stream.say("workflow.failed", {"step_id": "tests", "step_name": "Tests", "error": "failed"})
    stream.say("workflow.failed", {"workflow_id": "w", "error": "Workflow failed: failed"})
    state = stream.end()
    assert stream.phases() == [("tests", "failure", 2)]
    assert (state.phase_failures, state.retries) == (1, 1)
    assert [str(attempt.result) for attempt in stream.runs[0].children[0].children] == [
        "failure",
        "failure",
    ]


def test_an_action_that_fails_and_starts_again_is_one_phase() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("hooks.strategy.started", {"step_id": "fast_hooks", "strategy": "fast"})
    stream.say("hooks.strategy.failed", {"step_id": "fast_hooks", "strategy": "fast"})
    stream.say("hooks.strategy.started", {"step_id": "fast_hooks", "strategy": "fast"})
    stream.say(
        "hooks.strategy.completed", {"step_id": "fast_hooks", "strategy": "fast", "success": True}
    )
    stream.say("workflow.completed", {"workflow_id": "w"})
    state = stream.end()
    assert stream.phases() == [("fast_hooks", "success", 2)]
    assert (state.phase_failures, state.retries) == (0, 1)


def test_a_held_failure_is_counted_after_the_retry_window() -> None:
    stream = Stream(limits=Limits(retry_window_s=30))
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "a", "phase": "x"})
    stream.say("workflow.failed", {"step_id": "a", "phase": "x"})
    assert stream.correlator.state().phase_failures == 0
    stream.correlator.tick(stream.now_ns + 31 * SECOND)
    assert stream.correlator.state().phase_failures == 1


def test_ends_of_two_open_runs_with_one_id_are_flagged_as_ambiguous() -> None:
    stream = Stream()
    for _ in range(2):
        stream.say("workflow.started", {"workflow_id": "same"})
    for _ in range(2):
        stream.say("workflow.completed", {"workflow_id": "same"})
    state = stream.end()
    assert [str(run.result) for run in stream.runs] == ["success", "success"]
    assert [sorted(run.flags) for run in stream.runs] == [["ambiguous"], []]
    assert stream.runs[0].trace_id != stream.runs[1].trace_id
    assert state.runs_ended == 2


def test_interleaved_runs_with_their_own_ids_keep_their_phases() -> None:
    stream = Stream()
    for run in "abc":
        stream.say("workflow.started", {"workflow_id": f"w-{run}"})
    for run in "cab":
        stream.say("workflow.quality.started", {"workflow_id": f"w-{run}"})
    for run in "bca":
        stream.say("workflow.quality.completed", {"workflow_id": f"w-{run}", "success": run != "b"})
    for run in "abc":
        stream.say("workflow.completed", {"workflow_id": f"w-{run}", "success": run != "b"})
    state = stream.end()
    assert [(run.name, str(run.result), str(run.children[0].result)) for run in stream.runs] == [
        ("w-a", "success", "success"),
        ("w-b", "failure", "failure"),
        ("w-c", "success", "success"),
    ]
    assert state.phase_failures == 1
    assert all(phase.trace_id == run.trace_id for run in stream.runs for phase in run.children)


def test_an_end_without_a_start_is_back_dated_and_flagged() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.publish.completed", {"workflow_id": "w", "success": True, "duration": 0.5})
    state = stream.end()
    phase = stream.runs[0].children[0]
    assert (phase.name, str(phase.result), sorted(phase.flags), phase.duration_s) == (
        "publish",
        "success",
        ["orphan_end"],
        0.5,
    )
    assert (state.orphan_ends, state.phase_failures) == (1, 0)


def test_open_phases_of_an_interrupted_run_are_cancelled_not_failed() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "a", "step_name": "A"})
    stream.say("workflow.interrupted", {"workflow_id": "w"})
    state = stream.end()
    assert stream.phases() == [("a", "cancellation", 1)]
    assert (
        str(stream.runs[0].result),
        state.phase_failures,
        state.run_failures,
        state.abandoned,
    ) == ("cancellation", 0, 0, 0)


def test_late_events_of_a_cancelled_run_are_counted_and_open_no_run() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "a", "step_name": "A"})
    stream.say("workflow.interrupted", {"workflow_id": "w"})
    assert (
        stream.say(
            "workflow.quality.completed", {"step_id": "a", "step_name": "A", "success": True}
        )
        is None
    )
    assert (
        stream.say("workflow.quality.completed", {"step_id": "a", "phase": "x", "success": True})
        is None
    )
    state = stream.end()
    assert len(stream.runs) == 1
    assert (state.unmatched_ends, state.events_late, state.events_recorded) == (2, 2, 3)


def test_a_legacy_failure_names_the_stage_that_failed() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "workflow_1795178158"})
    stream.say("workflow.quality.started", {"workflow_id": "workflow_1795178158"})
    stream.say(
        "workflow.failed",
        {"workflow_id": "workflow_1795178158", "stage": "quality", "error": "ValueError: bad"},
    )
    state = stream.end()
    assert stream.phases() == [("quality", "failure", 1)]
    assert (
        str(
            stream.runs[0].children[0].failure.error_type
            if stream.runs[0].children[0].failure
            else ""
        )
        == "ValueError"
    )
    assert (state.phase_failures, state.abandoned, stream.runs[0].name) == (1, 0, "workflow")


def test_an_orchestrators_strategy_belongs_to_the_step_that_runs_it() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"step_id": "fast_hooks", "step_name": "Fast Hooks"})
    stream.say("workflow.quality.started", {"step_id": "cleaning", "step_name": "Cleaning"})
    stream.say("hooks.strategy.started", {"step_id": "fast_hooks", "strategy": "fast"})
    stream.say(
        "hooks.strategy.started", {"strategy": "fast", "execution_mode": "acb", "hook_count": 1}
    )
    stream.say("hooks.execution.started", {"hook": "ruff", "stage": "fast"})
    stream.say("hooks.execution.completed", {"hook": "ruff", "stage": "fast", "status": "failed"})
    stream.say(
        "hooks.strategy.completed",
        {"strategy": "fast", "execution_mode": "acb", "summary": {"counts": {"failed": 1}}},
    )
    stream.say("hooks.strategy.failed", {"step_id": "fast_hooks", "strategy": "fast"})
    stream.say(
        "workflow.failed",
        {"step_id": "fast_hooks", "step_name": "Fast Hooks", "error": "hooks failed"},
    )
    stream.say(
        "workflow.quality.completed",
        {"step_id": "cleaning", "step_name": "Cleaning", "success": True},
    )
    stream.say("workflow.failed", {"workflow_id": "w", "error": "hooks failed"})
    state = stream.end()
    assert stream.phases() == [("fast_hooks", "failure", 1), ("cleaning", "success", 1)]
    assert [(hook.name, str(hook.result)) for hook in stream.runs[0].children[0].children] == [
        ("ruff", "failure")
    ]
    assert (state.phase_failures, state.retries) == (1, 0)


def test_a_strategy_of_another_name_is_a_child_of_the_only_open_phase() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"workflow_id": "w"})
    for strategy in ("fast", "comprehensive"):
        stream.say("hooks.strategy.started", {"strategy": strategy, "execution_mode": "acb"})
        stream.say("hooks.strategy.completed", {"strategy": strategy, "execution_mode": "acb"})
    stream.say("workflow.quality.completed", {"workflow_id": "w", "success": True})
    stream.say("workflow.completed", {"workflow_id": "w", "success": True})
    stream.end()
    assert stream.phases() == [("quality", "success", 1)]
    assert [(child.level, child.name) for child in stream.runs[0].children[0].children] == [
        ("strategy", "fast"),
        ("strategy", "comprehensive"),
    ]


def test_an_end_earlier_than_its_start_is_clamped_and_flagged() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.completed", {"workflow_id": "w"}, after_s=-5)
    stream.end()
    run = stream.runs[0]
    assert (run.duration_s, sorted(run.flags)) == (0.0, ["clock"])


def test_open_runs_and_phases_do_not_expire() -> None:
    stream = Stream()
    stream.say("workflow.started", {"workflow_id": "w"})
    stream.say("workflow.quality.started", {"workflow_id": "w"})
    stream.correlator.tick(stream.now_ns + 400 * 86_400 * SECOND)
    stream.say("workflow.quality.completed", {"workflow_id": "w"}, after_s=25 * 3600)
    stream.say("workflow.completed", {"workflow_id": "w"}, after_s=25 * 3600)
    state = stream.end()
    assert stream.phases() == [("quality", "success", 1)]
    run = stream.runs[0]
    assert (str(run.result), run.duration_s) == ("success", 50 * 3600 + 1)
    assert (state.abandoned, state.phase_failures, state.run_failures) == (0, 0, 0)


def test_above_the_limit_the_oldest_open_phases_are_abandoned() -> None:
    stream = Stream(limits=Limits(open_phases=10))
    stream.say("workflow.started", {"workflow_id": "w"})
    for number in range(25):
        stream.say("workflow.x.started", {"step_id": f"s{number}", "step_name": "S"})
    state = stream.correlator.state()
    assert (state.phases_open, state.phases_ended, state.abandoned) == (10, 15, 15)


def test_above_the_limit_the_oldest_open_runs_are_abandoned() -> None:
    stream = Stream(limits=Limits(open_runs=5))
    for number in range(12):
        stream.say("workflow.started", {"workflow_id": f"w{number}"})
    state = stream.correlator.state()
    assert (state.runs_open, state.abandoned) == (5, 7)


def test_attempts_and_durations_of_the_engine_are_used() -> None:
    stream = Stream("spanbus")
    identity = {"run_id": "r-1", "phase": "tests"}
    stream.say(
        "workflow.started",
        {"workflow": "standard"},
        run_id="r-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    stream.say(
        "workflow.phase.started", {"type": "test_workflow", "needs": []}, **identity, attempt=1
    )
    stream.say(
        "workflow.quality.started", {"step_id": "tests", "phase": "testing"}, **identity, attempt=1
    )
    stream.say("workflow.failed", {"step_id": "tests", "phase": "testing"}, **identity, attempt=1)
    stream.say(
        "workflow.phase.retrying",
        {
            "next_attempt": 2,
            "delay": 0.5,
            "result": "failure",
            "error_type": "unsuccessful",
            "duration": 2.5,
        },
        **identity,
        attempt=1,
    )
    stream.say(
        "workflow.quality.started", {"step_id": "tests", "phase": "testing"}, **identity, attempt=2
    )
    stream.say(
        "workflow.phase.completed",
        {"success": True, "duration": 4.25, "attempts": 2},
        **identity,
        attempt=2,
    )
    stream.say(
        "workflow.completed",
        {"workflow": "standard", "success": True, "duration": 7.0},
        run_id="r-1",
    )
    state = stream.end()
    run = stream.runs[0]
    parent = parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert parent is not None and (run.trace_id, run.parent_span_id) == (
        parent.trace_id,
        parent.span_id,
    )
    assert (run.run_id, run.name, run.duration_s) == ("r-1", "standard", 7.0)
    phase = run.children[0]
    assert (phase.attempts, phase.duration_s, str(phase.result), phase.task_type) == (
        2,
        4.25,
        "success",
        "test_workflow",
    )
    first, second = phase.children
    assert (
        str(first.result),
        str(second.result),
        second.started_at_ns - (first.ended_at_ns or 0),
    ) == ("failure", "success", SECOND // 2)
    assert second.links[0].span_id == first.span_id
    assert (state.phase_failures, state.retries, state.orphan_ends) == (0, 1, 0)


def test_phases_link_to_what_they_depend_on() -> None:
    stream = Stream("spanbus")
    stream.say("workflow.started", {"workflow": "w"}, run_id="r")
    stream.say("workflow.phase.started", {"needs": []}, run_id="r", phase="a", attempt=1)
    stream.say(
        "workflow.phase.completed",
        {"success": True, "duration": 1.0},
        run_id="r",
        phase="a",
        attempt=1,
    )
    stream.say("workflow.phase.started", {"needs": ["a"]}, run_id="r", phase="b", attempt=1)
    stream.say(
        "workflow.phase.completed",
        {"success": True, "duration": 1.0},
        run_id="r",
        phase="b",
        attempt=1,
    )
    stream.say("workflow.completed", {}, run_id="r")
    stream.end()
    first, second = stream.runs[0].children
    assert [(link.span_id, link.kind) for link in second.links] == [(first.span_id, "depends_on")]


def test_a_skipped_phase_has_no_duration_and_no_flag() -> None:
    stream = Stream("spanbus")
    stream.say("workflow.started", {"workflow": "w"}, run_id="r")
    stream.say("workflow.phase.skipped", {"reason": "left out"}, run_id="r", phase="a")
    stream.say("workflow.completed", {}, run_id="r")
    state = stream.end()
    phase = stream.runs[0].children[0]
    assert (str(phase.result), phase.duration_s, phase.skip_reason, sorted(phase.flags)) == (
        "skip",
        0.0,
        "left out",
        [],
    )
    assert (state.orphan_ends, state.phase_failures) == (0, 0)


def test_above_the_limit_the_first_and_last_events_are_kept_and_the_rest_counted() -> None:
    stream = Stream("spanbus")
    stream.say("workflow.started", {"workflow": "w"}, run_id="r")
    stream.say("workflow.phase.started", {}, run_id="r", phase="a", attempt=1)
    phase = stream.correlator.innermost("r", "a")
    assert phase is not None
    for number in range(500):
        stream.say("progress", {"number": number}, run_id="r", phase="a")
    kept = [note.payload.get("number") for note in phase.events]
    assert len(kept) == 120
    assert kept[1:60] == list(range(59)) and kept[60:] == list(range(440, 500))
    assert (phase.events.total, phase.events.dropped, phase.events.dropped_by_type) == (
        501,
        381,
        {"progress": 381},
    )


def test_a_duplicate_event_is_recorded_once() -> None:
    stream = Stream("spanbus")
    event = Event("workflow.started", "id-1", START_NS, {"workflow": "w"}, run_id="r")
    for _ in range(2):
        stream.correlator.apply(stream.reader.read(event))
    state = stream.end()
    assert (state.events_seen, state.events_recorded, state.events_duplicate, state.runs_ended) == (
        2,
        1,
        1,
        1,
    )


@pytest.mark.slow
def test_a_hundred_thousand_events_in_flat_memory() -> None:
    import tracemalloc

    stream = Stream("spanbus")
    stream.say("workflow.started", {"workflow": "w"}, run_id="r")

    def pass_phases(count: int) -> None:
        for number in range(count):
            stream.say(
                "workflow.phase.started", {}, run_id="r", phase=f"p{number % 5000}", attempt=1
            )
            stream.say(
                "workflow.phase.completed",
                {"duration": 0.1},
                run_id="r",
                phase=f"p{number % 5000}",
                attempt=1,
            )

    pass_phases(30_000)  # fills the bounded caches
    tracemalloc.start()
    pass_phases(20_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 6_000_000, f"{grown} bytes"


def test_dropped_events_are_counted_for_32_types_and_the_rest_together() -> None:
    log = EventLog()
    for number in range(1_000):
        log.append(SpanEvent(f"order.{number}.changed", number, str(number), "", {}))
    assert log.dropped == sum(log.dropped_by_type.values()) == 880
    assert len(log.dropped_by_type) == 33
    assert log.dropped_by_type["_OTHER"] == 880 - 32
