"""Messages on stderr, one line each."""

from __future__ import annotations

import os

_LONGEST = 2_000
_complained: list[str] = []


def complain(text: str, error: object) -> None:
    """Report an error of the recording, once: later errors are mostly consequences of the first."""
    if not _complained:
        kind, why = type(error).__name__, str(error)
        _complained.append(text)
        say(f"{text}: {kind}: {why}" if why else f"{text}: {kind}")


def say(text: str) -> None:
    """Write a line with escaped control characters to stderr; ignores write errors."""
    line = text[:_LONGEST]
    if not (line.isascii() and line.isprintable()):
        from spanbus._sanitize import one_line

        line = one_line(text, _LONGEST)
    try:
        os.write(2, f"spanbus: {line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return
