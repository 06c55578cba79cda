"""Output of a command as it comes in bytes: told line by line, and its end kept in constant memory."""

from __future__ import annotations

import codecs
from collections.abc import Callable

TAIL_BYTES = 20_480
"""Enough for 4,096 characters of any language, and for what is taken out of them as secret."""
LONGEST_LINE_BYTES = 65_536

OutputSink = Callable[[str], None]
"""Takes one line of output, without its end, as it comes."""


class Tail:
    """The last bytes of an output, in constant memory. What was written over (``\\r``) is not kept beside what stands there."""

    def __init__(self, limit_bytes: int = TAIL_BYTES) -> None:
        self._limit = limit_bytes
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * self._limit:
            self._shorten()

    def text(self) -> str:
        """Text that was kept, which may begin within a line."""
        self._shorten()
        text = self._kept.decode("utf-8", "replace")
        return "\n".join(map(_last_state, text.split("\n"))).strip("\n")

    def _shorten(self) -> None:
        if b"\r" in self._kept:
            *lines, last = self._kept.split(b"\n")
            lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]
            shown = last.rstrip(b"\r")
            ends = last[len(shown) :][:1]  # the next state begins a line of its own
            self._kept = bytearray(b"\n").join([*lines, shown.rpartition(b"\r")[2] + ends])
        if len(self._kept) > self._limit:
            del self._kept[: len(self._kept) - self._limit]


class Lines:
    """Bytes as they come, told line by line; a line that does not end is told in pieces, each of whole letters.

    Of a line that was written over (``\\r``, as progress bars do) the last state is told.
    """

    def __init__(self, on_line: OutputSink) -> None:
        self._on_line = on_line
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""

    def add(self, data: bytes) -> None:
        first, *rest = self._decode(data).split("\n")
        self._pending += first
        for line in rest:
            self._tell()
            self._pending = line
        if len(self._pending) > LONGEST_LINE_BYTES:
            self._pending = _last_state(self._pending)
            if len(self._pending) > LONGEST_LINE_BYTES:
                self._tell()
                self._pending = ""

    def end(self) -> None:
        """Tell what came after the last line's end."""
        self._pending += self._decode(b"", True)
        if self._pending:
            self._tell()
            self._pending = ""

    def _tell(self) -> None:
        self._on_line(_last_state(self._pending))


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
