"""Histograms, counters and gauges of our own meter and of the SDK's: names, buckets, exemplars, number of series."""

from __future__ import annotations

import pytest
from rendered import (
    HISTOGRAMS,
    SECOND,
    START_NS,
    SUMS,
    Provider,
    Rendered,
    executed,
    execution_begun,
)

from spanbus._semantics import Failure, Result, names
from spanbus._telemetry.metrics import Guard


def run(
    rendered: Rendered,
    run_id: str,
    *phases: str,
    workflow: str = "w",
    fails: bool = False,
    event_type: str | None = None,
) -> None:
    rendered.say("workflow.started", {"workflow": workflow}, run_id=run_id)
    for phase in phases:
        rendered.say("workflow.phase.started", {"type": "command"}, run_id=run_id, phase=phase)
        if event_type is not None:
            rendered.say(event_type, {}, run_id=run_id, phase=phase)
        if fails:
            rendered.say(
                "workflow.phase.failed", {"error_type": f"{phase}Error"}, run_id=run_id, phase=phase
            )
        else:
            rendered.say("workflow.phase.completed", {"duration": 0.25}, run_id=run_id, phase=phase)
    rendered.say(
        "workflow.failed" if fails else "workflow.completed",
        {"error_type": "RunError"} if fails else {},
        run_id=run_id,
    )


def test_the_failure_counter_starts_at_0_before_the_first_failure(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    run(rendered, "1", "p")
    assert rendered.numbers(names.PHASE_FAILURES) == {("w", "p"): 0}
    assert rendered.numbers(names.PHASE_RETRIES) == {("w", "p"): 0}
    run(rendered, "2", "p", fails=True)
    run(rendered, "3", "p", fails=True)
    assert rendered.numbers(names.PHASE_FAILURES) == {("w", "p"): 2}
    assert rendered.numbers(names.RUN_ERRORS) == {("w", "RunError"): 2}


def test_durations_are_seconds_in_our_buckets(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    run(rendered, "1", "p")
    [point] = rendered.histogram(names.PHASE_DURATION)
    assert tuple(point.explicit_bounds) == names.DURATION_BUCKETS_S
    assert (point.sum, point.count) == (0.25, 1)
    assert point.bucket_counts[names.DURATION_BUCKETS_S.index(0.25)] == 1
    [whole] = rendered.histogram(names.RUN_DURATION)
    assert whole.sum == 3.0
    assert dict(whole.attributes or {}) == {
        names.PIPELINE_NAME: "w",
        names.PIPELINE_RUN_STATE: "executing",
        names.PIPELINE_RESULT: "success",
    }


def test_instruments_have_the_kind_of_the_catalogue(delivery: Provider) -> None:
    rendered = Rendered(delivery, long_lived=True)
    run(rendered, "1", "p")
    executed(rendered.correlator)
    metrics = rendered.metrics()
    for listed in names.METRICS:
        if listed.name.startswith(("spanbus.delivery.", "spanbus.observe.")):
            continue
        data = metrics[listed.name].data if listed.name in metrics else None
        if listed.instrument == "histogram":
            assert isinstance(data, HISTOGRAMS)
        elif listed.instrument == "counter" and data is not None:
            assert isinstance(data, SUMS)
            assert data.is_monotonic
        elif listed.instrument == "updowncounter":
            assert isinstance(data, SUMS)
            assert not data.is_monotonic


def test_an_execution_counts_as_a_phase_unless_it_belongs_to_one(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    executed(rendered.correlator, of_phase="build")
    metrics = rendered.metrics()
    [wait] = rendered.histogram(names.QUEUE_WAITS)
    assert (wait.sum, wait.count) == (2.0, 1)
    assert dict(wait.attributes or {}) == {
        names.PIPELINE_NAME: "w",
        names.TASK_NAME: "build",
        names.QUEUE_NAME: "celery",
    }
    assert names.PHASE_DURATION not in metrics, "the engine counts its phase"
    executed(rendered.correlator)
    [duration] = rendered.histogram(names.PHASE_DURATION)
    assert (duration.sum, (duration.attributes or {})[names.TASK_NAME]) == (1.0, "tasks.build")


def test_an_execution_that_asks_for_a_retry_is_a_retry_and_no_failure(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    record = execution_begun(rendered.correlator)
    retry = Failure("celery.exceptions.Retry", "Retry in 1s")
    rendered.correlator.end(record, Result.FAILURE, retry, START_NS + SECOND, SECOND)
    executed(rendered.correlator)
    assert rendered.numbers(names.PHASE_RETRIES) == {("w", "tasks.build"): 1}
    assert rendered.numbers(names.PHASE_FAILURES) == {("w", "tasks.build"): 0}


def test_duration_points_have_the_span_as_exemplar(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    run(rendered, "1", "p")
    metrics = rendered.metrics()
    for name, span, value in (
        (names.PHASE_DURATION, "p", 0.25),
        (names.RUN_DURATION, "RUN w", 3.0),
    ):
        [point] = metrics[name].data.data_points
        [exemplar] = point.exemplars
        context = rendered.span(span).get_span_context()
        assert (exemplar.trace_id, exemplar.span_id, exemplar.value) == (
            context.trace_id,
            context.span_id,
            value,
        )


def test_the_last_run_is_the_unix_time_of_its_end_and_never_decreases(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    run(rendered, "1", "p")
    end_s = (START_NS + 2 * SECOND + SECOND // 4) / 1e9
    assert rendered.numbers(names.PHASE_LAST_RUN) == {("w", "p", "success"): pytest.approx(end_s)}
    rendered.now_ns -= 1_000 * SECOND
    run(rendered, "2", "p")
    assert rendered.numbers(names.PHASE_LAST_RUN) == {("w", "p", "success"): pytest.approx(end_s)}
    assert rendered.numbers(names.WORKFLOW_LAST_RUN) == {
        ("w", "success"): pytest.approx((START_NS + 4 * SECOND) / 1e9)
    }


def test_active_runs_are_counted_in_services_only(delivery: Provider) -> None:
    service, once = Rendered(delivery, long_lived=True), Rendered(delivery)
    for rendered in (service, once):
        rendered.say("workflow.started", {"workflow": "w"}, run_id="1")
        rendered.say("workflow.started", {"workflow": "w"}, run_id="2")
    assert service.numbers(names.RUN_ACTIVE) == {("w", "executing"): 2}
    assert names.RUN_ACTIVE not in once.metrics()
    service.say("workflow.completed", {}, run_id="1")
    service.correlator.close()
    assert service.numbers(names.RUN_ACTIVE) == {("w", "executing"): 0}


def test_no_metric_has_the_run_id_as_attribute(delivery: Provider) -> None:
    rendered = Rendered(delivery, long_lived=True)
    run(rendered, "a-very-special-id", "p", fails=True)
    points = [point for metric in rendered.metrics().values() for point in metric.data.data_points]
    values = [str(value) for point in points for value in (point.attributes or {}).values()]
    assert "p" in values
    assert "a-very-special-id" not in values


def test_events_are_counted_by_type_and_outcome(delivery: Provider) -> None:
    rendered = Rendered(delivery)
    run(rendered, "1", "p", event_type="conveyor.moved")
    rendered.say("workflow.completed", {}, run_id="of nobody")
    counts = rendered.numbers(names.EVENTS)
    assert counts[("recorded", "conveyor.moved")] == 1
    assert counts[("recorded", "workflow.completed")] == 1
    assert counts[("dropped", "workflow.completed")] == 1


# --- how many series --------------------------------------------------------------------------------------------------


def test_the_cardinality_guard_keeps_known_names() -> None:
    guard = Guard(2)
    assert [guard(name) for name in ("a", "b", "c", "a", "d", "b")] == [
        "a",
        "b",
        "_OTHER",
        "a",
        "_OTHER",
        "b",
    ]


@pytest.mark.parametrize("what", ["workflow", "phase", "error", "event"])
def test_the_number_of_series_is_limited_for_any_names(what: str, delivery: Provider) -> None:
    rendered = Rendered(delivery)
    count = names.NAMES_LIMIT + 50
    for number in range(count):
        run(
            rendered,
            f"r{number}",
            f"p{number}" if what in ("phase", "error") else "p",
            workflow=f"w{number}" if what == "workflow" else "w",
            fails=what == "error",
            event_type=f"e{number}" if what == "event" else None,
        )
    metrics = rendered.metrics()
    for metric in metrics.values():
        assert len(metric.data.data_points) <= (names.NAMES_LIMIT + 1) * 2, metric.name
    attribute = {
        "workflow": names.PIPELINE_NAME,
        "phase": names.TASK_NAME,
        "error": names.ERROR_TYPE,
        "event": names.EVENT_TYPE,
    }[what]
    metric = metrics[names.EVENTS if what == "event" else names.PHASE_DURATION]
    seen = {str((point.attributes or {})[attribute]) for point in metric.data.data_points}
    assert "_OTHER" in seen
    assert names.NAMES_LIMIT <= len(seen) <= names.NAMES_LIMIT + 1
    if what != "event":
        assert sum(point.count for point in rendered.histogram(names.PHASE_DURATION)) == count
