"""A count in words that agree with it."""

from __future__ import annotations


def pluralize(count: int, one: str, many: str) -> str:
    """``1 record waits``, ``2 records wait``; nothing is many too."""
    return f"{count} {one if count == 1 else many}"
