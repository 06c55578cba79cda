"""Back-off between attempts: exponential with full jitter, and at least the destination's Retry-After."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_WISH_S: Final = 600.0  # a Retry-After of a day is a mistake


class Backoff:
    """Due time of the next attempt, in seconds of the caller's monotonic clock."""

    def __init__(self, first_s: float, longest_s: float, jitter: Callable[[], float]) -> None:
        self._first_s, self._longest_s, self._jitter = first_s, longest_s, jitter
        self.failures = 0
        self.due = 0.0
        self.not_before = 0.0
        """Earliest time that the destination allows."""

    def failed(self, now: float, wish_s: float | None) -> None:
        """Schedule the next attempt; the pause grows with the number of failures."""
        longest_s = min(self._longest_s, self._first_s * 2 ** min(self.failures, 16))
        wish = min(wish_s or 0.0, _LONGEST_WISH_S)
        self.failures += 1
        self.not_before = now + wish
        self.due = now + max(_SHORTEST_PAUSE_S, longest_s * self._jitter(), wish)

    def skip(self) -> None:
        """Wait only as long as the destination asked for."""
        self.due = self.not_before

    def succeeded(self) -> None:
        self.failures = 0
        self.due = 0.0
