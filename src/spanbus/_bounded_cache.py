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

    __slots__ = ("_function", "_size")

    def __init__(self, function: Callable[[K], V], size: int) -> None:
        self._function, self._size = function, size

    def __missing__(self, argument: K) -> V:
        result = self._function(argument)
        if len(self) >= self._size:
            self.clear()
        self[argument] = result
        return result


def bounded_cache(function: Callable[[K], V], size: int) -> Callable[[K], V]:
    """Return ``function`` with a cache of at most ``size`` results.

    Arguments must be hashable, and equal ones must have the same result. Thread-safe. Raises what ``function`` raises.
    """
    return _Results(function, size).__getitem__
