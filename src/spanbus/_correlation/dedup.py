"""Deduplication of events by id and type."""

from __future__ import annotations


class Dedup:
    """Remembers the ids of recent events, in two generations of half the bound each."""

    __slots__ = ("_half", "_new", "_old")

    def __init__(self, remembered: int) -> None:
        self._half = max(1, remembered // 2)
        self._new: dict[str, str] = {}
        self._old: dict[str, str] = {}

    def is_double(self, event_id: str, event_type: str) -> bool:
        """Whether an event with this id and type was seen before; remembers it."""
        new, old = self._new, self._old
        if event_id not in new and event_id not in old:
            new[event_id] = event_type
            if len(new) >= self._half:
                self._old, self._new = new, {}
            return False
        if (new[event_id] if event_id in new else old[event_id]) == event_type:
            return True
        both = f"{event_id}\x1f{event_type}"  # one id shared by several events, such as a task id
        if both in new or both in old:
            return True
        self._remember(both, event_type)
        return False

    def _remember(self, event_id: str, event_type: str) -> None:
        self._new[event_id] = event_type
        if len(self._new) >= self._half:
            self._old, self._new = self._new, {}
