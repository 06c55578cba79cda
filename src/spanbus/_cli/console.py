"""Output of every command: stdout for results, stderr for messages, no colour where nobody sees it.

Every text reaches a terminal through this module, which spells out what would steer the terminal or cannot be seen.
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
"""A larger document is read by programs."""


class Outliving:
    """A standard stream that may be lost while work goes on: what cannot be written any more goes nowhere."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Like the stream's; raises no ``OSError``."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Like the stream's; raises no ``OSError``."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _lost(self, error: OSError) -> None:
        silence(self._stream)
        if (
            error.errno != errno.EPIPE and self._name != "stderr"
        ):  # a reader who left, as head does, knows it
            complain(f"{self._name} cannot be written and is left: {error.strerror or error}")


def outlive_readers() -> None:
    """From here on nobody who stops reading us, and no full disk under our output, changes how the work ends."""
    sys.stdout, sys.stderr = (
        cast("IO[str]", Outliving(stream, name))
        if cast("IO[str] | None", stream) is not None
        else stream
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr"))
    )


def open_what_is_closed() -> None:
    """The null device where a standard stream is closed: a file of ours would get its number, and print to it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        stream = open(os.devnull, "r" if number == 0 else "w", encoding="utf-8")  # noqa: SIM115 - for good
        try:
            os.fstat(number)
        except OSError:
            os.dup2(stream.fileno(), number, inheritable=False)
        setattr(sys, name, stream)


def spell_what_cannot_be_shown() -> None:
    """Characters that the terminal's encoding lacks are spelled out, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def take_what_is_logged() -> None:
    """Warnings, of libraries too, reach the terminal through this module: a line on stderr, as every message."""
    import logging as log

    class Messages(log.Handler):
        def emit(self, record: log.LogRecord) -> None:
            try:
                note(self.format(record))
            except Exception:  # as logging has it: an error of a message is no error of the program
                self.handleError(record)

    log.lastResort = Messages(log.WARNING)


def silence(stream: IO[str]) -> None:
    """Discard what is still buffered, and all that follows."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def _read() -> Generator[None]:
    """A reader who leaves is a ``BrokenPipeError`` that typer does not take for a failure of its own."""
    try:
        yield
    except BrokenPipeError:
        raise BrokenPipeError from None


def say(text: str) -> None:
    """One line of result."""
    with _read():
        print(lines(text))


def raw(text: str) -> None:
    """Text of several lines."""
    with _read():
        sys.stdout.write(lines(text))


def note(text: str) -> None:
    """One line of message."""
    _tell(lines(text))


def complain(error: object) -> None:
    """One line that says what is wrong; terminal escapes of other people's text are spelled out."""
    _tell(f"spanbus: {one_line(str(error), 2_000)}")


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # a full disk, a reader who left: nobody can be told
        silence(sys.stderr)


def document(value: object) -> None:
    """One JSON document on stdout; indented where a person may read it, in one line where it is large."""
    text = json.dumps(value)
    if len(text) <= _INDENTED_CHARS:
        text = json.dumps(value, indent=2)
    with _read():
        sys.stdout.write(f"{text}\n")


def pieces(texts: Iterable[str]) -> None:
    """A large text on stdout, piece by piece."""
    with _read():
        sys.stdout.writelines(texts)


def draw(screen: Screen, text: Text) -> None:
    """Lines that were made for the width of the terminal; in a file or a pipe none is cut."""
    screen.write(screen.shown(text, screen.width if screen.is_terminal else None))


def flow(screen: Screen, text: Text) -> None:
    """Text of others, such as the end of an output: the terminal wraps it, and nothing of it is cut."""
    screen.write(screen.shown(text))


def output(*, to_stderr: bool = False) -> Screen:
    """The screen that results, or messages, are drawn on. A reader who leaves is ``BrokenPipeError``."""
    from spanbus._cli.screen import Screen

    return Screen(to_stderr=to_stderr)
