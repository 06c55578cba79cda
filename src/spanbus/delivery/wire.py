"""Spans and log records straight to OTLP protobuf bytes (OTLP 1.x, opentelemetry-proto).

A span is encoded once; a batch is joined bytes. What decodes from it is what decodes from the SDK's encoder, with two exceptions: integers beyond 64 bits,
which the SDK leaves out, are written as text, and text that is not Unicode has replacement characters instead of failing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from opentelemetry.trace import SpanKind, StatusCode

from spanbus.delivery.signals import Signal
from spanbus.otlp import VARINTS, any_value, attributes, field, string, utf8, varint

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status

_F64 = struct.Struct("<Q").pack
_F32 = struct.Struct("<I").pack
_TIMES = struct.Struct("<BBBQBQ").pack
_MOMENT = struct.Struct("<BQB").pack
_IDS = struct.Struct("<BB16sBB8s").pack
_LENGTHS = struct.Struct("<IIII")

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_NO_STATUS = b"\x7a\x00"
_NOT_REMOTE = b"\x85\x01" + _F32(_HAS_IS_REMOTE)
_REMOTE = b"\x85\x01" + _F32(_HAS_IS_REMOTE | _IS_REMOTE)
_UNSET = StatusCode.UNSET
_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3, SpanKind.PRODUCER: 4, SpanKind.CONSUMER: 5}

# --- spans ------------------------------------------------------------------------------------------------------------


class _Event(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def attributes(self) -> Mapping[str, object] | None: ...
    @property
    def dropped_attributes(self) -> int: ...


class _Link(Protocol):
    @property
    def context(self) -> SpanContext: ...
    @property
    def attributes(self) -> Mapping[str, object] | None: ...
    @property
    def dropped_attributes(self) -> int: ...


class FinishedSpan(Protocol):
    """What is read of a span; the SDK's ReadableSpan has it."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> SpanContext | None: ...
    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def kind(self) -> SpanKind: ...
    @property
    def start_time(self) -> int | None: ...
    @property
    def end_time(self) -> int | None: ...
    @property
    def attributes(self) -> Mapping[str, object] | None: ...
    @property
    def events(self) -> Sequence[_Event]: ...
    @property
    def links(self) -> Sequence[_Link]: ...
    @property
    def status(self) -> Status: ...
    @property
    def resource(self) -> Resource: ...
    @property
    def instrumentation_scope(self) -> InstrumentationScope | None: ...
    @property
    def dropped_attributes(self) -> int: ...
    @property
    def dropped_events(self) -> int: ...
    @property
    def dropped_links(self) -> int: ...


def encode_span(span: FinishedSpan) -> bytes:
    """One ``Span`` message."""
    varints = VARINTS
    context, parent = span.context, span.parent
    assert context is not None
    name = utf8(span.name)
    state = context.trace_state
    parts = [
        _IDS(0x0A, 16, context.trace_id.to_bytes(16, "big"), 0x12, 8, context.span_id.to_bytes(8, "big")),
        string(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()])) if state else b"",
        b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent is not None else b"",
        b"\x2a", varint(len(name)), name, _TIMES(0x30, _KINDS[span.kind], 0x39, span.start_time or 0, 0x41, span.end_time or 0),
        attributes(b"\x4a", span.attributes),
    ]
    append = parts.append
    if span.dropped_attributes:
        append(b"\x50" + varint(span.dropped_attributes))
    for event in span.events:
        name = utf8(event.name)
        size = len(name)
        body = _MOMENT(0x09, event.timestamp, 0x12) + (varints[size] if size < 128 else varint(size)) + name + attributes(b"\x1a", event.attributes)
        if event.dropped_attributes:
            body += b"\x20" + varint(event.dropped_attributes)
        size = len(body)
        append(b"\x5a" + (varints[size] if size < 16_384 else varint(size)) + body)
    if span.dropped_events:
        append(b"\x60" + varint(span.dropped_events))
    for link in span.links:
        body = (
            b"\x0a\x10" + link.context.trace_id.to_bytes(16, "big") + b"\x12\x08" + link.context.span_id.to_bytes(8, "big")
            + attributes(b"\x22", link.attributes)
        )
        if link.dropped_attributes:
            body += b"\x28" + varint(link.dropped_attributes)
        append(field(b"\x6a", body + b"\x35" + _F32(_flags(link.context))))
    if span.dropped_links:
        append(b"\x70" + varint(span.dropped_links))
    status = span.status
    code = status.status_code
    if code is _UNSET and not status.description:
        append(_NO_STATUS)
    else:
        append(field(b"\x7a", string(b"\x12", status.description) + (b"\x18" + varints[code.value] if code.value else b"")))
    append(_REMOTE if parent is not None and parent.is_remote else _NOT_REMOTE)
    return b"".join(parts)


def trace_of(span: bytes) -> bytes:
    """The trace id in the bytes of a span that was encoded here: it stands first."""
    return span[2:18]


def _flags(context: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if context is not None and context.is_remote else _HAS_IS_REMOTE


# --- logs -------------------------------------------------------------------------------------------------------------


def encode_log(readable: ReadableLogRecord) -> bytes:
    """One ``LogRecord`` message."""
    record = readable.log_record
    parts: list[bytes] = []
    if record.timestamp:
        parts.append(b"\x09" + _F64(record.timestamp))
    if record.observed_timestamp:
        parts.append(b"\x59" + _F64(record.observed_timestamp))
    severity = getattr(record.severity_number, "value", None)
    if severity:
        parts.append(b"\x10" + varint(severity))
    parts.append(string(b"\x1a", record.severity_text))
    try:
        body = any_value(record.body)
    except TypeError:
        body = any_value(str(type(record.body).__name__))
    parts.append(field(b"\x2a", body))
    parts.append(attributes(b"\x32", record.attributes))
    if readable.dropped_attributes:
        parts.append(b"\x38" + varint(readable.dropped_attributes))
    if record.trace_flags:
        parts.append(b"\x45" + _F32(int(record.trace_flags)))
    if record.trace_id:
        parts.append(b"\x4a\x10" + record.trace_id.to_bytes(16, "big"))
    if record.span_id:
        parts.append(b"\x52\x08" + record.span_id.to_bytes(8, "big"))
    parts.append(string(b"\x62", record.event_name))
    return b"".join(parts)


# --- groups and batches -----------------------------------------------------------------------------------------------


def encode_group(resource: Resource, scope: InstrumentationScope | None) -> bytes:
    """The header that records are put with: resource and scope, encoded, with their schema URLs."""
    inner = b""
    if scope is not None:
        inner = string(b"\x0a", scope.name) + string(b"\x12", scope.version) + attributes(b"\x1a", scope.attributes)
    parts = (
        field(b"\x0a", attributes(b"\x0a", resource.attributes)), string(b"\x1a", resource.schema_url), field(b"\x0a", inner),
        string(b"\x1a", scope.schema_url if scope is not None else None),
    )
    return _LENGTHS.pack(*map(len, parts)) + b"".join(parts)


def resource_of(group: bytes) -> Resource | None:
    """The resource in such a header; None where there is none that can be read."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource as Message
    from opentelemetry.sdk.resources import Resource

    if not group:
        return None
    try:
        field, schema_url, _, _ = _split(group)
        found = Message.FromString(_without_lead(field))
        url = _without_lead(schema_url).decode() if schema_url else ""
    except (DecodeError, ValueError, IndexError):
        return None
    return Resource({pair.key: _plain(pair.value) for pair in found.attributes}, url or None)


def _without_lead(field: bytes) -> bytes:
    """What a length-delimited field with a tag of one byte holds."""
    begin = 1
    while field[begin] & 0x80:
        begin += 1
    return field[begin + 1:]


def _plain(value: AnyValue) -> str | bool | int | float | tuple[str, ...]:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(str(_plain(item)) for item in value.array_value.values)
    if kind == "bool_value":
        return value.bool_value
    if kind == "int_value":
        return value.int_value
    if kind == "double_value":
        return value.double_value
    return value.string_value


class _Record(Protocol):
    @property
    def group(self) -> bytes: ...

    @property
    def data(self) -> bytes: ...


def join(signal: Signal, records: Iterable[_Record]) -> bytes:
    """One OTLP export request of records of one signal. Those of metrics are whole requests, which join by standing together."""
    if signal is Signal.METRICS:
        return b"".join([record.data for record in records])
    groups: dict[bytes, list[bytes]] = {}
    for record in records:
        parts = groups.get(record.group)
        if parts is None:
            parts = groups[record.group] = []
        data = record.data
        parts += (b"\x12", varint(len(data)), data)
    request: list[bytes] = []
    for group, parts in groups.items():
        resource, resource_schema, scope, scope_schema = _split(group)
        inner = scope + b"".join(parts) + scope_schema
        request.append(field(b"\x0a", resource + field(b"\x12", inner) + resource_schema))
    return b"".join(request)


def _split(group: bytes) -> list[bytes]:
    found: list[bytes] = []
    if len(group) < _LENGTHS.size:
        return [b"\x0a\x00", b"", b"\x0a\x00", b""]
    begin = _LENGTHS.size
    for size in _LENGTHS.unpack_from(group, 0):
        found.append(group[begin: begin + size])
        begin += size
    return found
