"""When each destination last answered any program on this state directory.

A batch that is under way when a program ends is sent again by the next one, unless its answer is waited for. That is worth
it where the destination is known to live, and short-lived programs cannot know it by themselves. One empty file per
destination, whose time of modification is the answer's.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Final

FRESH_S: Final = 10.0

_EVERY_S = 1.0


class LifeSigns:
    """Never raises; without a usable directory nothing is known."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: dict[str, float] = {}

    def note(self, destination: str) -> None:
        """It has just answered; written once a second at most."""
        now = time.monotonic()
        if now - self._noted.get(destination, -_EVERY_S) < _EVERY_S:
            return
        self._noted[destination] = now
        try:
            path = self._path(destination)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            os.utime(path)
        except OSError:
            return

    def fresh(self, destination: str) -> bool:
        """Whether it has answered some program in the last seconds."""
        try:
            age_s = time.time_ns() / 1e9 - self._path(destination).stat().st_mtime
        except OSError:
            return False
        return -FRESH_S < age_s < FRESH_S

    def _path(self, destination: str) -> Path:
        return self._directory / f"{zlib.crc32(destination.encode()):08x}.answered"
