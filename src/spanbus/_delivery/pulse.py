"""Liveness of a destination, and the duration of its answers."""

from __future__ import annotations

import time

from spanbus._delivery.liveness import FRESH_S, Liveness


class Pulse:
    """Liveness of one destination, from its answers to this process or to another program."""

    def __init__(self, shown: str, signs: Liveness | None) -> None:
        self._shown, self._signs = shown, signs
        self.answered = False
        """The last request was answered, possibly with a temporary failure."""
        self.taking = False
        """It took records, and since then has at most asked for another attempt."""
        self._answered_at = 0.0
        self.answer_s = 0.0
        """Estimated seconds until an answer; errs on the long side."""

    def heard(self, after_s: float) -> None:
        """Record an answer."""
        self.answer_s = max(after_s, self.answer_s * 0.7)
        self.answered = True
        self._answered_at = time.monotonic()
        if self._signs is not None:
            self._signs.note(self._shown)

    def took(self) -> None:
        """Record that it took records."""
        self.taking = True

    def failed(self, reason: str, *, heard: bool) -> None:
        """Record a failure; ``heard`` when the destination itself reported it."""
        self.answered = heard
        self.taking = self.taking and heard
        if heard:
            self._answered_at = time.monotonic()
        if self._signs is not None:
            self._signs.failed(self._shown, reason)

    def works(self) -> None:
        """Record the end of an outage."""
        if self._signs is not None:
            self._signs.works(self._shown)

    def lives(self) -> bool:
        """Whether it answered this or another program in the last 10 s."""
        if self.answered and time.monotonic() - self._answered_at < FRESH_S:
            return True
        return self._signs is not None and self._signs.fresh(self._shown)
