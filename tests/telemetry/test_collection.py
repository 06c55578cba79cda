"""A collection of metrics blocks publishers only while it copies the numbers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)

from spanbus._correlation.span_state import SpanState
from spanbus._runtime import Runtime
from spanbus._semantics import Level, Result, names
from spanbus._settings import load_settings
from spanbus._telemetry.metrics import MetricSink

LONG_S = 60


def an_ended_phase(number: int) -> SpanState:
    record = SpanState(
        Level.PHASE,
        "lint",
        run_id="r",
        workflow="w",
        trace_id=1,
        span_id=number,
        started_at_ns=1_000,
    )
    record.result, record.ended_at_ns = Result.FAILURE, 2_000
    return record


def test_events_are_accepted_during_a_collection(tmp_path: Path) -> None:
    env = {
        "SPANBUS_STATE_DIR": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "SPANBUS_EXIT_TIMEOUT_S": "0",
    }
    collecting, go_on = threading.Event(), threading.Event()

    def slow() -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        collecting.set()
        assert go_on.wait(LONG_S)
        return {}

    with Runtime(load_settings(env=env, cwd=tmp_path), env=env) as runtime:
        runtime.wiring().observe("spanbus.observe.", slow)
        collection = threading.Thread(target=runtime.flush, args=(0.0,))
        collection.start()
        try:
            assert collecting.wait(LONG_S)
            publisher = threading.Thread(
                target=runtime.handle.feed,
                args=({"event_type": "workflow.started", "payload": {"run_id": "r"}},),
            )
            publisher.start()
            publisher.join(LONG_S)
            assert not publisher.is_alive()
            assert collection.is_alive()
            assert runtime.handle.state().events_seen == 1
        finally:
            go_on.set()
            collection.join(LONG_S)


def test_a_collection_has_the_counts_of_the_moment_it_was_taken() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    sink = MetricSink(provider.get_meter("test"), long_lived=False, exemplar_filter="always_off")
    sink.closed(an_ended_phase(1))
    sink.take(AggregationTemporality.DELTA)
    sink.closed(an_ended_phase(2))

    def failures() -> float:
        data = reader.get_metrics_data()
        assert data is not None
        [metric] = [
            metric
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
            if metric.name == names.PHASE_FAILURES
        ]
        [point] = metric.data.data_points
        assert isinstance(point, NumberDataPoint)
        return point.value

    def durations() -> int:
        [metric] = sink.collect(AggregationTemporality.DELTA)
        [point] = metric.data.data_points
        return cast("HistogramDataPoint", point).count

    assert (failures(), durations()) == (1, 1)
    assert (failures(), durations()) == (2, 1)
