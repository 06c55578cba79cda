"""Test trace, test metric points and test log record, which no workflow metric counts.

All carry ``service.name=spanbus-doctor``. The points belong to a separate counter and imitate one-shot processes: delta
temporality, a different instance id each, clocks that disagree. Their sum shows whether the collector accumulates
one-shot processes correctly.
"""

from __future__ import annotations

import os
import time

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._named_tuple import NamedTuple
from spanbus._semantics import names
from spanbus._version import __version__

POINTS = 3
"""Number of simulated processes; each counts 1."""

_CLOCKS_S = (0, -20, 20)


class TraceProbe(NamedTuple):
    """A test trace; ``body`` is the export request."""

    trace_id: str
    body: bytes


class PointProbes(NamedTuple):
    """One export request for each simulated process; ``instances`` are their ids, which must not become labels."""

    instances: tuple[str, ...]
    bodies: tuple[bytes, ...]


def trace_probe() -> TraceProbe:
    trace_id, now_ns = os.urandom(16), time.time_ns()
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(resource=_resource(), schema_url=names.SCHEMA_URL)
    group.scope_spans.add(scope=_scope()).spans.add(
        trace_id=trace_id,
        span_id=os.urandom(8),
        name=names.DOCTOR_SPAN,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=now_ns - 1_000_000,
        end_time_unix_nano=now_ns,
    )
    return TraceProbe(trace_id.hex(), request.SerializeToString())


def point_probes() -> PointProbes:
    instances = tuple(os.urandom(8).hex() for _ in _CLOCKS_S)
    now_ns = time.time_ns()
    return PointProbes(
        instances,
        tuple(
            _point(instance, now_ns + clock_s * 10**9)
            for instance, clock_s in zip(instances, _CLOCKS_S, strict=True)
        ),
    )


def _point(instance: str, now_ns: int) -> bytes:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add(
        resource=_resource(**{"service.instance.id": instance, names.LIFETIME: "run"}),
        schema_url=names.SCHEMA_URL,
    )
    metric = group.scope_metrics.add(scope=_scope()).metrics.add(
        name=names.DOCTOR_POINTS, unit="{point}", description="Test points of spanbus doctor."
    )
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    metric.sum.data_points.add(
        start_time_unix_nano=now_ns - 1_000_000, time_unix_nano=now_ns, as_int=1
    )
    return request.SerializeToString()


def log_probe() -> bytes:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add(resource=_resource(), schema_url=names.SCHEMA_URL)
    group.scope_logs.add(scope=_scope()).log_records.add(
        time_unix_nano=time.time_ns(),
        severity_text="INFO",
        severity_number=9,
        body=AnyValue(string_value=names.DOCTOR_SPAN),  # type: ignore[arg-type]
    )
    return request.SerializeToString()


def _resource(**more: str) -> Resource:
    attributes = {"service.name": names.DOCTOR_SERVICE, **more}
    return Resource(
        attributes=[
            KeyValue(key=key, value=AnyValue(string_value=value))
            for key, value in attributes.items()
        ]
    )


def _scope() -> InstrumentationScope:
    return InstrumentationScope(name=names.SCOPE, version=__version__)
