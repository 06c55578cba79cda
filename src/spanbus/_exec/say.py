"""One line on stderr, beside the command's own."""

from __future__ import annotations

import os

_LONGEST = 2_000
_complained: list[str] = []


def complain(text: str, error: object) -> None:
    """Say what is wrong with the record of a command, once: what comes after it mostly comes of it."""
    if not _complained:
        kind, why = type(error).__name__, str(error)
        _complained.append(text)
        say(f"{text}: {kind}: {why}" if why else f"{text}: {kind}")


def say(text: str) -> None:
    """Spell out what steers a terminal or cannot be seen; where the line cannot be written, it is not, and nobody waits."""
    line = text[:_LONGEST]
    if not (line.isascii() and line.isprintable()):
        from spanbus._sanitize import one_line

        line = one_line(text, _LONGEST)
    try:
        os.write(2, f"spanbus: {line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return
