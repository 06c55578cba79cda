"""Encode spans and log records directly to OTLP protobuf bytes (OTLP 1.x, opentelemetry-proto).

A span is encoded once; a batch is joined bytes. The decoded result equals that of the SDK's encoder, with two exceptions:
integers beyond 64 bits, which the SDK drops, are written as text, and invalid Unicode is replaced instead of failing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._otlp.decode import attributes as decoded
from spanbus._otlp.signals import Signal
from spanbus._otlp.values import TABLED, VARINTS, any_value, attributes, field, string, utf8, varint

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status
    from opentelemetry.util.types import AttributeValue

    from spanbus._otlp.resource import PlainResource, Scope

_F64: Final = struct.Struct("<Q").pack
_F32: Final = struct.Struct("<I").pack
_TIMES: Final = struct.Struct("<BBBQBQ").pack
_MOMENT: Final = struct.Struct("<BQ").pack
_IDS: Final = struct.Struct(">BB16sBBQ").pack
_PARENT: Final = struct.Struct(">BBQ").pack
_IDS_WITH_PARENT: Final = struct.Struct(">BB16sBBQBBQ").pack
_LENGTHS: Final = struct.Struct("<IIII")

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
NO_STATUS: Final = b"\x7a\x00"
_NOT_REMOTE: Final = b"\x85\x01" + _F32(_HAS_IS_REMOTE)
_REMOTE: Final = b"\x85\x01" + _F32(_HAS_IS_REMOTE | _IS_REMOTE)
_LINK_NOT_REMOTE: Final = b"\x35" + _F32(_HAS_IS_REMOTE)
_LINK_REMOTE: Final = b"\x35" + _F32(_HAS_IS_REMOTE | _IS_REMOTE)
_UNSET: Final = 0
_NAMES: Final = 1_000

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
    """The attributes of the SDK's ReadableSpan that are read."""

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
    """Return the ``Span`` message of an SDK span."""
    context, parent, status = span.context, span.parent, span.status
    assert context is not None
    events: list[bytes] = []
    for event in span.events:
        body = _MOMENT(0x09, event.timestamp) + event_name(event.name)
        body += attributes(b"\x1a", event.attributes)
        if event.dropped_attributes:
            body += b"\x20" + varint(event.dropped_attributes)
        events.append(body)
    return span_message(
        span_ids(
            context.trace_id,
            context.span_id,
            context.trace_state,
            parent.span_id if parent is not None else None,
        ),
        span_name(span.name),
        span.kind.value + 1,  # OTLP has 0 for unspecified
        span.start_time or 0,
        span.end_time or 0,
        attributes(b"\x4a", span.attributes),
        span.dropped_attributes,
        events,
        span.dropped_events,
        [
            link_message(
                link.context.trace_id,
                link.context.span_id,
                link.context.is_remote,
                link.attributes,
                link.dropped_attributes,
            )
            for link in span.links
        ],
        NO_STATUS
        if status.status_code.value == _UNSET and not status.description
        else status_message(status.status_code.value, status.description),
        parent is not None and parent.is_remote,
        span.dropped_links,
    )


def span_ids(
    trace_id: int, span_id: int, state: Mapping[str, str] | None, parent_span_id: int | None
) -> bytes:
    """Return the beginning of a ``Span`` message: ids and trace state."""
    trace = trace_id.to_bytes(16, "big")
    if parent_span_id is not None and not state:
        return _IDS_WITH_PARENT(0x0A, 16, trace, 0x12, 8, span_id, 0x22, 8, parent_span_id)
    ids = _IDS(0x0A, 16, trace, 0x12, 8, span_id)
    if state:
        ids += string(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()]))
    return ids if parent_span_id is None else ids + _PARENT(0x22, 8, parent_span_id)


def span_name(name: str) -> bytes:
    """Return the name field of a span."""
    return b"\x2a" + _sized(utf8(name))


def _event_name(name: str) -> bytes:
    return b"\x12" + _sized(utf8(name))


event_name: Final = bounded_cache(_event_name, _NAMES)
"""The field of an event's name."""


def span_message(
    ids: bytes,
    name: bytes,
    kind: int,
    started_at_ns: int,
    ended_at_ns: int,
    encoded_attributes: bytes,
    dropped_attributes: int,
    events: Iterable[bytes],
    dropped_events: int,
    links: Iterable[bytes],
    status: bytes,
    remote_parent: bool,
    dropped_links: int = 0,
) -> bytes:
    """Join the parts of a ``Span`` message. ``events`` and ``links`` are message bodies, the other bytes complete fields."""
    varints = VARINTS
    parts = [
        ids,
        name,
        _TIMES(0x30, kind, 0x39, started_at_ns, 0x41, ended_at_ns),
        encoded_attributes,
    ]
    if dropped_attributes:
        parts.append(b"\x50" + varint(dropped_attributes))
    for body in events:
        size = len(body)
        parts += (b"\x5a", varints[size] if size < TABLED else varint(size), body)
    if dropped_events:
        parts.append(b"\x60" + varint(dropped_events))
    for body in links:
        parts.append(field(b"\x6a", body))
    if dropped_links:
        parts.append(b"\x70" + varint(dropped_links))
    parts += (status, _REMOTE if remote_parent else _NOT_REMOTE)
    return b"".join(parts)


def link_message(
    trace_id: int,
    span_id: int,
    remote: bool,
    of: Mapping[str, object] | None,
    dropped_attributes: int = 0,
) -> bytes:
    """Return the body of a ``Span.Link``; ``of`` are its attributes."""
    body = b"\x0a\x10" + trace_id.to_bytes(16, "big") + b"\x12\x08" + span_id.to_bytes(8, "big")
    body += attributes(b"\x22", of)
    if dropped_attributes:
        body += b"\x28" + varint(dropped_attributes)
    return body + (_LINK_REMOTE if remote else _LINK_NOT_REMOTE)


def status_message(code: int, description: str | None) -> bytes:
    """Return the status field of a span."""
    return field(b"\x7a", string(b"\x12", description) + (b"\x18" + VARINTS[code] if code else b""))


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def trace_of(span: bytes) -> bytes:
    """Return the trace id from the bytes of a span that was encoded by this module."""
    return span[2:18]


# --- logs -------------------------------------------------------------------------------------------------------------


def encode_log(readable: ReadableLogRecord) -> bytes:
    """Return the ``LogRecord`` message of an SDK log record."""
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


def encode_group(
    resource: Resource | PlainResource, scope: InstrumentationScope | Scope | None
) -> bytes:
    """Return the group header of records: resource and scope with their schema URLs, encoded."""
    inner = b""
    if scope is not None:
        inner = (
            string(b"\x0a", scope.name)
            + string(b"\x12", scope.version)
            + attributes(b"\x1a", scope.attributes)
        )
    parts = (
        field(b"\x0a", attributes(b"\x0a", resource.attributes)),
        string(b"\x1a", resource.schema_url),
        field(b"\x0a", inner),
        string(b"\x1a", scope.schema_url if scope is not None else None),
    )
    return _LENGTHS.pack(*map(len, parts)) + b"".join(parts)


def resource_of(group: bytes) -> Resource | None:
    """Decode the resource of a group header; None if it is empty or broken."""
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
    return Resource(cast("dict[str, AttributeValue]", decoded(found.attributes)), url or None)


def _without_lead(field: bytes) -> bytes:
    """Return the content of a length-delimited field with a one-byte tag."""
    begin = 1
    while field[begin] & 0x80:
        begin += 1
    return field[begin + 1 :]


class _Record(Protocol):
    @property
    def group(self) -> bytes: ...

    @property
    def data(self) -> bytes: ...


def join(signal: Signal, records: Iterable[_Record]) -> bytes:
    """Join records of one signal to an OTLP export request. Metrics records are complete requests, which may be concatenated."""
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
        found.append(group[begin : begin + size])
        begin += size
    return found
