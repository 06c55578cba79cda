"""A cache for functions of one argument, for the hot path.

``functools.lru_cache`` packs and compares a tuple of arguments at every call, which takes twice as long. A span needs some
twenty-five lookups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Results(dict[K, V]):
    """Results by argument; a missing one is computed, and a full dictionary is cleared first."""

    __slots__ = ("_function", "_most")

    def __init__(self, function: Callable[[K], V], most: int) -> None:
        self._function, self._most = function, most

    def __missing__(self, argument: K) -> V:
        result = self._function(argument)
        if len(self) >= self._most:
            self.clear()
        self[argument] = result
        return result


def remembering(function: Callable[[K], V], most: int) -> Callable[[K], V]:
    """Return ``function`` with a cache of at most ``most`` results.

    Arguments must be hashable, and equal ones must have the same result. Thread-safe. Raises what ``function`` raises.
    """
    return _Results(function, most).__getitem__
