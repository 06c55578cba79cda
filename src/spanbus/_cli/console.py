"""Output of commands: results on stdout, messages on stderr, colours only on a terminal.

All text goes through this module, which escapes control and invisible characters.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from spanbus._sanitize import lines, one_line

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen, Text


_INDENTED_CHARS = 1 << 20
"""Larger JSON documents are not indented: they are read by programs."""


class TolerantStream:
    """A standard stream that discards output after a write error, so that work can continue."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write without raising ``OSError``."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Flush without raising ``OSError``."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _lost(self, problem: OSError) -> None:
        silence(self._stream)
        if (
            problem.errno != errno.EPIPE and self._name != "stderr"
        ):  # a reader who left, as head does, knows it
            error(f"{self._name} cannot be written and is left: {problem.strerror or problem}")


def tolerate_lost_output() -> None:
    """Ignore write errors of stdout and stderr from now on, such as a closed pipe or a full disk."""
    sys.stdout, sys.stderr = (
        cast("IO[str]", TolerantStream(stream, name))
        if cast("IO[str] | None", stream) is not None
        else stream
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr"))
    )


def open_closed_streams() -> None:
    """Open the null device for closed standard streams, so that no file of ours gets their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        stream = open(os.devnull, "r" if number == 0 else "w", encoding="utf-8")  # noqa: SIM115 - for good
        try:
            os.fstat(number)
        except OSError:
            os.dup2(stream.fileno(), number, inheritable=False)
        setattr(sys, name, stream)


def escape_unencodable() -> None:
    """Escape characters that the terminal's encoding lacks instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def show_log_messages() -> None:
    """Print log records of level WARNING and above, of libraries too, through this module."""
    import logging as log

    class Messages(log.Handler):
        def emit(self, record: log.LogRecord) -> None:
            try:
                note(self.format(record))
            except Exception:  # as usual in logging
                self.handleError(record)

    log.lastResort = Messages(log.WARNING)


def silence(stream: IO[str]) -> None:
    """Discard buffered and future output of a stream."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def _read() -> Generator[None]:
    """Raise a closed pipe as a new ``BrokenPipeError``, which typer does not handle itself."""
    try:
        yield
    except BrokenPipeError:
        raise BrokenPipeError from None


def line(text: str) -> None:
    """Print one line of a result."""
    with _read():
        print(lines(text))


def raw(text: str) -> None:
    """Write text of several lines to stdout."""
    with _read():
        sys.stdout.write(lines(text))


def note(text: str) -> None:
    """Print one message line."""
    _print_message(lines(text))


def error(problem: object) -> None:
    """Print one error line."""
    _print_message(f"spanbus: {one_line(str(problem), 2_000)}")


def _print_message(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # a full disk or a closed pipe
        silence(sys.stderr)


def document(value: object) -> None:
    """Print one JSON document, indented unless it is large."""
    text = json.dumps(value)
    if len(text) <= _INDENTED_CHARS:
        text = json.dumps(value, indent=2)
    with _read():
        sys.stdout.write(f"{text}\n")


def pieces(texts: Iterable[str]) -> None:
    """Write a large text to stdout in pieces."""
    with _read():
        sys.stdout.writelines(texts)


def draw(screen: Screen, text: Text) -> None:
    """Write lines laid out for the terminal's width. They are truncated on a terminal only."""
    screen.write(screen.shown(text, screen.width if screen.is_terminal else None))


def flow(screen: Screen, text: Text) -> None:
    """Write text that the terminal wraps, such as the output of tools; it is never truncated."""
    screen.write(screen.shown(text))


def output(*, to_stderr: bool = False) -> Screen:
    """Return the screen for results (stdout) or messages (stderr). A closed pipe raises ``BrokenPipeError``."""
    from spanbus._cli.screen import Screen

    return Screen(to_stderr=to_stderr)
