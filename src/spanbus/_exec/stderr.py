"""Messages on stderr, one line each, beside the command's own output."""

from __future__ import annotations

import os

_LONGEST = 2_000
_reported: list[str] = []


def report_error(text: str, error: object) -> None:
    """Print the first error of a recording; later ones are mostly consequences and are dropped."""
    if not _reported:
        kind, why = type(error).__name__, str(error)
        _reported.append(text)
        print_line(f"{text}: {kind}: {why}" if why else f"{text}: {kind}")


def print_line(text: str) -> None:
    """Print one line. Control and invisible characters are escaped; a failure to write is ignored."""
    line = text[:_LONGEST]
    if not (line.isascii() and line.isprintable()):
        from spanbus._sanitize import one_line

        line = one_line(text, _LONGEST)
    try:
        os.write(2, f"spanbus: {line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return
