"""A map with weakly referenced keys, compared by identity."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakIdentityMap(Generic[T]):
    """Maps objects to values by identity, as long as the objects live. Keys may be unhashable or equal to one another."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Callable[[], object], T]] = {}

    def get(self, thing: object) -> T | None:
        found = self._found.get(id(thing))
        return found[1] if found is not None and found[0]() is thing else None

    def put(self, thing: object, value: T) -> None:
        """Store ``value``. Raises ``TypeError`` if the class of ``thing`` does not support weak references."""
        key, found = id(thing), self._found
        self._found[key] = (
            weakref.ref(
                thing,
                lambda gone: (
                    found.pop(key, None) if key in found and found[key][0] is gone else None
                ),
            ),
            value,
        )

    def forget(self, thing: object) -> None:
        if self.get(thing) is not None:
            del self._found[id(thing)]

    def values(self) -> list[T]:
        return [value for _, value in list(self._found.values())]

    def discard(self, value: T) -> None:
        """Remove every entry with this value."""
        for key, (_, known) in list(self._found.items()):
            if known is value:
                self._found.pop(key, None)
