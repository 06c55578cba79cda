"""The JSON encoding of OTLP, in which ids are hexadecimal.

The protobuf JSON mapping would have base64 for ``traceId``, ``spanId`` and ``parentSpanId``; OTLP says hexadecimal
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding), enumerations as integers, and receivers must ignore
fields that they do not know.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message

_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})
_DEPTH_LIMIT = 64
_FIELD = re.compile(r"Failed to parse (\w+) field: ")
_ENCODING = "https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding"

M = TypeVar("M", bound=Message)


def read(body: bytes, message: M) -> M:
    """Fill ``message`` from OTLP JSON; ValueError says what is wrong with it."""
    try:
        document: object = json.loads(body)
    except RecursionError:
        raise ValueError("the JSON document is nested too deeply") from None
    except json.JSONDecodeError as error:
        what = f"is not JSON from line {error.lineno}, column {error.colno} on" if body.strip() else "is empty"
        raise ValueError(f"the body {what}; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf") from None
    except UnicodeDecodeError:
        raise ValueError("the body is not UTF-8; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf") from None
    except ValueError:  # Python's limit, against documents that take long to read
        raise ValueError("a number in the JSON document has too many digits; send a string for a 64-bit integer") from None
    if not isinstance(document, dict):
        raise ValueError(f"the JSON document is not an object; send an {message.DESCRIPTOR.name}")
    _to_base64(cast("dict[str, object]", document), 0)
    try:
        json_format.ParseDict(cast("dict[str, object]", document), message, ignore_unknown_fields=True, max_recursion_depth=_DEPTH_LIMIT)
    except (json_format.ParseError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{_place(str(error)) or message.DESCRIPTOR.name} has a value that OTLP does not have there; compare it with the encoding at {_ENCODING}") from None
    return message


def _place(said: str) -> str:
    """The path of field names with which protobuf begins what it says."""
    names: list[str] = []
    at = 0
    while len(names) < 20 and (match := _FIELD.match(said, at)) is not None:
        names.append(match[1])
        at = match.end()
    return ".".join(names)


def write(message: Message) -> dict[str, object]:
    """The OTLP JSON document of ``message``: ids in hexadecimal, enumerations as integers, 64-bit integers as strings."""
    document = cast("dict[str, object]", json_format.MessageToDict(message, use_integers_for_enums=True))
    _to_hex(document)
    return document


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


def _to_hex(value: object) -> None:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        for name, member in members.items():
            if name in _IDS and isinstance(member, str):
                try:
                    members[name] = base64.b64decode(member, validate=True).hex()
                except (ValueError, binascii.Error):  # an attribute that happens to have the name: left as it is
                    continue
            elif isinstance(member, (dict, list)):
                _to_hex(cast("object", member))
    elif isinstance(value, list):
        for member in cast("list[object]", value):
            if isinstance(member, (dict, list)):
                _to_hex(cast("object", member))
