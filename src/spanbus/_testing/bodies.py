"""Encoding of answers."""

from __future__ import annotations

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from spanbus._testing.exchange import Answer

PROTOBUF = "application/x-protobuf"


def success(signal: str, answer: Answer) -> bytes:
    """Export response of a signal, with its partial success."""
    message: Message
    if signal == "metrics":
        metrics = ExportMetricsServiceResponse()
        metrics.partial_success.rejected_data_points = answer.rejected
        metrics.partial_success.error_message = answer.message
        message = metrics
    elif signal == "logs":
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = answer.rejected
        logs.partial_success.error_message = answer.message
        message = logs
    else:
        traces = ExportTraceServiceResponse()
        traces.partial_success.rejected_spans = answer.rejected
        traces.partial_success.error_message = answer.message
        message = traces
    return message.SerializeToString() if answer.rejected or answer.message else b""


def retry_info(answer: Answer, code: int) -> bytes:
    """Status details with a retry delay."""
    from google.rpc.error_details_pb2 import RetryInfo

    seconds = float(answer.retry_after_s or 0)
    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = int(seconds), int(seconds % 1 * 1e9)
    status = Status(code=code, message=answer.message)
    status.details.add().Pack(info)
    return status.SerializeToString()


def http_reply(signal: str, answer: Answer) -> bytes:
    """Whole HTTP response: status line, headers, body."""
    body = answer.body
    if body is None:
        body = (
            success(signal, answer)
            if answer.status == 200
            else Status(message=answer.message).SerializeToString()
        )
    headers = {"Content-Type": PROTOBUF, "Content-Length": str(len(body)), **answer.headers}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {answer.status} {'OK' if answer.status == 200 else 'NO'}\r\n{head}\r\n".encode(
            "latin-1"
        )
        + body
    )
