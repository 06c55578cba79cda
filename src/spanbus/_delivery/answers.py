"""Parser of a collector's answers: partial success, error message and retry delay.

Reads protobuf without the generated classes, because importing them costs a short-lived program more than sending. Malformed
bytes count as an empty answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import cast

from spanbus._named_tuple import NamedTuple
from spanbus._sanitize import one_line

_LONGEST_MESSAGE = 300


class PartialSuccess(NamedTuple):
    """Number of rejected records, and the collector's message; a warning has a message without rejected records."""

    rejected: int = 0
    message: str = ""


def partial_success(body: bytes, content_type: str = "application/x-protobuf") -> PartialSuccess:
    """Parse an ``Export…ServiceResponse``; it has the same shape for all three signals."""
    if "json" in content_type:
        return _partial_success_json(body)
    if "html" in content_type or "text" in content_type:
        return PartialSuccess()
    rejected, message = 0, ""
    for number, value in _fields(body):
        if number == 1 and isinstance(value, bytes):
            for inner, found in _fields(value):
                if inner == 1 and isinstance(found, int):
                    rejected = found if found < 1 << 63 else 0
                elif inner == 2 and isinstance(found, bytes):
                    message = _text(found)
    return PartialSuccess(rejected, message)


def _partial_success_json(body: bytes) -> PartialSuccess:
    try:
        match json.loads(body):
            case {"partialSuccess": {**found}}:
                fields = cast("dict[str, object]", found)
                counts = [
                    fields[key]
                    for key in ("rejectedSpans", "rejectedDataPoints", "rejectedLogRecords")
                    if key in fields
                ]
                return PartialSuccess(
                    max(0, int(str(counts[0]))) if counts else 0,
                    shown(str(fields.get("errorMessage", ""))),
                )
            case _:
                return PartialSuccess()
    except (ValueError, RecursionError):
        return PartialSuccess()


def error_message(body: bytes, content_type: str) -> str:
    """Message of a ``google.rpc.Status`` or a plain text; empty if there is none."""
    if "protobuf" in content_type:
        for number, value in _fields(body):
            if number == 2 and isinstance(value, bytes):
                return _text(value)
        return ""
    if "json" in content_type:
        try:
            match json.loads(body):
                case {"message": str(message)}:
                    return shown(message)
                case _:
                    return ""
        except (ValueError, RecursionError):
            return ""
    return "" if "html" in content_type else _text(body)


def retry_delay_s(status_details: bytes) -> float | None:
    """Delay of the ``google.rpc.RetryInfo`` in the details of a ``google.rpc.Status``; None if there is none."""
    for number, detail in _fields(status_details):
        if number != 3 or not isinstance(detail, bytes):
            continue
        fields = dict(_fields(detail))
        kind, value = fields.get(1), fields.get(2)
        if isinstance(kind, bytes) and kind.endswith(b"google.rpc.RetryInfo"):
            delay = dict(_fields(value)).get(1) if isinstance(value, bytes) else None
            parts = dict(_fields(delay)) if isinstance(delay, bytes) else {}
            seconds, nanos = parts.get(1, 0), parts.get(2, 0)
            return (
                seconds + nanos / 1e9
                if isinstance(seconds, int) and isinstance(nanos, int) and seconds < 1 << 63
                else 0.0
            )
    return None


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Parse ``Retry-After``, seconds or a date. ``now_s`` is Unix time."""
    if header is None or not header.strip():
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _text(data: bytes) -> str:
    return shown(data[: 4 * _LONGEST_MESSAGE].decode("utf-8", "replace"))


def shown(text: str) -> str:
    """Foreign text as one line without control characters."""
    letters = (letter if letter.isprintable() else " " for letter in text[: 4 * _LONGEST_MESSAGE])
    return one_line(" ".join("".join(letters).split()), _LONGEST_MESSAGE)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message up to the first malformed byte."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            if at > end:
                return
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            return
        if at + size > end:
            return
        if kind == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint and the offset behind it, which is beyond the end if the varint is cut off."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    return 0, len(data) + 1
