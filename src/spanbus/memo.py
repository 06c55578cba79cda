"""A bounded memory of what was made of a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """What was made of a value, kept for when it comes again; begins anew when there are too many."""

    def __init__(self, make: Callable[[K], V], most: int = 256) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, value: K) -> V:
        made = self._make(value)
        if len(self) >= self._most:
            self.clear()
        self[value] = made
        return made
