"""Output of every command: stdout for results, stderr for messages.

Every text reaches a terminal through this module, which escapes control and invisible characters.
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
"""Limit for indenting; larger documents are read by programs only."""


class LossyStream:
    """Standard stream that discards all output after a write error, so that the work goes on."""

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

    def _lost(self, error: OSError) -> None:
        silence(self._stream)
        if error.errno != errno.EPIPE and self._name != "stderr":  # EPIPE: the reader closed it
            complain(f"{self._name} cannot be written and is left: {error.strerror or error}")


def ignore_lost_streams() -> None:
    """From here on, a closed pipe or a full disk under our output does not change the outcome of the work."""
    sys.stdout, sys.stderr = (
        cast("IO[str]", LossyStream(stream, name))
        if cast("IO[str] | None", stream) is not None
        else stream
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr"))
    )


def open_closed_streams() -> None:
    """Open the null device for closed standard streams; otherwise a file of ours would get the descriptor."""
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
    """Escape characters that the terminal's encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def show_log_messages() -> None:
    """Print logged warnings, also of libraries, as a line on stderr through this module."""
    import logging as log

    class Messages(log.Handler):
        def emit(self, record: log.LogRecord) -> None:
            try:
                note(self.format(record))
            except Exception:  # as in logging: a bad message is no error of the program
                self.handleError(record)

    log.lastResort = Messages(log.WARNING)


def silence(stream: IO[str]) -> None:
    """Redirect a stream to the null device, including its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def _broken_pipe_from_us() -> Generator[None]:
    """Raise a new ``BrokenPipeError``, which typer does not handle."""
    try:
        yield
    except BrokenPipeError:
        raise BrokenPipeError from None


def say(text: str) -> None:
    """Print one line of result."""
    with _broken_pipe_from_us():
        print(lines(text))


def raw(text: str) -> None:
    """Print text of several lines."""
    with _broken_pipe_from_us():
        sys.stdout.write(lines(text))


def note(text: str) -> None:
    """Print one line of message to stderr."""
    _write_message(lines(text))


def complain(error: object) -> None:
    """Print an error as one line on stderr."""
    _write_message(f"spanbus: {one_line(str(error), 2_000)}")


def _write_message(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # a full disk or a closed pipe
        silence(sys.stderr)


def document(value: object) -> None:
    """Print one JSON document; indented, or in one line if it is large."""
    text = json.dumps(value)
    if len(text) <= _INDENTED_CHARS:
        text = json.dumps(value, indent=2)
    with _broken_pipe_from_us():
        sys.stdout.write(f"{text}\n")


def pieces(texts: Iterable[str]) -> None:
    """Print a large text piece by piece."""
    with _broken_pipe_from_us():
        sys.stdout.writelines(texts)


def draw(screen: Screen, text: Text) -> None:
    """Print lines laid out for the terminal; each is cut to its width, but not in a file or a pipe."""
    screen.write(screen.shown(text, screen.width if screen.is_terminal else None))


def flow(screen: Screen, text: Text) -> None:
    """Print foreign text, such as a tool's output: the terminal wraps it, nothing is cut."""
    screen.write(screen.shown(text))


def output(*, to_stderr: bool = False) -> Screen:
    """Screen for results, or for messages. A closed pipe raises ``BrokenPipeError``."""
    from spanbus._cli.screen import Screen

    return Screen(to_stderr=to_stderr)
