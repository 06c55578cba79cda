"""Parsing of a collector's answers: the messages of the generated classes are read, other bytes are ignored."""

from __future__ import annotations

import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from spanbus._delivery.answers import (
    PartialSuccess,
    error_message,
    partial_success,
    retry_after_s,
    retry_delay_s,
)


@given(st.integers(0, 2**63 - 1), st.text("abc xyz", max_size=50))
def test_partial_success_of_each_signal(rejected: int, message: str) -> None:
    traces, metrics, logs = (
        ExportTraceServiceResponse(),
        ExportMetricsServiceResponse(),
        ExportLogsServiceResponse(),
    )
    traces.partial_success.rejected_spans = rejected
    metrics.partial_success.rejected_data_points = rejected
    logs.partial_success.rejected_log_records = rejected
    for response in (traces, metrics, logs):
        response.partial_success.error_message = message
        assert partial_success(response.SerializeToString()) == PartialSuccess(
            rejected, " ".join(message.split())
        )


def test_a_negative_rejected_count_is_zero() -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = -1
    assert partial_success(response.SerializeToString()) == PartialSuccess()


@given(
    st.binary(max_size=200),
    st.sampled_from(["application/x-protobuf", "application/json", "text/plain", ""]),
)
def test_any_bytes_are_read_without_an_error(body: bytes, content_type: str) -> None:
    found = partial_success(body, content_type)
    assert found.rejected >= 0
    assert "\n" not in error_message(body, content_type)
    delay_s = retry_delay_s(body)
    assert delay_s is None or delay_s >= 0


@given(st.integers(0, 10_000), st.integers(0, 999_999_999))
def test_retry_info_is_found_among_other_details(seconds: int, nanos: int) -> None:
    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = seconds, nanos
    status = Status(code=14, message="busy")
    status.details.add().Pack(BadRequest())
    status.details.add().Pack(info)
    assert retry_delay_s(status.SerializeToString()) == pytest.approx(seconds + nanos / 1e9)


def test_no_retry_info() -> None:
    assert retry_delay_s(Status(code=14, message="busy").SerializeToString()) is None


def test_message_of_a_status_and_of_a_text() -> None:
    assert (
        error_message(
            Status(code=3, message="bad\n thing").SerializeToString(), "application/x-protobuf"
        )
        == "bad thing"
    )
    assert error_message(b'{"code":3,"message":"bad"}', "application/json") == "bad"
    assert error_message(b"plain\x1b[31m text", "text/plain; charset=utf-8") == "plain [31m text"
    assert error_message(b"<html>", "text/html") == ""


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("-3", 0.0),
        ("x", None),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 60.0),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, 0.0) == expected
