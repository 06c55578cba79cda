"""Spans, metric points and log records straight to OTLP protobuf bytes.

Building protobuf messages from Python objects costs far more than the bytes themselves, so the wire format is written
directly (https://protobuf.dev/programming-guides/encoding/; OTLP 1.x, opentelemetry-proto). A span is encoded once; a batch
is joined bytes. What decodes from it is what decodes from the SDK's encoder, with two exceptions: integers beyond 64 bits,
which the SDK leaves out, are written as text, and text that is not Unicode has replacement characters instead of failing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from opentelemetry.trace import SpanKind, StatusCode

from spanbus.delivery.signals import Signal

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status

_F64 = struct.Struct("<Q").pack
_I64 = struct.Struct("<q").pack
_F32 = struct.Struct("<I").pack
_DOUBLE = struct.Struct("<d").pack
_TIMES = struct.Struct("<BBBQBQ").pack
_MOMENT = struct.Struct("<BQB").pack
_IDS = struct.Struct("<BB16sBB8s").pack
_LENGTHS = struct.Struct("<IIII")

_KEYS_MOST = 2_000
_VALUES_PER_KEY = 64
_VALUE_LONGEST = 64
_KEY_LONGEST = 16_000
_NO_KEYS: dict[str, Any] = {}
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_NO_STATUS = b"\x7a\x00"
_NOT_REMOTE = b"\x85\x01" + _F32(_HAS_IS_REMOTE)
_REMOTE = b"\x85\x01" + _F32(_HAS_IS_REMOTE | _IS_REMOTE)
_UNSET = StatusCode.UNSET
_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3, SpanKind.PRODUCER: 4, SpanKind.CONSUMER: 5}

_VARINTS: tuple[bytes, ...] = tuple(
    bytes((number,)) if number < 128 else bytes((number & 0x7F | 0x80, number >> 7)) for number in range(16_384)
)


def varint(number: int) -> bytes:
    """A base-128 varint; negative numbers take ten bytes, as in protobuf."""
    if 0 <= number < 16_384:
        return _VARINTS[number]
    if number < 0:
        number += 1 << 64
    parts = bytearray()
    while number > 127:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _field(tag: bytes, data: bytes) -> bytes:
    """A length-delimited field."""
    size = len(data)
    return tag + (_VARINTS[size] if size < 16_384 else varint(size)) + data


def _text(tag: bytes, text: str | None) -> bytes:
    return _field(tag, _utf8(text)) if text else b""


# --- attributes -------------------------------------------------------------------------------------------------------

class _Key(NamedTuple):
    """One attribute key: encoded with the tag of the value behind it, the size of that, and the whole fields of texts that come again."""

    prefix: bytes
    size: int
    texts: dict[str, bytes]


_keys: dict[bytes, dict[str, _Key]] = {}
"""By the tag of the field that holds the attributes."""


def _key(tag: bytes, key: str) -> _Key:
    prefix = _field(b"\x0a", _utf8(key)) + b"\x12"
    entry = _Key(prefix, len(prefix), {})
    known = _keys.setdefault(tag, {})
    if len(known) < _KEYS_MOST:
        known[key] = entry
    return entry


def _value(value: object) -> bytes:
    """An AnyValue."""
    if isinstance(value, str):
        return _field(b"\x0a", _utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return b"\x18" + varint(value)
        return _field(b"\x0a", str(value).encode())
    if isinstance(value, float):
        return b"\x21" + _DOUBLE(value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return _field(b"\x3a", value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return _field(b"\x32", b"".join([_field(b"\x0a", _key_value(str(key), item)) for key, item in pairs]))
    if isinstance(value, Sequence):
        return _field(b"\x2a", b"".join([_field(b"\x0a", _value(item)) for item in cast("Sequence[object]", value)]))
    raise TypeError(f"{type(value).__name__} is no attribute value")


def _key_value(key: str, value: object) -> bytes:
    return _field(b"\x0a", _utf8(key)) + b"\x12" + _sized(_value(value))


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _attributes(tag: bytes, attributes: Mapping[str, object] | None) -> bytes:
    """Attributes as repeated fields; a value of a type that OTLP does not know is left out, as the SDK does."""
    if not attributes:
        return b""
    parts: list[bytes] = []
    append = parts.append
    known = _keys.get(tag, _NO_KEYS)
    varints = _VARINTS
    for key, value in attributes.items():
        try:
            prefix, length, texts = known[key]
        except KeyError:
            prefix, length, texts = _key(tag, key)
        kind = type(value) if length < _KEY_LONGEST else None
        if kind is str:
            text = cast("str", value)
            if text in texts:
                append(texts[text])
                continue
            try:
                encoded = text.encode()
            except UnicodeEncodeError:
                encoded = text.encode("utf-8", "replace")
            size = len(encoded)
            if size < 126:
                found = prefix + varints[size + 2] + b"\x0a" + varints[size] + encoded
                found = tag + varints[len(found)] + found
                if size <= _VALUE_LONGEST and len(texts) < _VALUES_PER_KEY:
                    texts[text] = found
            else:
                found = tag + _sized(prefix + _sized(b"\x0a" + varint(size) + encoded))
            append(found)
        elif kind is int and 0 <= (number := cast("int", value)) < 128:
            append(tag + varints[length + 3] + prefix + b"\x02\x18" + varints[number])
        elif kind is float:
            append(tag + varints[length + 10] + prefix + b"\x09\x21" + _DOUBLE(value))
        elif kind is bool:
            append(tag + varints[length + 3] + prefix + (b"\x02\x10\x01" if value else b"\x02\x10\x00"))
        else:
            try:
                append(tag + _sized(prefix + _sized(_value(value))))
            except (TypeError, ValueError, RecursionError):
                continue
    return b"".join(parts)


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
    varints = _VARINTS
    context, parent = span.context, span.parent
    assert context is not None
    name = _utf8(span.name)
    state = context.trace_state
    parts = [
        _IDS(0x0A, 16, context.trace_id.to_bytes(16, "big"), 0x12, 8, context.span_id.to_bytes(8, "big")),
        _text(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()])) if state else b"",
        b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent is not None else b"",
        b"\x2a", varint(len(name)), name, _TIMES(0x30, _KINDS[span.kind], 0x39, span.start_time or 0, 0x41, span.end_time or 0),
        _attributes(b"\x4a", span.attributes),
    ]
    append = parts.append
    if span.dropped_attributes:
        append(b"\x50" + varint(span.dropped_attributes))
    for event in span.events:
        name = _utf8(event.name)
        size = len(name)
        body = _MOMENT(0x09, event.timestamp, 0x12) + (varints[size] if size < 128 else varint(size)) + name + _attributes(b"\x1a", event.attributes)
        if event.dropped_attributes:
            body += b"\x20" + varint(event.dropped_attributes)
        size = len(body)
        append(b"\x5a" + (varints[size] if size < 16_384 else varint(size)) + body)
    if span.dropped_events:
        append(b"\x60" + varint(span.dropped_events))
    for link in span.links:
        body = (
            b"\x0a\x10" + link.context.trace_id.to_bytes(16, "big") + b"\x12\x08" + link.context.span_id.to_bytes(8, "big")
            + _attributes(b"\x22", link.attributes)
        )
        if link.dropped_attributes:
            body += b"\x28" + varint(link.dropped_attributes)
        append(_field(b"\x6a", body + b"\x35" + _F32(_flags(link.context))))
    if span.dropped_links:
        append(b"\x70" + varint(span.dropped_links))
    status = span.status
    code = status.status_code
    if code is _UNSET and not status.description:
        append(_NO_STATUS)
    else:
        append(_field(b"\x7a", _text(b"\x12", status.description) + (b"\x18" + varints[code.value] if code.value else b"")))
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
    parts.append(_text(b"\x1a", record.severity_text))
    try:
        body = _value(record.body)
    except TypeError:
        body = _value(str(type(record.body).__name__))
    parts.append(_field(b"\x2a", body))
    parts.append(_attributes(b"\x32", record.attributes))
    if readable.dropped_attributes:
        parts.append(b"\x38" + varint(readable.dropped_attributes))
    if record.trace_flags:
        parts.append(b"\x45" + _F32(int(record.trace_flags)))
    if record.trace_id:
        parts.append(b"\x4a\x10" + record.trace_id.to_bytes(16, "big"))
    if record.span_id:
        parts.append(b"\x52\x08" + record.span_id.to_bytes(8, "big"))
    parts.append(_text(b"\x62", record.event_name))
    return b"".join(parts)


# --- groups and batches -----------------------------------------------------------------------------------------------


def encode_group(resource: Resource, scope: InstrumentationScope | None) -> bytes:
    """The header that records are put with: resource and scope, encoded, with their schema URLs."""
    inner = b""
    if scope is not None:
        inner = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version) + _attributes(b"\x1a", scope.attributes)
    parts = (
        _field(b"\x0a", _attributes(b"\x0a", resource.attributes)), _text(b"\x1a", resource.schema_url), _field(b"\x0a", inner),
        _text(b"\x1a", scope.schema_url if scope is not None else None),
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
        request.append(_field(b"\x0a", resource + _field(b"\x12", inner) + resource_schema))
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


# --- metrics ----------------------------------------------------------------------------------------------------------


def encode_metrics(data: MetricsData) -> bytes:
    """A whole ``ExportMetricsServiceRequest``."""
    request: list[bytes] = []
    for resource_metrics in data.resource_metrics:
        resource = resource_metrics.resource
        body = [_field(b"\x0a", _attributes(b"\x0a", resource.attributes))]
        for scope_metrics in resource_metrics.scope_metrics:
            scope = scope_metrics.scope
            inner = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version) + _attributes(b"\x1a", scope.attributes)
            metrics = b"".join([_field(b"\x12", _metric(metric)) for metric in scope_metrics.metrics])
            body.append(_field(b"\x12", _field(b"\x0a", inner) + metrics + _text(b"\x1a", scope.schema_url)))
        body.append(_text(b"\x1a", resource.schema_url))
        request.append(_field(b"\x0a", b"".join(body)))
    return b"".join(request)


def count_points(data: MetricsData) -> int:
    """How many data points a collection holds."""
    return sum(
        len(metric.data.data_points) for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    )


def _metric(metric: Metric) -> bytes:
    from opentelemetry.sdk.metrics.export import ExponentialHistogram, Gauge, Histogram, Sum

    head = _text(b"\x0a", metric.name) + _text(b"\x12", metric.description) + _text(b"\x1a", metric.unit)
    data = metric.data
    if isinstance(data, Gauge):
        return head + _field(b"\x2a", b"".join([_field(b"\x0a", _number(point)) for point in data.data_points])) if data.data_points else head
    if not data.data_points:
        return head
    temporality = b"\x10" + varint(int(data.aggregation_temporality)) if data.aggregation_temporality else b""
    if isinstance(data, Sum):
        points = b"".join([_field(b"\x0a", _number(point)) for point in data.data_points])
        return head + _field(b"\x3a", points + temporality + (b"\x18\x01" if data.is_monotonic else b""))
    if isinstance(data, Histogram):
        return head + _field(b"\x4a", b"".join([_field(b"\x0a", _histogram(point)) for point in data.data_points]) + temporality)
    if isinstance(data, ExponentialHistogram):  # pyright: ignore[reportUnnecessaryIsInstance] - a later SDK may have more kinds
        return head + _field(b"\x52", b"".join([_field(b"\x0a", _exponential(point)) for point in data.data_points]) + temporality)
    return head


def _time(tag: bytes, at_ns: int | None) -> bytes:
    return tag + _F64(at_ns) if at_ns else b""


def _amount(double: bytes, integer: bytes, value: float) -> bytes:
    return integer + _I64(value) if isinstance(value, int) else double + _DOUBLE(value)


def _number(point: Any) -> bytes:
    return (
        _time(b"\x11", point.start_time_unix_nano) + _time(b"\x19", point.time_unix_nano) + _amount(b"\x21", b"\x31", point.value)
        + _exemplars(b"\x2a", point.exemplars) + _attributes(b"\x3a", point.attributes)
    )


def _histogram(point: Any) -> bytes:
    buckets = b"".join([_F64(count) for count in point.bucket_counts])
    bounds = b"".join([_DOUBLE(bound) for bound in point.explicit_bounds])
    return (
        _time(b"\x11", point.start_time_unix_nano) + _time(b"\x19", point.time_unix_nano) + _time(b"\x21", point.count) + _optional(b"\x29", point.sum)
        + (_field(b"\x32", buckets) if buckets else b"") + (_field(b"\x3a", bounds) if bounds else b"") + _exemplars(b"\x42", point.exemplars)
        + _attributes(b"\x4a", point.attributes) + _optional(b"\x59", point.min) + _optional(b"\x61", point.max)
    )


def _exponential(point: Any) -> bytes:
    body = (
        _attributes(b"\x0a", point.attributes) + _time(b"\x11", point.start_time_unix_nano) + _time(b"\x19", point.time_unix_nano)
        + _time(b"\x21", point.count) + _optional(b"\x29", point.sum)
    )
    if point.scale:
        body += b"\x30" + _zigzag(point.scale)
    body += _time(b"\x39", point.zero_count)
    for tag, buckets in ((b"\x42", point.positive), (b"\x4a", point.negative)):
        if buckets.bucket_counts:
            inner = b"\x08" + _zigzag(buckets.offset) if buckets.offset else b""
            body += _field(tag, inner + _field(b"\x12", b"".join([varint(count) for count in buckets.bucket_counts])))
    if point.flags:
        body += b"\x50" + varint(int(point.flags))
    return body + _exemplars(b"\x5a", point.exemplars) + _optional(b"\x61", point.min) + _optional(b"\x69", point.max)


def _optional(tag: bytes, value: float | None) -> bytes:
    return tag + _DOUBLE(value) if value is not None else b""


def _exemplars(tag: bytes, exemplars: Iterable[Any] | None) -> bytes:
    if not exemplars:
        return b""
    parts: list[bytes] = []
    for exemplar in exemplars:
        body = _time(b"\x11", exemplar.time_unix_nano) + _amount(b"\x19", b"\x31", exemplar.value)
        if exemplar.span_id is not None and exemplar.trace_id is not None:
            body += b"\x22\x08" + exemplar.span_id.to_bytes(8, "big") + b"\x2a\x10" + exemplar.trace_id.to_bytes(16, "big")
        parts.append(_field(tag, body + _attributes(b"\x3a", exemplar.filtered_attributes)))
    return b"".join(parts)
