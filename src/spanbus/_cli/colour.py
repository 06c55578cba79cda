"""Display of a tool's output line: colours are kept or removed, other invisible characters are escaped."""

from __future__ import annotations

import re

from spanbus._runs.sanitize import one_line

_SGR = re.compile(r"(\x1b\[[0-9;:]*m)")
_ESCAPES = re.compile(
    r"\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]"
)
_RESET = "\x1b[0m"


def coloured(line: str) -> str:
    """Return the line with its colours, which are reset at its end."""
    if "\x1b" not in line:
        return whole(line)
    parts = _SGR.split(line)
    shown = "".join(
        part if index % 2 else whole(_ESCAPES.sub("", part)) for index, part in enumerate(parts)
    )
    return shown + (_RESET if len(parts) > 1 and not shown.endswith((_RESET, "\x1b[m")) else "")


def plain(line: str) -> str:
    """Return the line without colours."""
    return whole(_ESCAPES.sub("", line) if "\x1b" in line else line)


def whole(line: str) -> str:
    """Return the line with invisible characters escaped, not truncated."""
    return one_line(line, len(line) * 10 + 1)
