"""What every command says, and how: stdout for results, stderr for messages, no colour where nobody sees it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


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
        if error.errno != errno.EPIPE and self._name != "stderr":  # a reader who left, as head does, knows it
            complain(f"{self._name} cannot be written and is left: {error.strerror or error}")


def outlive_readers() -> None:
    """From here on nobody who stops reading us, and no full disk under our output, changes how the work ends."""
    sys.stdout, sys.stderr = (
        cast("IO[str]", Outliving(stream, name)) if cast("IO[str] | None", stream) is not None else stream
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr"))
    )


def spell_what_cannot_be_shown() -> None:
    """Characters that the terminal's encoding lacks are spelled out, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def silence(stream: IO[str]) -> None:
    """What is still buffered, and all that follows, goes nowhere."""
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
        print(text)


def raw(text: str) -> None:
    """Text of several lines as it is."""
    with _read():
        sys.stdout.write(text)


def note(text: str) -> None:
    """One line of message."""
    print(text, file=sys.stderr)


def complain(error: object) -> None:
    """One line that says what is wrong; terminal escapes of other people's text are spelled out."""
    from spanbus.local.harmless import one_line

    print(f"spanbus: {one_line(str(error), 2_000)}", file=sys.stderr)


def document(value: object) -> None:
    """One JSON document on stdout."""
    with _read():
        json.dump(value, sys.stdout, indent=2)
        sys.stdout.write("\n")


def draw(console: Console, text: Text) -> None:
    """Lines that were made for the width of the terminal; in a file or a pipe none is cut."""
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        console.print(text, soft_wrap=True)


def output(*, to_stderr: bool = False) -> Console:
    """A console without markup, highlighting or emoji: what is shown is data. A reader who leaves is ``BrokenPipeError``."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Screen(stderr=to_stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
