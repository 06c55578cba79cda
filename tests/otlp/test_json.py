"""OTLP JSON: the document that protobuf's own mapping gives, with the ids in hexadecimal; read back it is the same message."""

from __future__ import annotations

import base64
import json
from typing import cast

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import (
    ResourceSpans,
    ScopeSpans,
    Span,
    Status,
    TracesData,
)
from thorough import examples

from spanbus._otlp import json as otlp_json

_texts = st.text(max_size=6)
_numbers = st.integers(0, 2**32 - 1)
_times = st.one_of(st.just(0), st.integers(0, 2**64 - 1))


def _several(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    return st.one_of(
        st.lists(inner, max_size=2).map(
            lambda found: AnyValue(array_value=ArrayValue(values=found))
        ),
        st.lists(st.builds(KeyValue, key=_texts, value=inner), max_size=2).map(
            lambda found: AnyValue(kvlist_value=KeyValueList(values=found))
        ),
    )


_values = st.recursive(
    st.one_of(
        st.just(AnyValue()),
        _texts.map(lambda text: AnyValue(string_value=text)),
        st.integers(-(2**63), 2**63 - 1).map(lambda number: AnyValue(int_value=number)),
        st.booleans().map(lambda flag: AnyValue(bool_value=flag)),
        st.floats().map(lambda number: AnyValue(double_value=number)),
        st.sampled_from([0.0, 1.0, 1e300, 5e-324]).map(
            lambda number: AnyValue(double_value=number)
        ),
        st.binary(max_size=5).map(lambda data: AnyValue(bytes_value=data)),
    ),
    _several,
    max_leaves=4,
)
_attributes = st.lists(
    st.one_of(st.builds(KeyValue, key=_texts, value=_values), st.builds(KeyValue, key=_texts)),
    max_size=3,
)
_ids = st.one_of(st.just(b""), st.binary(min_size=8, max_size=16))
_spans = st.builds(
    Span,
    trace_id=_ids,
    span_id=_ids,
    trace_state=_texts,
    parent_span_id=_ids,
    flags=_numbers,
    name=_texts,
    kind=st.integers(0, 5),
    start_time_unix_nano=_times,
    end_time_unix_nano=_times,
    attributes=_attributes,
    dropped_attributes_count=_numbers,
    events=st.lists(
        st.builds(
            Span.Event,
            time_unix_nano=_times,
            name=_texts,
            attributes=_attributes,
            dropped_attributes_count=_numbers,
        ),
        max_size=2,
    ),
    dropped_events_count=_numbers,
    links=st.lists(
        st.builds(
            Span.Link,
            trace_id=_ids,
            span_id=_ids,
            trace_state=_texts,
            attributes=_attributes,
            dropped_attributes_count=_numbers,
            flags=_numbers,
        ),
        max_size=2,
    ),
    dropped_links_count=_numbers,
    status=st.one_of(st.none(), st.builds(Status, message=_texts, code=st.integers(0, 2))),
)


IDS = ("traceId", "spanId", "parentSpanId")


def by_protobuf(message: Message) -> object:
    """The document of protobuf's own mapping, which has base64 for every field of bytes."""

    def with_hexadecimal_ids(value: object) -> object:
        if isinstance(value, list):
            return [with_hexadecimal_ids(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            name: base64.b64decode(cast("str", of)).hex()
            if name in IDS
            else with_hexadecimal_ids(of)
            for name, of in value.items()
        }

    return with_hexadecimal_ids(json_format.MessageToDict(message, use_integers_for_enums=True))


@settings(max_examples=examples(150), deadline=None)
@given(_spans)
def test_a_span_is_written_as_protobuf_maps_it(span: Span) -> None:
    written = otlp_json.write(span)
    assert json.dumps(written, sort_keys=True) == json.dumps(by_protobuf(span), sort_keys=True)


@pytest.mark.parametrize("kind", [ExportMetricsServiceRequest, ExportLogsServiceRequest])
def test_metrics_and_logs_are_written_as_protobuf_maps_them(
    kind: type[ExportMetricsServiceRequest | ExportLogsServiceRequest],
) -> None:
    message = filled(kind())
    assert message.ByteSize() > 200
    written = otlp_json.write(message)
    assert json.dumps(written, sort_keys=True) == json.dumps(by_protobuf(message), sort_keys=True)
    assert otlp_json.read(json.dumps(written).encode(), kind()) == message


_VALUES: dict[int, object] = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    FieldDescriptor.CPPTYPE_INT32: -7,
    FieldDescriptor.CPPTYPE_UINT32: 7,
    FieldDescriptor.CPPTYPE_INT64: -(2**62),
    FieldDescriptor.CPPTYPE_UINT64: 2**63,
    FieldDescriptor.CPPTYPE_ENUM: 2,
}


def filled(message: Message, alternative: str | None = None, depth: int = 12) -> Message:
    """Every field with a value that is not its default, those within included; a list has a message for each alternative."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and alternative not in (None, field.name):
            continue
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            within = getattr(message, field.name)
            alternatives = [
                each.name for group in field.message_type.oneofs for each in group.fields
            ] or [None]
            if not depth:
                continue
            if isinstance(within, Message):
                filled(within, alternatives[0], depth - 1)
            else:
                for each in alternatives:
                    filled(within.add(), each, depth - 1)
            continue
        value = _VALUES.get(field.cpp_type, "text")
        if field.type == FieldDescriptor.TYPE_BYTES:
            value = b"\x01\xff" * 4
        try:
            setattr(message, field.name, value)
        except (AttributeError, TypeError):  # a list
            getattr(message, field.name).append(value)
    return message


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.lists(_spans, max_size=2), max_size=3))
def test_what_is_written_span_by_span_is_the_whole_document(groups: list[list[Span]]) -> None:
    resources = [
        ResourceSpans(schema_url=f"https://schema.example/{number}", scope_spans=[ScopeSpans()])
        for number in range(len(groups))
    ]
    text = "".join(otlp_json.pieces(zip(resources, groups, strict=True)))
    for resource, spans in zip(resources, groups, strict=True):
        resource.scope_spans[0].spans.extend(spans)
    whole = TracesData(resource_spans=resources)
    expected = cast("dict[str, object]", by_protobuf(whole))
    for group in cast(
        "list[dict[str, list[dict[str, object]]]]", expected.setdefault("resourceSpans", [])
    ):
        group["scopeSpans"][0].setdefault("spans", [])  # an empty list is nothing to protobuf
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps(expected, sort_keys=True)
