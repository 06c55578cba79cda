"""Styled text and the stream on which it is written: a terminal, a file or a pipe.

Most commands only print coloured lines, and loading rich would take longer than the rest of their work. rich is used for
tables and live displays (:mod:`spanbus._cli.rich_console`). Width and colour support are detected in the same way as in rich.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import IO, Self, cast

from rich.cells import cell_len, set_cell_size

from spanbus._sanitize import lines as spelled_out

Piece = tuple[str, str]
"""Text and style; a style is a list of words such as ``bold red``."""

_ATTRIBUTES = {"bold": "1", "dim": "2", "italic": "3"}
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}
_DROPPED: dict[int, None] = dict.fromkeys((7, 8, 11, 12, 13))
"""Control characters that are dropped: bell, backspace, vertical tab, form feed, carriage return."""
_DUMB = ("dumb", "unknown")
_TAB = 8
_USUAL_WIDTH = 80


class Text:
    """Styled text of one or several lines."""

    __slots__ = ("pieces",)

    def __init__(self, text: str = "", style: str = "") -> None:
        self.pieces: list[Piece] = [(text, style)] if text else []

    def append(self, text: str, style: str = "") -> Self:
        if text:
            self.pieces.append((text, style))
        return self

    def extend(self, other: Text) -> Self:
        self.pieces += other.pieces
        return self

    def rstrip(self) -> None:
        """Remove trailing white space."""
        while self.pieces:
            text, style = self.pieces.pop()
            if kept := text.rstrip():
                self.pieces.append((kept, style))
                return

    @property
    def plain(self) -> str:
        return "".join([text for text, _ in self.pieces])

    def __bool__(self) -> bool:
        return bool(self.pieces)


class Screen:
    """Standard output or standard error."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        self.to_stderr = to_stderr
        self.is_terminal = _is_terminal(self.file)
        self.is_dumb_terminal = (
            self.is_terminal and os.environ.get("TERM", "").strip().lower() in _DUMB
        )
        self._styled = self.is_terminal and not self.is_dumb_terminal and _shows_colours(to_stderr)
        self._coloured = not os.environ.get("NO_COLOR")

    @property
    def file(self) -> IO[str]:
        stream = cast("IO[str] | None", sys.stderr if self.to_stderr else sys.stdout)
        return stream if stream is not None else io.StringIO()  # it is closed

    @property
    def encoding(self) -> str:
        return str(getattr(self.file, "encoding", None) or "utf-8").lower()

    @property
    def no_color(self) -> bool:
        return not self._coloured

    @property
    def width(self) -> int:
        """Number of columns, from ``COLUMNS`` or the terminal."""
        columns, rows = _number("COLUMNS"), _number("LINES")
        if self.is_dumb_terminal and not (columns and rows):
            return _USUAL_WIDTH
        if columns:
            return columns
        for descriptor in range(3):
            try:
                return os.get_terminal_size(descriptor).columns or _USUAL_WIDTH
            except (OSError, ValueError, AttributeError):
                continue
        return _USUAL_WIDTH

    def print(self, text: str = "", style: str = "") -> None:
        """Print text in one style; the terminal wraps it."""
        self.write(self.shown(Text(text, style)) or "\n")

    def shown(self, text: Text, width: int | None = None) -> str:
        """Render ``text`` to whole lines, each truncated to ``width`` if given."""
        plain = text.plain
        if not plain:
            return ""
        pieces = text.pieces
        if spelled_out(plain) != plain:
            pieces = [(spelled_out(each.translate(_DROPPED)), style) for each, style in pieces]
            plain = "".join([each for each, _ in pieces])
        if not self._styled and width is None and "\t" not in plain:
            return plain if plain.endswith("\n") else f"{plain}\n"
        return "".join([f"{self._line(line, width)}\n" for line in _lines(pieces)])

    def write(self, text: str) -> None:
        """Write and flush. A closed pipe is a new ``BrokenPipeError``, which typer does not handle itself."""
        file = self.file
        try:
            file.write(text)
            file.flush()
        except BrokenPipeError:
            raise BrokenPipeError from None

    def _line(self, pieces: Sequence[Piece], width: int | None) -> str:
        plain = "".join([text for text, _ in pieces])
        if "\t" in plain:
            pieces = list(_without_tabs(pieces))
            plain = "".join([text for text, _ in pieces])
        if width is not None and cell_len(plain) > width:
            pieces = list(_cut(pieces, set_cell_size(plain, width - 1) + "…"))
        if not self._styled:
            return "".join([text for text, _ in pieces])
        return "".join(
            [
                f"\x1b[{codes}m{text}\x1b[0m" if codes else text
                for text, style in pieces
                if text
                for codes in (_codes(style, self._coloured),)
            ]
        )


def _lines(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    line: list[Piece] = []
    for text, style in pieces:
        if "\n" not in text:
            line.append((text, style))
            continue
        *whole, rest = text.split("\n")
        for part in whole:
            line.append((part, style))
            yield line
            line = []
        if rest:
            line.append((rest, style))
    if line:
        yield line


def _cut(pieces: Sequence[Piece], kept: str) -> Iterator[Piece]:
    """Apply the styles of a line to its truncated text."""
    at = 0
    for text, style in pieces:
        yield kept[at : at + len(text)], style
        at += len(text)


def _without_tabs(pieces: Sequence[Piece]) -> Iterator[Piece]:
    at = 0
    for text, style in pieces:
        *before, last = text.split("\t")
        for part in before:
            at += cell_len(part)
            blanks = _TAB - at % _TAB
            at += blanks
            yield part + " " * blanks, style
        at += cell_len(last)
        yield last, style


@cache
def _codes(style: str, coloured: bool) -> str:
    words = style.split()
    found = [_ATTRIBUTES[word] for word in _ATTRIBUTES if word in words]
    if coloured:
        found += [_COLOURS[word] for word in words if word in _COLOURS]
    return ";".join(found)


def _number(name: str) -> int:
    """Return an environment variable as a number, or 0."""
    value = os.environ.get(name, "")
    return int(value[:9]) if value.isascii() and value.isdigit() else 0


def _is_terminal(file: IO[str]) -> bool:
    compatible, forced = os.environ.get("TTY_COMPATIBLE"), os.environ.get("FORCE_COLOR")
    if compatible in ("0", "1"):
        return compatible == "1"
    if forced is not None:
        return forced != ""
    try:
        return file.isatty()
    except ValueError:  # the stream is closed
        return False


def _shows_colours(to_stderr: bool) -> bool:
    if os.name != "nt":
        return True
    from spanbus._cli.rich_console import rich_console  # rich knows the consoles of Windows

    return rich_console(to_stderr=to_stderr).color_system not in (None, "windows")
