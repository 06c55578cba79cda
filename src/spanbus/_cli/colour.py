"""A tool's line as it is shown: its colours kept or taken out, everything else that cannot be seen spelled out."""

from __future__ import annotations

import re

from spanbus._runs.sanitize import one_line

_SGR = re.compile(r"(\x1b\[[0-9;:]*m)")
_ESCAPES = re.compile(
    r"\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]"
)
_RESET = "\x1b[0m"


def coloured(line: str) -> str:
    """``line`` whole, with its colours, which end with it."""
    if "\x1b" not in line:
        return whole(line)
    parts = _SGR.split(line)
    shown = "".join(
        part if index % 2 else whole(_ESCAPES.sub("", part)) for index, part in enumerate(parts)
    )
    return shown + (_RESET if len(parts) > 1 and not shown.endswith((_RESET, "\x1b[m")) else "")


def plain(line: str) -> str:
    """``line`` whole, without colours."""
    return whole(_ESCAPES.sub("", line) if "\x1b" in line else line)


def whole(line: str) -> str:
    """``line`` with what cannot be seen spelled out; it is not shortened."""
    return one_line(line, len(line) * 10 + 1)
