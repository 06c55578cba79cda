"""The request under way to one destination: since when, and whether it may have arrived without our knowing."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class Attempt:
    """Written by the sending thread, read by those that end it."""

    __slots__ = ("_since", "in_doubt", "interrupted")

    def __init__(self) -> None:
        self._since: float | None = None
        self.in_doubt = False
        """The destination may have records that are not acknowledged yet."""
        self.interrupted = False
        """It was ended from outside, so that its failure says nothing."""

    @property
    def hangs(self) -> bool:
        """Whether a request is under way."""
        return self._since is not None

    @contextmanager
    def under_way(self) -> Generator[None]:
        """While a request is made."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def probes_in_vain(self, limit_s: float) -> bool:
        """Whether an empty request has taken longer than ``limit_s``."""
        since = self._since
        return since is not None and not self.in_doubt and time.monotonic() - since > limit_s
