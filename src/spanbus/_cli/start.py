"""Fast answers without loading a command: version, help, completion of commands and options."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_WIDTH = 80


def answered(word: str) -> bool:
    """Answer ``--version`` or ``--help``. Returns False for other words, and if the help must be wrapped anew."""
    if word in ("-V", "--version"):
        from spanbus._version import __version__

        text = f"spanbus {__version__}\n"
    elif word in ("-h", "--help") and _width() >= _WIDTH:
        from spanbus._cli.start_data import HELP

        text = HELP
    else:
        return False
    return _written(text)


def completed(wanted: str, env: Mapping[str, str]) -> bool:
    """Complete a command or option for bash. Returns False if completion needs the settings or the store."""
    words = env.get("COMP_WORDS", "").split(" ")
    place = env.get("COMP_CWORD", "")
    line = "".join(words)
    if (
        wanted != "complete_bash"
        or not place.isdecimal()
        or any(mark in line for mark in "'\"\\\n\t")
    ):
        return False
    words = [word for word in words if word]
    here = int(place)
    before, begun = words[1:here], words[here] if here < len(words) else ""
    from spanbus._cli.start_data import COMMANDS

    _, _, options = COMMANDS.get(before[0] if before else "", (False, (), ()))
    if not before and not begun.startswith("-"):
        found = [name for name in COMMANDS if name.startswith(begun)]
    elif begun.startswith("-") and options and "--" not in before:
        if before[-1].startswith("-"):  # this may be the value of an option
            return False
        found = [
            name
            for names, again, *_ in options
            if again or not any(name in before for name in names)
            for name in names
            if name.startswith(begun)
        ]
    else:
        return False
    return _written("".join(f"{name}\n" for name in found))


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return _WIDTH


def _written(text: str) -> bool:
    """Write to stdout. Returns False on failure; then the normal command reports the error."""
    if sys.stdout is None or sys.stdout.closed:  # pyright: ignore[reportUnnecessaryComparison]
        return False
    data = text.encode()
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return False
    return True
