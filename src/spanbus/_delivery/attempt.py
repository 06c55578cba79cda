"""The request under way to one destination: its start, and whether it may have arrived unacknowledged."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class Attempt:
    """State of the request under way. Written by the sending thread, read by threads that stop it."""

    __slots__ = ("_since", "in_doubt", "interrupted")

    def __init__(self) -> None:
        self._since: float | None = None
        self.in_doubt = False
        """The destination may have records that are not acknowledged yet."""
        self.interrupted = False
        """Aborted from outside, so its failure says nothing about the destination."""

    @property
    def hangs(self) -> bool:
        """Whether a request is under way."""
        return self._since is not None

    @contextmanager
    def under_way(self) -> Generator[None]:
        """Mark a request as under way."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def probe_overdue(self, limit_s: float) -> bool:
        """Whether a probe has taken longer than ``limit_s``."""
        since = self._since
        return since is not None and not self.in_doubt and time.monotonic() - since > limit_s
