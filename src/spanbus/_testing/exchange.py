"""A received request, and the answer to give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_SIGNAL_OF_PATH = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}
_GRPC_PREFIX = "/opentelemetry.proto.collector."
_SIGNAL_OF_METHOD = {
    f"{_GRPC_PREFIX}trace.v1.TraceService/Export": "traces",
    f"{_GRPC_PREFIX}metrics.v1.MetricsService/Export": "metrics",
    f"{_GRPC_PREFIX}logs.v1.LogsService/Export": "logs",
}
_METRIC_KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of the receiver to a request. 200 accepts the records; any other status accepts none.

    ``how``: ``reply`` answers; ``hang`` reads the request and never answers; ``reset`` reads it and resets the connection;
    ``half`` sends half of the answer and resets the connection; ``deaf`` accepts the connection and never reads.
    """

    status: int = 200
    message: str = ""
    rejected: int = 0
    """Rejected records of a partial success."""
    retry_after_s: float | str | None = None
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    """Body to send instead of the regular one."""
    how: Literal["reply", "hang", "reset", "half", "deaf"] = "reply"
    largest_bytes: int | None = None
    """Larger bodies (decompressed) get a 413 instead."""

    @classmethod
    def hang(cls) -> Answer:
        return cls(how="hang")

    @classmethod
    def reset(cls) -> Answer:
        return cls(how="reset")


@dataclass(frozen=True, slots=True)
class Received:
    """One received request. ``status`` is the status of its answer, 0 without an answer."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    sent: bytes
    """The body as sent."""
    body: bytes
    """The body, decompressed."""
    status: int
    at_ns: int

    @property
    def signal(self) -> str:
        """``traces``, ``metrics`` or ``logs``; empty for any other path."""
        found = _SIGNAL_OF_METHOD.get(self.path)
        if found is None:
            found = next(
                (
                    signal
                    for path, signal in _SIGNAL_OF_PATH.items()
                    if self.path.split("?")[0].endswith(path)
                ),
                "",
            )
        return found

    @property
    def taken(self) -> bool:
        return self.status == 200

    def readable(self) -> bool:
        """Whether the body is the OTLP request of the path; always true for other paths."""
        try:
            for decode in (self.spans, self.metrics, self.logs):
                decode()
        except DecodeError:
            return False
        return True

    def spans(self) -> list[Span]:
        """Decoded; empty for other signals."""
        return [span for _, span in self.spans_with_resource()]

    def spans_with_resource(self) -> list[tuple[Resource, Span]]:
        if self.signal != "traces":
            return []
        request = ExportTraceServiceRequest.FromString(self.body)
        return [
            (group.resource, span)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> list[Metric]:
        """Decoded; empty for other signals."""
        if self.signal != "metrics":
            return []
        request = ExportMetricsServiceRequest.FromString(self.body)
        return [
            metric
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
        ]

    def points(self) -> int:
        """Number of metric points."""
        return sum(
            len(getattr(metric, kind).data_points)
            for metric in self.metrics()
            for kind in _METRIC_KINDS
            if metric.HasField(kind)
        )

    def logs(self) -> list[LogRecord]:
        """Decoded; empty for other signals."""
        if self.signal != "logs":
            return []
        request = ExportLogsServiceRequest.FromString(self.body)
        return [
            record
            for group in request.resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]
