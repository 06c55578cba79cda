"""Bound the number of elements in an OTLP body before it is decoded.

An empty record takes two bytes on the wire, but hundreds in memory.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MESSAGE_COST: Final = 3
"""Cost of a message; a text or a packed list costs one."""
_FREE_BYTES: Final = 128 << 10
"""Bodies up to this size are not checked."""

_BEGINS_NOTHING: Final = bytes(byte for byte in range(256) if byte & 7 != 2)
"""Bytes that cannot begin the tag of a text, list or message."""

_Table = dict[int, "_Table"]


class TooMany(ValueError):
    """A body contains more elements than allowed."""


def check_protobuf(body: bytes, descriptor: Descriptor, most: int) -> None:
    """Raise :class:`TooMany` if ``body`` contains more than ``most`` elements. Invalid protobuf is left to the parser."""
    if len(body) <= min(_FREE_BYTES, most) or _cannot_exceed(body, most):
        return
    left = most
    waiting = [(0, len(body), _table(descriptor))]
    try:
        while waiting:
            at, end, table = waiting.pop()
            while at < end:
                tag = body[at]
                at += 1
                if tag >= 0x80:
                    tag, at = _varint(body, at - 1)
                kind = tag & 7
                if kind == 2:
                    size = body[at]
                    at += 1
                    if size >= 0x80:
                        size, at = _varint(body, at - 1)
                    inner = table.get(tag >> 3)
                    if inner is None:
                        left -= 1
                    else:
                        left -= MESSAGE_COST
                        if size:
                            waiting.append((at, min(at + size, end), inner))
                    if left < 0:
                        raise TooMany(f"the body holds more than {most} elements")
                    at += size
                elif kind == 0:
                    while body[at] >= 0x80:
                        at += 1
                    at += 1
                elif kind == 1:
                    at += 8
                elif kind == 5:
                    at += 4
                elif kind <= 4:  # a group, unknown in OTLP; the parser skips it and reads on
                    left -= 1
                    if left < 0:
                        raise TooMany(f"the body holds more than {most} elements")
                else:
                    return
    except IndexError:
        return


def _cannot_exceed(body: bytes, most: int) -> bool:
    """Whether the body is too small for ``most`` elements: each takes two bytes, and begins with a byte that ends in 010."""
    return (
        len(body) * MESSAGE_COST <= 2 * most
        or len(body.translate(None, _BEGINS_NOTHING)) * MESSAGE_COST <= most
    )


def check_json(body: bytes, most: int) -> None:
    """Raise :class:`TooMany` for a JSON document, by its structural characters; those in texts are counted too."""
    if len(body) <= min(_FREE_BYTES, most):
        return
    if body.count(b"{") + body.count(b"[") + body.count(b",") > most:
        raise TooMany(f"the body holds more than {most} elements")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            return value, at
        shift += 7


@cache
def _table(descriptor: Descriptor) -> _Table:
    """Return the message fields of a message, each with its own table; tables may be recursive."""
    return _filled(descriptor, {})


def _filled(descriptor: Descriptor, known: dict[str, _Table]) -> _Table:
    table = known.get(descriptor.full_name)
    if table is None:
        table = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
                table[field.number] = _filled(field.message_type, known)
    return table
