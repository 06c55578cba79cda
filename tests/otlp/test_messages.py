"""What is read without protobuf is what protobuf reads, or protobuf is asked."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from spanbus._otlp.messages import MESSAGES, MOST_BYTES, Message, NotCovered, read

BY_NAME: dict[str, Any] = {
    "ExportTraceServiceRequest": ExportTraceServiceRequest,
    "ExportMetricsServiceRequest": ExportMetricsServiceRequest,
}


def same(ours: Message, theirs: Any, kind: str) -> None:
    """Every field that is known, down to the leaves, and the bytes."""
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )
    for name, what in MESSAGES[kind].values():
        if what == "?":
            continue
        mine, other = getattr(ours, name), getattr(theirs, name)
        inner = what.rstrip("*")
        if inner not in MESSAGES:
            assert (
                (list(mine), list(other))[0] == list(other) if what.endswith("*") else mine == other
            )
        elif what.endswith("*"):
            assert len(mine) == len(other)
            for one, another in zip(mine, other, strict=True):
                same(one, another, inner)
        elif theirs.HasField(name):
            same(mine, other, inner)


values = st.recursive(
    st.builds(lambda x: AnyValue(string_value=x), st.text(max_size=200))
    | st.builds(lambda x: AnyValue(bool_value=x), st.booleans())
    | st.builds(lambda x: AnyValue(int_value=x), st.integers(-(2**63), 2**63 - 1))
    | st.builds(lambda x: AnyValue(double_value=x), st.floats(allow_nan=False))
    | st.builds(lambda x: AnyValue(bytes_value=x), st.binary(max_size=20)),
    lambda inner: st.builds(
        lambda items: AnyValue(array_value={"values": items}), st.lists(inner, max_size=3)
    ),
    max_leaves=5,
)
pairs = st.lists(
    st.builds(lambda k, v: KeyValue(key=k, value=v), st.text(min_size=1), values), max_size=4
)
big = st.integers(0, 2**64 - 1)


@st.composite
def traces(draw: st.DrawFn) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_spans.add(schema_url=draw(st.text(max_size=5)))
        group.resource.attributes.extend(draw(pairs))
        scope = group.scope_spans.add(schema_url=draw(st.text(max_size=5)))
        scope.scope.name = draw(st.text(max_size=5))
        for _ in range(draw(st.integers(0, 3))):
            span = scope.spans.add(
                trace_id=draw(st.binary(min_size=16, max_size=16)),
                span_id=draw(st.binary(min_size=8, max_size=8)),
                name=draw(st.text(max_size=300)),
                kind=draw(st.integers(0, 5)),  # type: ignore[arg-type]
                start_time_unix_nano=draw(big),
                end_time_unix_nano=draw(big),
            )
            span.attributes.extend(draw(pairs))
            span.events.add(name="an event", time_unix_nano=1)
            span.status.message = "what is not read is kept"
    return request


@st.composite
def measured(draw: st.DrawFn) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(draw(pairs))
    scope = group.scope_metrics.add()
    number, at = st.floats(allow_nan=False), draw(big)
    counter = scope.metrics.add(name="c", unit="1", description=draw(st.text(max_size=5)))
    counter.sum.aggregation_temporality = draw(st.integers(0, 2))  # type: ignore[assignment]
    counter.sum.is_monotonic = draw(st.booleans())
    counter.sum.data_points.add(as_double=draw(number), time_unix_nano=at).attributes.extend(
        draw(pairs)
    )
    counter.sum.data_points.add(as_int=draw(st.integers(-(2**63), 2**63 - 1)), time_unix_nano=at)
    gauge = scope.metrics.add(name="g")
    gauge.gauge.data_points.add(as_double=draw(number))
    histogram = scope.metrics.add(name="h", unit="s")
    point = histogram.histogram.data_points.add(
        count=draw(big),
        sum=draw(number),
        bucket_counts=draw(st.lists(big, max_size=4)),
        explicit_bounds=draw(st.lists(number, max_size=4)),
        min=1.0,
    )
    point.exemplars.add(as_double=draw(number), trace_id=b"t" * 16, span_id=b"s" * 8)
    return request


@given(traces() | measured())
def test_small_requests_are_read_as_protobuf_reads_them(request: Protobuf) -> None:
    kind = type(request).__name__
    body = request.SerializeToString(deterministic=True)
    if len(body) <= MOST_BYTES:
        same(read(kind, body), BY_NAME[kind].FromString(body), kind)


@pytest.mark.parametrize("body", [b"\0\0\0\0", b"\x80\x80\x80\x80\x10\0"])
def test_a_number_that_no_field_has_is_left_to_protobuf(body: bytes) -> None:
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(body)
    with pytest.raises(NotCovered):
        read("ExportTraceServiceRequest", body)


def test_which_of_a_group_was_sent_is_told() -> None:
    for value in (
        AnyValue(string_value=""),
        AnyValue(bool_value=False),
        AnyValue(int_value=-1),
        AnyValue(),
    ):
        ours = read("AnyValue", value.SerializeToString())
        assert ours.WhichOneof("value") == value.WhichOneof("value")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_left_to_protobuf(body: bytes) -> None:
    kind = "ExportTraceServiceRequest"
    try:
        ours = read(kind, body)
    except NotCovered:
        return
    same(ours, BY_NAME[kind].FromString(body), kind)


def test_what_is_large_unknown_or_out_of_order_is_left_to_protobuf() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="e")
    metric.exponential_histogram.data_points.add(count=1)
    large = ExportTraceServiceRequest()
    large.resource_spans.add(schema_url="x" * MOST_BYTES)
    for kind, body in (
        ("ExportMetricsServiceRequest", request.SerializeToString()),
        ("ExportTraceServiceRequest", large.SerializeToString()),
        ("KeyValue", b"\x12\x00\x0a\x01k"),
    ):
        with pytest.raises(NotCovered):
            read(kind, body)
