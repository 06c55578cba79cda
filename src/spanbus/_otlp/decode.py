"""Convert values of OTLP messages to plain Python values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

UNKNOWN_SERVICE = "unknown_service"


def plain(value: AnyValue) -> object:
    """Convert an AnyValue to a value for JSON: lists as tuples, bytes as hexadecimal, NaN and infinities as text."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple([plain(each) for each in value.array_value.values])
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    if kind == "double_value":
        number = value.double_value
        return number if number - number == 0 else str(number)
    return getattr(value, kind)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    """Return OTLP attributes as a mapping of plain values."""
    return {pair.key: pair.value.string_value or plain(pair.value) for pair in pairs}


def service_of(resource: Resource) -> str:
    """Return ``service.name``, or ``unknown_service`` as OTLP says."""
    for pair in resource.attributes:
        if pair.key == "service.name":
            return pair.value.string_value or UNKNOWN_SERVICE
    return UNKNOWN_SERVICE
