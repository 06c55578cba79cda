"""Frames of live messages, built and encoded once for all clients at the same position."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

VERSION: Final = 1
_KEPT: Final = 8


class Frame(str):
    """Text of a frame with cached bytes, because the server encodes it once per client."""

    __slots__ = ("_encoded",)
    _encoded: bytes

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        if (encoding, errors) != ("utf-8", "strict"):
            return super().encode(encoding, errors)
        try:
            return self._encoded
        except AttributeError:
            self._encoded = super().encode()
            return self._encoded


class Frames:
    """Cache of frames up to the newest message, by the id before their first message."""

    def __init__(self, ring: deque[str], most_bytes: int) -> None:
        self._ring = ring
        self._most_bytes = most_bytes
        self._last_id = 0
        self._made: dict[int, tuple[int, Frame]] = {}

    def after(self, position: int, last_id: int) -> tuple[int, Frame]:
        """Return the last id of the next frame after ``position``, and the frame; ``last_id`` is the newest id."""
        if last_id != self._last_id:
            self._made.clear()
            self._last_id = last_id
        known = self._made.get(position)
        if known is not None:
            return known
        size, parts = 0, list[str]()
        for message in islice(self._ring, position - (last_id - len(self._ring)), None):
            size += len(message)
            if parts and size > self._most_bytes:
                break
            parts.append(message)
        frame = Frame(f'{{"v":{VERSION},"type":"messages","messages":[{",".join(parts)}]}}')
        if len(self._made) >= _KEPT:
            self._made.pop(next(iter(self._made)))
        made = self._made[position] = (position + len(parts), frame)
        return made
