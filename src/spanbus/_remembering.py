"""A cache for functions of one argument on the way of an event.

``functools.lru_cache`` packs and compares a tuple of arguments at every call, twice the cost of this look-up. A span asks some
twenty-five times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Results(dict[K, V]):
    """Results by argument; an absent one is computed, and a full dictionary begins anew."""

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
    """``function``, which is called once for each argument; of results at most ``most`` are kept.

    Arguments are hashable, and those that are equal have the same result. Safe from any thread; raises what ``function`` raises.
    """
    return _Results(function, most).__getitem__
