"""Marks of results and formatting of durations, for terminal, page, report and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spanbus._semantics import Result

MARKS: Final[Mapping[str, str]] = {
    Result.SUCCESS: "✓",
    Result.FAILURE: "✗",
    Result.TIMEOUT: "⧖",
    Result.ERROR: "☠",
    Result.CANCELLATION: "⊘",
    Result.SKIP: "↷",
    "": "▶",
}
"""Mark by result; an empty result is an open span. Waiting phases have ``…``, on the page only."""

ASCII_MARKS: Final[Mapping[str, str]] = {
    Result.SUCCESS: "+",
    Result.FAILURE: "x",
    Result.TIMEOUT: "t",
    Result.ERROR: "!",
    Result.CANCELLATION: "o",
    Result.SKIP: "-",
    "": ">",
}

UNKNOWN_MARK: Final = "·"
"""Mark of an unknown result of another sender."""


def duration(seconds: float) -> str:
    """Format a duration: ``450 µs``, ``95 ms``, ``1.23 s``, ``12.3 s``, ``1 min 05 s``, ``1 h 02 min``."""
    if 0 < seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.0995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
