"""Collections of our own meter equal those of the SDK."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

from spanbus._correlation.span_state import SpanState
from spanbus._delivery.metric_reader import SpoolMetricReader
from spanbus._delivery.metric_settings import temporalities
from spanbus._otlp.encode_metrics import encode_metrics
from spanbus._otlp.metrics_data import CUMULATIVE, Sum
from spanbus._otlp.resource import PlainResource
from spanbus._semantics import Failure, Level, Result, names
from spanbus._telemetry.meter import PlainMeter, PlainReader
from spanbus._telemetry.metrics import MetricSink, observe_numbers
from spanbus._telemetry.spans import SCOPE


def ended(level: Level, name: str, result: Result, number: int) -> SpanState:
    record = SpanState(
        level,
        name,
        run_id="r",
        workflow="w",
        trace_id=7,
        span_id=number,
        started_at_ns=1_000,
    )
    record.result, record.ended_at_ns = result, 2_000 + number
    if result.failed:
        record.failure = Failure("unsuccessful")
    return record


def told(body: bytes) -> list[tuple[object, ...]]:
    """Return everything but the timestamps."""
    found: list[tuple[object, ...]] = []
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
        assert resource["service.name"] == "s"
        for scope in group.scope_metrics:
            assert (scope.scope.name, scope.schema_url) == (names.SCOPE, names.SCHEMA_URL)
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind or "")
                for point in data.data_points:
                    attributes = {pair.key: pair.value.string_value for pair in point.attributes}
                    number = point.count if kind == "histogram" else (point.as_int, point.as_double)
                    temporality = getattr(data, "aggregation_temporality", None)
                    monotonic = getattr(data, "is_monotonic", None)
                    found.append(
                        (
                            metric.name,
                            metric.unit,
                            metric.description,
                            kind,
                            temporality,
                            monotonic,
                            sorted(attributes.items()),
                            number,
                        )
                    )
    return sorted(found, key=str)


def test_two_collections_of_a_one_shot_process_equal_those_of_the_sdk() -> None:
    theirs: list[bytes] = []
    ours: list[bytes] = []
    reader = SpoolMetricReader(lambda data, _: theirs.append(encode_metrics(data)), "run", {})
    provider = MeterProvider(
        [reader], resource=Resource({"service.name": "s"}), shutdown_on_exit=False
    )
    meter = provider.get_meter(SCOPE.name, SCOPE.version, SCOPE.schema_url)
    plain = MetricSink(meter, long_lived=False)
    own = PlainMeter()
    counted = MetricSink(own, long_lived=False, exemplar_filter="always_off")
    one_shot = PlainReader(
        own,
        counted,
        lambda data, _: ours.append(encode_metrics(data)),
        PlainResource({"service.name": "s"}),
        SCOPE,
        60.0,
    )
    numbers = {
        names.DELIVERY_SPOOLED: [({"signal": "traces"}, 5)],
        names.DELIVERY_SPOOL_SIZE: [({}, 9)],
    }
    for each in (meter, own):
        observe_numbers(each, "spanbus.delivery.", lambda: numbers)
    for turn, result in enumerate((Result.SUCCESS, Result.FAILURE)):
        for level, name in ((Level.PHASE, "p"), (Level.RUN, "w")):
            for sink in (plain, counted):
                sink.closed(ended(level, name, result, turn + 1))
        reader.export_now()
        one_shot.export_now()
        assert told(ours[-1]) == told(theirs[-1])
        assert told(ours[-1])
        numbers[names.DELIVERY_SPOOLED] = [({"signal": "traces"}, 8)]
    provider.shutdown()


@pytest.mark.parametrize("preference", ["cumulative", "delta", "lowmemory"])
def test_collections_of_a_service_equal_those_of_the_sdk(preference: str) -> None:
    """Compare the collections of the SDK's meter provider with those of our own meter."""
    env = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference}
    found: dict[str, list[bytes]] = {"theirs": [], "ours": []}
    reader = SpoolMetricReader(
        lambda data, _: found["theirs"].append(encode_metrics(data)), "service", env
    )
    provider = MeterProvider(
        [reader], resource=Resource({"service.name": "s"}), shutdown_on_exit=False
    )
    meter = provider.get_meter(SCOPE.name, SCOPE.version, SCOPE.schema_url)
    said = temporalities("service", env)
    own = PlainMeter(said.counters)
    counted = MetricSink(own, long_lived=True, exemplar_filter="always_off")
    plain = PlainReader(
        own,
        counted,
        lambda data, _: found["ours"].append(encode_metrics(data)),
        PlainResource({"service.name": "s"}),
        SCOPE,
        60.0,
        durations=said.durations,
    )
    sinks = [MetricSink(meter, long_lived=True), counted]
    numbers = {
        names.DELIVERY_SPOOLED: [({"signal": "traces"}, 5)],
        names.DELIVERY_SPOOL_SIZE: [({}, 9)],
    }
    for each in (meter, own):
        observe_numbers(each, "spanbus.delivery.", lambda: numbers)
    for turn, result in enumerate((Result.SUCCESS, Result.FAILURE, Result.FAILURE)):
        for level, name in ((Level.RUN, "w"), (Level.PHASE, "p")):
            record = ended(level, name, result, turn + 1)
            for sink in sinks:
                sink.opened(record)
                if turn < 2 or level is Level.PHASE:  # the last run goes on
                    sink.closed(record)
        reader.export_now()
        plain.export_now()
        assert told(found["ours"][-1]) == told(found["theirs"][-1])
        assert len(told(found["ours"][-1])) > 8
        numbers[names.DELIVERY_SPOOLED] = [({"signal": "traces"}, 8 + turn)]
    provider.shutdown()


def test_a_cumulative_counter_starts_with_its_meter() -> None:
    meter = PlainMeter(CUMULATIVE)
    metric = next(each for each in names.METRICS if each.name == names.PHASE_FAILURES)
    values = iter((2, 5))
    meter.observe(metric, lambda: [(next(values), {"a": "b"})])
    points = []
    for _ in range(2):
        [collected] = meter.collect()
        assert isinstance(collected.data, Sum) and collected.data.is_monotonic
        points += collected.data.data_points
    assert [point.value for point in points] == [2, 5]
    assert points[0].start_time_unix_nano == points[1].start_time_unix_nano
