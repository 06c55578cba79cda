"""The JSON encoding of OTLP (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

It differs from the protobuf JSON mapping: ``traceId``, ``spanId`` and ``parentSpanId`` are hexadecimal instead of base64,
enumerations are integers, and receivers must ignore unknown fields.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})
_DEPTH_LIMIT = 64
_FIELD = re.compile(r"Failed to parse (\w+) field: ")
_ENCODING = "https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding"

Document = dict[str, object]
M = TypeVar("M", bound=Message)

_Field = tuple[str, Callable[[Any], object], bool]
"""Name in JSON, converter of one value, and whether the field is repeated."""
_FIELDS: dict[FieldDescriptor, _Field] = {}


def read(body: bytes, message: M) -> M:
    """Fill ``message`` from OTLP JSON and return it. Raises ``ValueError`` with the reason."""
    try:
        document: object = json.loads(body)
    except RecursionError:
        raise ValueError("the JSON document is nested too deeply") from None
    except json.JSONDecodeError as error:
        what = (
            f"is not JSON from line {error.lineno}, column {error.colno} on"
            if body.strip()
            else "is empty"
        )
        raise ValueError(
            f"the body {what}; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(
            "the body is not UTF-8; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf"
        ) from None
    except ValueError:  # Python's limit on the digits of an integer
        raise ValueError(
            "a number in the JSON document has too many digits; send a string for a 64-bit integer"
        ) from None
    if not isinstance(document, dict):
        raise ValueError(f"the JSON document is not an object; send an {message.DESCRIPTOR.name}")
    _to_base64(cast("dict[str, object]", document), 0)
    try:
        json_format.ParseDict(
            cast("dict[str, object]", document),
            message,
            ignore_unknown_fields=True,
            max_recursion_depth=_DEPTH_LIMIT,
        )
    except (
        json_format.ParseError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{_place(str(error)) or message.DESCRIPTOR.name} has a value that OTLP does not have there; compare it with the encoding at {_ENCODING}"
        ) from None
    return message


def _place(said: str) -> str:
    """Return the path of field names at the beginning of a protobuf error message."""
    names: list[str] = []
    at = 0
    while len(names) < 20 and (match := _FIELD.match(said, at)) is not None:
        names.append(match[1])
        at = match.end()
    return ".".join(names)


def write(message: Message) -> Document:
    """Return the OTLP JSON document: ids in hexadecimal, enumerations as integers, 64-bit integers as strings."""
    document: Document = {}
    for field, value in message.ListFields():
        name, convert, several = _FIELDS.get(field) or _described(field, value)
        document[name] = [convert(each) for each in value] if several else convert(value)
    return document


def pieces(groups: Iterable[tuple[ResourceSpans, Iterable[Span]]]) -> Iterator[str]:
    """Yield a ``TracesData`` document as text, span by span, because a large run does not fit into memory.

    Each group has a resource and one scope, and the spans that belong to it.
    """
    yield '{"resourceSpans": ['
    for number, (group, spans) in enumerate(groups):
        about = write(group)
        [scope] = cast("list[Document]", about.pop("scopeSpans"))
        yield f'{"," if number else ""}\n{_opened(about)}"scopeSpans": [{_opened(scope)}"spans": [\n'
        for place, span in enumerate(spans):
            yield f"{',' if place else ''}{json.dumps(write(span))}\n"
        yield "]}]}"
    yield "]}\n"


def _opened(document: Document) -> str:
    """Return the text of a JSON object, open for another member."""
    return "{" + "".join(f"{json.dumps(name)}: {json.dumps(of)}, " for name, of in document.items())


def _described(field: FieldDescriptor, value: Any) -> _Field:
    """Return the cached name and converter of a field; protobuf's own mapping determines them for each message."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            convert: Callable[[Any], object] = write
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            convert = str
        case FieldDescriptor.CPPTYPE_DOUBLE:
            convert = _number
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            convert = bytes.hex if field.name in _IDS else _base64
        case _:
            convert = _as_it_is
    several = not isinstance(value, (str, bytes, int, float, Message))
    return _FIELDS.setdefault(field, (field.json_name, convert, several))


def _number(number: float) -> float | str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _as_it_is(value: object) -> object:
    return value


def to_stderr(signal: str, body: bytes) -> None:
    """Write an export request as one line of OTLP JSON to stderr, because stdout belongs to the observed program."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    kinds = {
        "traces": ExportTraceServiceRequest,
        "metrics": ExportMetricsServiceRequest,
        "logs": ExportLogsServiceRequest,
    }
    line = json.dumps(write(kinds[signal].FromString(body)), separators=(",", ":"))
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _to_base64(value: object, depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise ValueError("the JSON document is nested too deeply")
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        for name, member in members.items():
            if name in _IDS and isinstance(member, str):
                try:
                    members[name] = base64.b64encode(bytes.fromhex(member)).decode("ascii")
                except ValueError:
                    raise ValueError(f"{name} is not hexadecimal, as OTLP has it in JSON") from None
            elif isinstance(member, (dict, list)):
                _to_base64(cast("object", member), depth + 1)
    elif isinstance(value, list):
        for member in cast("list[object]", value):
            if isinstance(member, (dict, list)):
                _to_base64(cast("object", member), depth + 1)
