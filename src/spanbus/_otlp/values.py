"""Encode attributes in the protobuf wire format of OTLP.

The bytes are written directly, because building protobuf messages from Python objects costs far more
(https://protobuf.dev/programming-guides/encoding/; opentelemetry-proto, ``common.proto``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from spanbus._named_tuple import NamedTuple

DOUBLE: Final = struct.Struct("<d").pack

_KEYS_MOST: Final = 2_000
_VALUES_PER_KEY: Final = 64
_VALUE_LONGEST: Final = 64
_KEY_LONGEST: Final = 1_800
_NO_KEYS: Final[dict[str, Any]] = {}

TABLED: Final = 2_048
VARINTS: Final[tuple[bytes, ...]] = tuple(
    [bytes((number,)) for number in range(128)]
    + [bytes((low, high)) for high in range(1, TABLED >> 7) for low in range(128, 256)]
)
"""Precomputed varints below :data:`TABLED`, which cover most numbers; a larger table would delay every start."""


def varint(number: int) -> bytes:
    """Encode a base-128 varint; negative numbers take ten bytes, as in protobuf."""
    if 0 <= number < TABLED:
        return VARINTS[number]
    if number < 0:
        number += 1 << 64
    parts = bytearray()
    while number > 127:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def utf8(text: str) -> bytes:
    """Encode as UTF-8, with question marks for lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def field(tag: bytes, data: bytes) -> bytes:
    """Encode a length-delimited field."""
    size = len(data)
    return tag + (VARINTS[size] if size < TABLED else varint(size)) + data


def string(tag: bytes, text: str | None) -> bytes:
    """Encode a string field; an empty one is omitted, as in protobuf."""
    return field(tag, utf8(text)) if text else b""


class _Key(NamedTuple):
    """Cached attribute key: encoded with the tag of the value, the size of that, and complete fields by text value."""

    prefix: bytes
    size: int
    texts: dict[str, bytes]


_keys: Final[dict[bytes, dict[str, _Key]]] = {}
"""Cached keys, by the tag of the field of the attributes."""


def _key(tag: bytes, key: str) -> _Key:
    prefix = field(b"\x0a", utf8(key)) + b"\x12"
    entry = _Key(prefix, len(prefix), {})
    known = _keys.setdefault(tag, {})
    if len(known) < _KEYS_MOST:
        known[key] = entry
    return entry


def any_value(value: object) -> bytes:
    """Encode an AnyValue. Raises ``TypeError`` for a type that OTLP does not have."""
    if isinstance(value, str):
        return field(b"\x0a", utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return b"\x18" + varint(value)
        return field(b"\x0a", str(value).encode())
    if isinstance(value, float):
        return b"\x21" + DOUBLE(value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return field(b"\x3a", value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return field(
            b"\x32", b"".join([field(b"\x0a", _key_value(str(key), item)) for key, item in pairs])
        )
    if isinstance(value, Sequence):
        return field(
            b"\x2a",
            b"".join([field(b"\x0a", any_value(item)) for item in cast("Sequence[object]", value)]),
        )
    raise TypeError(f"{type(value).__name__} is no attribute value")


def _key_value(key: str, value: object) -> bytes:
    return field(b"\x0a", utf8(key)) + b"\x12" + _sized(any_value(value))


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _plain(attributes: Mapping[str, object]) -> Mapping[str, object]:
    """Return a plain mapping: the SDK's takes a lock for each key, and its ``copy()`` is a plain one."""
    if isinstance(attributes, dict):
        return attributes
    copy = cast("Callable[[], Mapping[str, object]] | None", getattr(attributes, "copy", None))
    return copy() if copy is not None else attributes


def attributes(tag: bytes, attributes: Mapping[str, object] | None) -> bytes:
    """Encode attributes as repeated fields; a value of a type that OTLP does not have is omitted, like in the SDK."""
    if not attributes:
        return b""
    parts: list[bytes] = []
    append = parts.append
    known = _keys.get(tag, _NO_KEYS)
    varints = VARINTS
    plain: Mapping[str, Any] = _plain(attributes)
    for key, value in plain.items():
        try:
            prefix, length, texts = known[key]
        except KeyError:
            prefix, length, texts = _key(tag, key)
        kind = type(value) if length < _KEY_LONGEST else None  # pyright: ignore[reportUnknownVariableType] - a cast costs a call
        if kind is str:
            if value in texts:
                append(texts[value])
                continue
            encoded = utf8(value)
            size = len(encoded)
            if size < 126:
                found = prefix + varints[size + 2] + b"\x0a" + varints[size] + encoded
                found = tag + varints[len(found)] + found
                if size <= _VALUE_LONGEST and len(texts) < _VALUES_PER_KEY:
                    texts[value] = found
            else:
                found = tag + _sized(prefix + _sized(b"\x0a" + varint(size) + encoded))
            append(found)
        elif kind is int and 0 <= value < 128:
            append(tag + varints[length + 3] + prefix + b"\x02\x18" + varints[value])  # pyright: ignore[reportUnknownArgumentType]
        elif kind is float:
            append(tag + varints[length + 10] + prefix + b"\x09\x21" + DOUBLE(value))
        elif kind is bool:
            append(
                tag + varints[length + 3] + prefix + (b"\x02\x10\x01" if value else b"\x02\x10\x00")
            )
        else:
            try:
                append(tag + _sized(prefix + _sized(any_value(value))))
            except (TypeError, ValueError, RecursionError):
                continue
    return b"".join(parts)


def attribute(tag: bytes, key: str, value: object) -> bytes:
    """Encode one attribute as such a field, without the cache."""
    return tag + _sized(_key_value(key, value))
