"""A map of weakly held keys by identity: they may be unhashable, or equal to one another."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakIdentityMap(Generic[T]):
    """Things known of other things, which are told apart by identity and forgotten when they go: a bus may be
    unhashable, or equal to another.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[Callable[[], object], T]] = {}

    def get(self, thing: object) -> T | None:
        found = self._found.get(id(thing))
        return found[1] if found is not None and found[0]() is thing else None

    def put(self, thing: object, value: T) -> None:
        """Raises ``TypeError`` for a thing to which no weak reference can be made."""
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
        """Forget everything of which ``value`` is known."""
        for key, (_, known) in list(self._found.items()):
            if known is value:
                self._found.pop(key, None)
