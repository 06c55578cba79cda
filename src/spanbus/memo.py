"""A bounded memory of what was made of a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """What was made of a value, kept for when it comes again; begins anew when there are too many."""

    __slots__ = ("_known", "_make", "_most")

    def __init__(self, make: Callable[[K], V], most: int = 256) -> None:
        self._known: dict[K, V] = {}
        self._make = make
        self._most = most

    def __getitem__(self, value: K) -> V:
        known = self._known
        if value in known:
            return known[value]
        made = self._make(value)
        if len(known) >= self._most:
            known.clear()
        known[value] = made
        return made
