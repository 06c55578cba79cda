"""Retry policy with exponential backoff."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_DELAY_S = 3_600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number and delay of retries: ``backoff_s * 2 ** (n - 1)`` seconds before the n-th one, at most an hour."""

    max_retries: int = 0
    backoff_s: float = 0.5

    def delay_s(self, attempt: int) -> float | None:
        """Return the seconds to wait after failed attempt ``attempt`` (from 1), None if it was the last."""
        if attempt > self.max_retries:
            return None
        return min(LONGEST_DELAY_S, self.backoff_s * 2.0 ** min(attempt - 1, 60))
