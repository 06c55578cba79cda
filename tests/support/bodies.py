"""Bodies of OTLP requests: runs as spanbus sends them, and metrics."""

from __future__ import annotations

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
SECOND_NS = 10**9
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def _add_attributes(span: Span, attributes: dict[str, str]) -> None:
    for key, value in attributes.items():
        span.attributes.add(key=key).value.string_value = value


def run_body(
    number: int = 1,
    *,
    workflow: str = "standard",
    result: str = "success",
    at_s: float = 0.0,
    phases: tuple[str, ...] = ("build", "tests"),
) -> bytes:
    """Return the trace request of the run ``run-N``, with one second for each phase."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "spanbus"
    spans = group.scope_spans.add().spans
    start_ns = START_NS + int(at_s * SECOND_NS)
    trace_id, top = number.to_bytes(16, "big"), (number * 1_000).to_bytes(8, "big")
    names = {"cicd.pipeline.name": workflow, "cicd.pipeline.run.id": f"run-{number}"}
    span = spans.add(
        trace_id=trace_id,
        span_id=top,
        name=f"RUN {workflow}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + max(1, len(phases)) * SECOND_NS,
    )
    _add_attributes(
        span,
        names
        | {"spanbus.level": "run", "cicd.pipeline.result": result}
        | ({"error.type": "unsuccessful"} if result == "failure" else {}),
    )
    for at, phase in enumerate(phases):
        span = spans.add(
            trace_id=trace_id,
            span_id=(number * 1_000 + at + 1).to_bytes(8, "big"),
            parent_span_id=top,
            name=phase,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=start_ns + at * SECOND_NS,
            end_time_unix_nano=start_ns + (at + 1) * SECOND_NS,
        )
        _add_attributes(
            span,
            names
            | {
                "spanbus.level": "phase",
                "cicd.pipeline.task.name": phase,
                "cicd.pipeline.task.run.result": result,
            },
        )
    return request.SerializeToString()


def metrics_body(
    value: float,
    *,
    temporality: AggregationTemporality.ValueType = DELTA,
    lifetime: str = "run",
    instance: str = "one",
    at_s: float = 1.0,
) -> bytes:
    """Return a metrics request with one counter and one histogram."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    for key, text in {
        "service.name": "spanbus",
        "service.instance.id": instance,
        "spanbus.lifetime": lifetime,
    }.items():
        group.resource.attributes.add(key=key).value.string_value = text
    scope = group.scope_metrics.add()
    at_ns = START_NS + int(at_s * SECOND_NS)
    counter = scope.metrics.add(name="spanbus.phase.failures", unit="{failure}")
    counter.sum.is_monotonic, counter.sum.aggregation_temporality = True, temporality
    point = counter.sum.data_points.add(as_int=int(value), time_unix_nano=at_ns)
    point.attributes.add(key="cicd.pipeline.name").value.string_value = "standard"
    histogram = scope.metrics.add(name="spanbus.phase.duration", unit="s")
    histogram.histogram.aggregation_temporality = temporality
    histogram.histogram.data_points.add(
        count=2,
        sum=value,
        explicit_bounds=[1.0, 10.0],
        bucket_counts=[1, 1, 0],
        time_unix_nano=at_ns,
    )
    return request.SerializeToString()
