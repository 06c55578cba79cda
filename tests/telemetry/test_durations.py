"""Our own duration histograms equal those of the SDK."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from rendered import Exported

from spanbus._correlation.span_state import SpanState
from spanbus._otlp import metrics_data
from spanbus._semantics import Failure, Level, Result
from spanbus._telemetry.durations import ExemplarFilter
from spanbus._telemetry.metrics import MetricSink
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template

START_NS = 1_790_000_000_000_000_000
FILTERS = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}

durations_s = st.one_of(
    st.floats(0, 2_000, allow_nan=False),
    st.sampled_from([0.0, 0.005, 0.01, 0.25, 1.0, 10.0, 300.0]),
)
ended = st.lists(
    st.tuples(
        st.sampled_from(["lint", "tests"]),
        durations_s,
        st.sampled_from([Result.SUCCESS, Result.FAILURE]),
    ),
    max_size=30,
)


def record(name: str, seconds: float, result: Result, number: int) -> SpanState:
    found = SpanState(
        Level.PHASE,
        name,
        run_id="r",
        workflow="w",
        trace_id=(number * 0x9E3779B97F4A7C15 + 1) % 2**128,
        span_id=number + 1,
        started_at_ns=START_NS,
        task_type=name,
    )
    found.duration_ns = round(seconds * 1e9)
    found.ended_at_ns = START_NS + found.duration_ns
    found.result = result
    found.failure = Failure("builtins.OSError") if result.failed else None
    return found


def points(histogram: Histogram) -> list[tuple[object, ...]]:
    def one(point: HistogramDataPoint) -> tuple[object, ...]:
        taken = sorted(
            (exemplar.value, exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars
        )
        return (
            sorted((point.attributes or {}).items()),
            point.count,
            pytest.approx(point.sum),
            tuple(point.bucket_counts),
            tuple(point.explicit_bounds),
            point.min,
            point.max,
            taken,
        )

    return sorted((one(point) for point in histogram.data_points), key=lambda point: str(point[0]))


@pytest.mark.parametrize("exemplar_filter", FILTERS)
@pytest.mark.parametrize(
    "temporality", [AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE]
)
@given(rounds=st.lists(ended, min_size=1, max_size=3))
def test_points_and_exemplars_equal_those_of_the_sdk(
    exemplar_filter: ExemplarFilter,
    temporality: AggregationTemporality,
    rounds: Sequence[list[tuple[str, float, Result]]],
) -> None:
    reader = InMemoryMetricReader(preferred_temporality={HistogramInstrument: temporality})
    theirs = MeterProvider(
        [reader], shutdown_on_exit=False, exemplar_filter=FILTERS[exemplar_filter]()
    )
    ours = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    plain, counted = (
        MetricSink(theirs.get_meter("t"), long_lived=False),
        MetricSink(ours.get_meter("t"), long_lived=False, exemplar_filter=exemplar_filter),
    )
    spans = DirectSpans(
        Exported(InMemorySpanExporter()),
        Template(Redactor()),
        sampler=TraceIdRatioBased(0.5),
        resource=Resource({}),
    )
    number = 0
    for ends in rounds:
        for name, seconds, result in ends:
            number += 1
            one = record(name, seconds, result, number)
            spans.opened(one)
            for sink in (plain, counted):
                sink.opened(one)
                sink.closed(one)
        data = reader.get_metrics_data()
        wanted = [
            metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if isinstance(metric.data, Histogram)
        ]
        found = counted.collect(temporality)
        assert [(metric.name, metric.unit, metric.description) for metric in found] == [
            (metric.name, metric.unit, metric.description) for metric in wanted
        ]
        for mine, other in zip(found, wanted, strict=True):
            assert isinstance(mine.data, metrics_data.Histogram)
            assert isinstance(other.data, Histogram)
            assert mine.data.aggregation_temporality == other.data.aggregation_temporality
            assert points(mine.data) == points(other.data)


def test_a_delta_starts_at_the_last_collection() -> None:
    sink = MetricSink(
        MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("t"),
        long_lived=False,
        exemplar_filter="always_off",
    )
    seen: list[HistogramDataPoint] = []
    for number in range(2):
        sink.closed(record("lint", 0.25, Result.SUCCESS, number))
        data = sink.collect(AggregationTemporality.DELTA)[0].data
        assert isinstance(data, metrics_data.Histogram)
        seen.extend(data.data_points)
    assert seen[1].start_time_unix_nano == seen[0].time_unix_nano
    assert sink.collect(AggregationTemporality.DELTA) == []
