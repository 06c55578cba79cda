"""Telemetry at the collector: spans with their recording process, and sums of metrics over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from spanbus.testing import Receiver

PROCESS = "demo.process"
"""The resource attribute that distinguishes the demo's processes."""
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


class Told(NamedTuple):
    """One received span."""

    span_id: str
    parent_id: str
    trace_id: str
    name: str
    level: str
    result: str
    wait_s: float | None
    begin_ns: int
    end_ns: int
    by: str


def spans(collector: Receiver) -> list[Told]:
    """Every received span, doubles included."""
    found: list[Told] = []
    for request in collector.taken("traces"):
        for group in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            by = str(_values(group.resource.attributes).get(PROCESS, ""))
            for span in (span for scope in group.scope_spans for span in scope.spans):
                said = _values(span.attributes)
                result = said.get("cicd.pipeline.task.run.result") or said.get(
                    "cicd.pipeline.result"
                )
                wait = said.get("spanbus.queue.wait_s")
                found.append(
                    Told(
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.trace_id.hex(),
                        span.name,
                        str(said.get("spanbus.level", "")),
                        str(result or ""),
                        float(str(wait)) if wait is not None else None,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        by,
                    )
                )
    return found


def total(collector: Receiver, name: str) -> int:
    """A counter, or the count of a histogram, of all processes: the newest of each cumulative series, and every delta."""
    series: dict[str, int] = {}
    for request in collector.taken("metrics"):
        for group in ExportMetricsServiceRequest.FromString(request.body).resource_metrics:
            whose = repr(sorted(_values(group.resource.attributes).items(), key=repr))
            for metric in (each for scope in group.scope_metrics for each in scope.metrics):
                if metric.name != name:
                    continue
                if metric.HasField("histogram"):
                    kind = metric.histogram.aggregation_temporality
                    points = [(one.attributes, one.count) for one in metric.histogram.data_points]
                else:
                    kind = metric.sum.aggregation_temporality
                    points = [(one.attributes, one.as_int) for one in metric.sum.data_points]
                for attributes, value in points:
                    key = whose + repr(sorted(_values(attributes).items(), key=repr))
                    before = 0 if kind == _CUMULATIVE else series.get(key, 0)
                    series[key] = before + value
    return sum(series.values())


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }
