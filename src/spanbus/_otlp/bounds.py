"""The number of elements in an OTLP body, counted before it is decoded: an empty record takes two bytes on the wire,
hundreds in memory.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MESSAGE_COST: Final = 3
"""Cost of a message, where a text or a packed list costs one."""
_FREE_BYTES: Final = 128 << 10
"""A body of at most this size cannot hold enough to be worth counting."""

_BEGINS_NOTHING: Final = bytes(byte for byte in range(256) if byte & 7 != 2)
"""Bytes that are no first byte of the tag of a text, list or message."""

_Table = dict[int, "_Table"]


class TooMany(ValueError):
    """There are more elements than are decoded."""


def check_protobuf(body: bytes, descriptor: Descriptor, most: int) -> None:
    """Raise :class:`TooMany` where ``body`` holds more than ``most`` elements; what is no protobuf is the parser's."""
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
                elif (
                    kind <= 4
                ):  # a group: OTLP has none, and the parser reads on behind one that it does not know
                    left -= 1
                    if left < 0:
                        raise TooMany(f"the body holds more than {most} elements")
                else:
                    return
    except IndexError:
        return


def _cannot_exceed(body: bytes, most: int) -> bool:
    """Whether that many elements do not fit, seen without a walk: each begins with a byte that ends in 010, and takes two."""
    return (
        len(body) * MESSAGE_COST <= 2 * most
        or len(body.translate(None, _BEGINS_NOTHING)) * MESSAGE_COST <= most
    )


def check_json(body: bytes, most: int) -> None:
    """The same of a JSON document, by its marks of structure; those within texts count too."""
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
    """The fields of a message that are messages, each with its own table; a message may hold itself."""
    return _filled(descriptor, {})


def _filled(descriptor: Descriptor, known: dict[str, _Table]) -> _Table:
    table = known.get(descriptor.full_name)
    if table is None:
        table = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
                table[field.number] = _filled(field.message_type, known)
    return table
