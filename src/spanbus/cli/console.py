"""What every command says, and how: stdout for results, stderr for messages, no colour where nobody sees it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def say(text: str) -> None:
    """One line of result."""
    print(text)


def note(text: str) -> None:
    """One line of message."""
    print(text, file=sys.stderr)


def complain(error: object) -> None:
    """One line that says what is wrong; terminal escapes of other people's text are spelled out."""
    from spanbus.local.harmless import one_line

    print(f"spanbus: {one_line(str(error), 2_000)}", file=sys.stderr)


def document(value: object) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def draw(console: Console, text: Text) -> None:
    """Lines that were made for the width of the terminal; in a file or a pipe none is cut."""
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        console.print(text, soft_wrap=True)


def output(*, to_stderr: bool = False) -> Console:
    """A console without markup, highlighting or emoji: what is shown is data."""
    from rich.console import Console

    return Console(stderr=to_stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
