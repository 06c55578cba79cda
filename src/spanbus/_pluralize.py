"""Counts with a matching noun."""

from __future__ import annotations


def pluralize(count: int, one: str, many: str) -> str:
    """Return ``1 record waits``, ``2 records wait``, ``0 records wait``."""
    return f"{count} {one if count == 1 else many}"
