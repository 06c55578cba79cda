"""Decode a few OTLP messages without protobuf, whose descriptors take longer to load than a short program runs.

Decoded messages have the attributes of protobuf's. Only messages and fields that the local store needs are supported;
:class:`NotCovered` means that protobuf must be used.
"""

from __future__ import annotations

import struct
from typing import Final, cast

MOST_BYTES: Final = 64 * 1024
"""For larger bodies protobuf is faster, including its import."""


class NotCovered(Exception):
    """The bytes contain an unsupported field, or are not a message."""


_DOUBLE = struct.Struct("<d").unpack
_SIGNED = struct.Struct("<q").unpack

_Field = tuple[str, str]
"""Name and kind of a field: a scalar type or a message name, with ``*`` if repeated."""

_POINT: dict[int, _Field] = {
    2: ("start_time_unix_nano", "fixed64"),
    3: ("time_unix_nano", "fixed64"),
}
MESSAGES: Final[dict[str, dict[int, _Field]]] = {
    "ExportTraceServiceRequest": {1: ("resource_spans", "ResourceSpans*")},
    "ResourceSpans": {
        1: ("resource", "Resource"),
        2: ("scope_spans", "ScopeSpans*"),
        3: ("schema_url", "string"),
    },
    "ScopeSpans": {
        1: ("scope", "InstrumentationScope"),
        2: ("spans", "Span*"),
        3: ("schema_url", "string"),
    },
    "InstrumentationScope": {},
    "Resource": {1: ("attributes", "KeyValue*")},
    "Span": {
        1: ("trace_id", "bytes"),
        2: ("span_id", "bytes"),
        4: ("parent_span_id", "bytes"),
        5: ("name", "string"),
        6: ("kind", "varint"),
        7: ("start_time_unix_nano", "fixed64"),
        8: ("end_time_unix_nano", "fixed64"),
        9: ("attributes", "KeyValue*"),
    },
    "Event": {
        1: ("time_unix_nano", "fixed64"),
        2: ("name", "string"),
        3: ("attributes", "KeyValue*"),
    },
    "Status": {2: ("message", "string"), 3: ("code", "varint")},
    "KeyValue": {1: ("key", "string"), 2: ("value", "AnyValue")},
    "AnyValue": {
        1: ("string_value", "string"),
        2: ("bool_value", "bool"),
        3: ("int_value", "int64"),
        4: ("double_value", "double"),
        5: ("array_value", "ArrayValue"),
        6: ("kvlist_value", "KeyValueList"),
        7: ("bytes_value", "bytes"),
    },
    "ArrayValue": {1: ("values", "AnyValue*")},
    "KeyValueList": {1: ("values", "KeyValue*")},
    "ExportMetricsServiceRequest": {1: ("resource_metrics", "ResourceMetrics*")},
    "ResourceMetrics": {1: ("resource", "Resource"), 2: ("scope_metrics", "ScopeMetrics*")},
    "ScopeMetrics": {2: ("metrics", "Metric*")},
    "Metric": {
        1: ("name", "string"),
        2: ("description", "string"),
        3: ("unit", "string"),
        5: ("gauge", "Gauge"),
        7: ("sum", "Sum"),
        9: ("histogram", "Histogram"),
        10: ("exponential_histogram", "?"),
        11: ("summary", "?"),
    },
    "Gauge": {1: ("data_points", "NumberDataPoint*")},
    "Sum": {
        1: ("data_points", "NumberDataPoint*"),
        2: ("aggregation_temporality", "varint"),
        3: ("is_monotonic", "bool"),
    },
    "Histogram": {
        1: ("data_points", "HistogramDataPoint*"),
        2: ("aggregation_temporality", "varint"),
    },
    "NumberDataPoint": {
        **_POINT,
        4: ("as_double", "double"),
        5: ("exemplars", "Exemplar*"),
        6: ("as_int", "sfixed64"),
        7: ("attributes", "KeyValue*"),
    },
    "HistogramDataPoint": {
        **_POINT,
        4: ("count", "fixed64"),
        5: ("sum", "double"),
        6: ("bucket_counts", "fixed64*"),
        7: ("explicit_bounds", "double*"),
        8: ("exemplars", "Exemplar*"),
        9: ("attributes", "KeyValue*"),
        11: ("min", "double"),
        12: ("max", "double"),
    },
    "Exemplar": {
        2: ("time_unix_nano", "fixed64"),
        3: ("as_double", "double"),
        4: ("span_id", "bytes"),
        5: ("trace_id", "bytes"),
        6: ("as_int", "sfixed64"),
        7: ("filtered_attributes", "KeyValue*"),
    },
}
MESSAGES["WholeSpan"] = {
    **MESSAGES["Span"],
    11: ("events", "Event*"),
    15: ("status", "Status"),
}
"""A span including events and status, for readers; the store leaves those encoded."""
_ONE_OF: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("AnyValue", "value"): tuple(name for name, _ in MESSAGES["AnyValue"].values()),
    ("Metric", "data"): ("gauge", "sum", "histogram"),
    ("NumberDataPoint", "value"): ("as_double", "as_int"),
    ("Exemplar", "value"): ("as_double", "as_int"),
}
_DEFAULTS: Final[dict[str, object]] = {
    "string": "",
    "bytes": b"",
    "bool": False,
    "varint": 0,
    "int64": 0,
    "fixed64": 0,
    "sfixed64": 0,
    "double": 0.0,
}


class Message:
    """A decoded message with its fields as attributes; missing fields have their default, as in protobuf."""

    __slots__ = ("_fields", "_kind", "_raw")

    def __init__(self, kind: str, raw: bytes) -> None:
        self._kind, self._raw = kind, raw
        self._fields = _fields(kind, raw)

    def __getattr__(self, name: str) -> object:
        try:
            return self._fields[name]
        except KeyError:
            kind = next(
                (kind for known, kind in MESSAGES[self._kind].values() if known == name), None
            )
        if kind is None:
            raise AttributeError(f"{self._kind} has no field {name!r}")
        if kind.endswith("*"):
            return []
        return _DEFAULTS[kind] if kind in _DEFAULTS else Message(kind, b"")

    def WhichOneof(self, group: str) -> str | None:
        """Return the name of the field of a oneof that is set; the last one if several are."""
        found = [name for name in self._fields if name in _ONE_OF[self._kind, group]]
        return found[-1] if found else None

    def SerializeToString(self, *, deterministic: bool = False) -> bytes:
        """Return the original bytes, which are in protobuf's canonical order."""
        del deterministic
        return self._raw


def read(kind: str, raw: bytes) -> Message:
    """Decode the message in ``raw``. Raises :class:`NotCovered` if protobuf must be used."""
    if len(raw) > MOST_BYTES:
        raise NotCovered(f"{len(raw)} bytes")
    try:
        return Message(kind, raw)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise NotCovered(str(error)) from error


def _fields(kind: str, raw: bytes) -> dict[str, object]:
    known, found = MESSAGES[kind], dict[str, object]()
    at, size, before = 0, len(raw), 1
    while at < size:
        tag, at = _varint(raw, at)
        wire, number = tag & 7, tag >> 3
        # not in canonical order, or an invalid field number: these start at 1 and have 29 bits
        if number < before or number >> 29:
            raise NotCovered(f"the order of {kind}")
        before = number
        if wire == 0:
            value, at = _varint(raw, at)
            data: int | bytes = value
        else:
            length = 8 if wire == 1 else 4 if wire == 5 else None
            if wire == 2:
                length, at = _varint(raw, at)
            if length is None or at + length > size:
                raise NotCovered(f"field {number} of {kind}")
            data = raw[at : at + length]
            at += length
        if number not in known:
            continue
        name, what = known[number]
        if what == "?":
            raise NotCovered(name)
        if not what.endswith("*"):
            found.pop(name, None)  # the last field of a oneof wins
            found[name] = _value(what, data)
            continue
        several = cast("list[object]", found.setdefault(name, []))
        what = what[:-1]
        if what in ("fixed64", "double"):
            if not isinstance(data, bytes) or len(data) % 8:
                raise NotCovered(name)
            several.extend(_value(what, data[i : i + 8]) for i in range(0, len(data), 8))
        else:
            several.append(_value(what, data))
    return found


def _value(kind: str, data: int | bytes) -> object:
    if isinstance(data, int):
        if kind == "bool":
            return bool(data)
        if kind == "int64":
            return data - (1 << 64) if data >> 63 else data
        if kind == "varint":
            return data
        raise NotCovered(kind)
    match kind:
        case "string":
            return data.decode()
        case "bytes":
            return data
        case "fixed64":
            return int.from_bytes(data, "little")
        case "sfixed64":
            return _SIGNED(data)[0]
        case "double":
            return _DOUBLE(data)[0]
        case "bool" | "int64" | "varint":
            raise NotCovered(kind)
        case _:
            return Message(kind, data)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    shift = number = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & ((1 << 64) - 1), at
        shift += 7
        if shift > 63:
            raise NotCovered("a number of more than 64 bits")
