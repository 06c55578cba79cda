"""Dead letters: a bounded folder of requests that a destination refused for good.

One file is the raw body of one OTLP request, as it was sent before compression: ``<unix ns>-<pid>-<n>.<signal>.otlp``.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from spanbus._otlp.signals import Signal

REFUSED: Final = "refused"
"""Name of the folder in the state directory."""
SUFFIX: Final = ".otlp"
LARGEST_BYTES: Final = 16 * 1024 * 1024
MOST_FILES: Final = 256


class DeadLetters:
    """Folder of dead letters, created on first use and readable only by its owner; the oldest files are deleted first."""

    def __init__(
        self, directory: Path, *, largest_bytes: int = LARGEST_BYTES, most_files: int = MOST_FILES
    ) -> None:
        self.directory = directory
        self._largest_bytes = largest_bytes
        self._most_files = most_files
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def keep(self, signal: Signal, body: bytes) -> Path | None:
        """Write one request; None when that fails (too large, disk full, read-only). Never raises."""
        if len(body) > self._largest_bytes or not body:
            return None
        path = (
            self.directory
            / f"{time.time_ns()}-{os.getpid()}-{next(self._numbers)}.{signal}{SUFFIX}"
        )
        try:
            with self._lock:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._make_room(len(body))
                descriptor = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600
                )
                with os.fdopen(descriptor, "wb") as file:
                    file.write(body)
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return path

    def forked(self) -> None:
        """In a child process: the parent may have held the lock."""
        self._lock = threading.Lock()

    def _make_room(self, size_bytes: int) -> None:
        found: list[tuple[str, int]] = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):  # deleted by another process
                        found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
        found.sort()
        used = sum(size for _, size in found)
        while found and (used + size_bytes > self._largest_bytes or len(found) >= self._most_files):
            name, size = found.pop(0)
            used -= size
            with suppress(FileNotFoundError):
                (self.directory / name).unlink()
