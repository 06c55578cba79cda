"""Output of a command: split into lines as the bytes arrive, with the tail kept in constant memory."""

from __future__ import annotations

import codecs
from collections.abc import Callable

TAIL_BYTES = 20_480
"""Enough for 4,096 characters of any language, and for the secrets that are removed from them."""
LONGEST_LINE_BYTES = 65_536

OutputSink = Callable[[str], None]
"""Takes one line of output, without the line end."""


class Tail:
    """The last bytes of an output, in constant memory. Text that was overwritten (``\\r``) is dropped."""

    def __init__(self, limit_bytes: int = TAIL_BYTES) -> None:
        self._limit = limit_bytes
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * self._limit:
            self._shorten()

    def text(self) -> str:
        """Return the kept text, which may begin within a line."""
        self._shorten()
        text = self._kept.decode("utf-8", "replace")
        return "\n".join(map(_last_state, text.split("\n"))).strip("\n")

    def _shorten(self) -> None:
        if b"\r" in self._kept:
            *lines, last = self._kept.split(b"\n")
            lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]
            shown = last.rstrip(b"\r")
            ends = last[len(shown) :][
                :1
            ]  # keep the carriage return: the next text overwrites the line
            self._kept = bytearray(b"\n").join([*lines, shown.rpartition(b"\r")[2] + ends])
        if len(self._kept) > self._limit:
            del self._kept[: len(self._kept) - self._limit]


class Lines:
    """Splits bytes into lines and passes them on. An endless line is passed in pieces, without splitting characters.

    Of a line that is overwritten (``\\r``, as by progress bars) only the last state is passed on.
    """

    def __init__(self, on_line: OutputSink) -> None:
        self._on_line = on_line
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""

    def add(self, data: bytes) -> None:
        first, *rest = self._decode(data).split("\n")
        self._pending += first
        for line in rest:
            self._emit()
            self._pending = line
        if len(self._pending) > LONGEST_LINE_BYTES:
            self._pending = _last_state(self._pending)
            if len(self._pending) > LONGEST_LINE_BYTES:
                self._emit()
                self._pending = ""

    def end(self) -> None:
        """Pass on the text after the last line end."""
        self._pending += self._decode(b"", True)
        if self._pending:
            self._emit()
            self._pending = ""

    def _emit(self) -> None:
        self._on_line(_last_state(self._pending))


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
