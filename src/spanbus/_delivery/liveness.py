"""Liveness of destinations, shared by all programs on a state directory: last answers and current failures.

If a program ends without waiting for the answer to its last batch, the next program sends the batch again. Waiting is worth it
only for a live destination, which a short-lived program cannot know by itself. Each destination has an empty file, modified at
its last answer, and while it fails a second file with the reason.
"""

from __future__ import annotations

import os
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from spanbus._delivery.regular_files import is_own_folder, open_own, read_regular
from spanbus._named_tuple import NamedTuple

FRESH_S: Final = 10.0

_EVERY_S = 1.0
_FAILING: Final = ".failing"
_LARGEST_BYTES: Final = 65_536
_REASON_CHARS: Final = 500


class Failing(NamedTuple):
    """A destination whose last attempt failed, with reason and time (Unix seconds)."""

    shown: str
    reason: str
    at_s: float


class Liveness:
    """Shared liveness of destinations. Never raises; without a usable directory no destination is known to live."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: dict[str, float] = {}
        self._failed: dict[str, tuple[float, str]] = {}

    def note(self, destination: str) -> None:
        """Record an answer; written once a second at most."""
        now = time.monotonic()
        if now - self._noted.get(destination, -_EVERY_S) < _EVERY_S:
            return
        self._noted[destination] = now
        try:
            path = self._path(destination, ".answered")
            if is_own_folder(self._directory):
                os.close(open_own(path, os.O_WRONLY))
                os.utime(path)
        except OSError:
            return

    def failed(self, destination: str, reason: str) -> None:
        """Record a failure; written once a second at most, and when the reason changes."""
        at_s, before = self._failed.get(destination, (-_EVERY_S, ""))
        now = time.monotonic()
        if now - at_s < _EVERY_S and before == reason:
            return
        self._failed[destination] = now, reason
        path = self._path(destination, _FAILING)
        text = f"{destination}\n{' '.join(reason.split())[:_REASON_CHARS]}"
        if not is_own_folder(self._directory):
            return
        with suppress(OSError):
            temporary = path.with_suffix(f".{os.getpid()}")
            descriptor = open_own(temporary, os.O_WRONLY | os.O_TRUNC)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.rename(path)

    def works(self, destination: str) -> None:
        """Clear the failure."""
        self._failed.pop(destination, None)
        with suppress(OSError):
            self._path(destination, _FAILING).unlink(missing_ok=True)

    def fresh(self, destination: str) -> bool:
        """Whether it answered any program in the last 10 s."""
        try:
            age_s = time.time_ns() / 1e9 - self._path(destination, ".answered").stat().st_mtime
        except OSError:
            return False
        return -FRESH_S < age_s < FRESH_S

    def _path(self, destination: str, suffix: str) -> Path:
        return self._directory / f"{zlib.crc32(destination.encode()):08x}{suffix}"


def failing(directory: Path) -> list[Failing]:
    """Destinations whose last attempt by any program failed."""
    found: list[Failing] = []
    for path in sorted(directory.glob(f"*{_FAILING}")):
        with suppress(OSError, ValueError):
            shown, _, reason = read_regular(path, _LARGEST_BYTES).decode().partition("\n")
            found.append(Failing(shown, reason, path.stat().st_mtime))
    return found
