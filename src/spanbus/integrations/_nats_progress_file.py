"""File with this host's progress in each partition, updated in place after each message.

The process that observes a partition holds a lock on its record, so other processes can see whether it is alive.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from spanbus._delivery.regular_files import open_own
from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError

_HEAD: Final = 32
_RECORD: Final = struct.Struct("<16sQQQ")

_guard: Final = threading.Lock()
_open_files: Final[set[tuple[int, int]]] = set()
"""Files (device, inode) open in this process. POSIX locks do not exclude other threads of the same process, and closing the
file anywhere in the process releases all of them.
"""


class Progress(NamedTuple):
    """Progress in one partition.

    ``sequence`` is the last processed message, ``released_ns`` the stream time (Unix nanoseconds) up to which held ends
    were released. ``writing`` is 1 while the sinks are being called.
    """

    sequence: int = 0
    released_ns: int = 0
    writing: int = 0


class ProgressFile:
    """The progress file of one stream and group in a state directory."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1
        self._file: tuple[int, int] | None = None
        self._stream = b""
        self._progress: dict[int, Progress] = {}
        self.holder = ""
        """Random id of this file, by which observers recognize their own state directory."""

    def open(self, stream: str) -> None:
        """Open the file for the stream that was created at this time.

        Raises :class:`~spanbus.errors.BackendError` on failure, and if another observer of this process has it open.
        """
        self._stream = blake2b(stream.encode(), digest_size=16).digest()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _guard:
                if _file_of(self._path) in _open_files:
                    raise BackendError(
                        f"{self._path}: another observer in this process has it; give one observer the partitions of both, or the"
                        " second one a runtime with a state directory of its own"
                    )
                self._descriptor = open_own(self._path, os.O_RDWR)
                self._file = _file_of(self._path)
                if self._file is not None:
                    _open_files.add(self._file)
        except OSError as error:
            raise BackendError(
                f"{self._path}: {error.strerror or error}; move it away, or set SPANBUS_STATE_DIR to another folder"
            ) from error
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, _HEAD, 0)
        head = os.pread(self._descriptor, _HEAD, 0)
        if len(head) < _HEAD or not any(head):
            head = os.urandom(_HEAD)
            os.pwrite(self._descriptor, head, 0)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _HEAD, 0)
        self.holder = head[:8].hex()

    def lock(self, partition: int) -> bool:
        """Lock the record of this partition. Returns False while another process holds the lock."""
        if partition in self._progress:
            return True
        try:
            fcntl.lockf(
                self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _RECORD.size, self._at(partition)
            )
        except OSError:
            return False
        found = os.pread(self._descriptor, _RECORD.size, self._at(partition))
        progress = Progress()
        if len(found) == _RECORD.size:
            stream, *rest = _RECORD.unpack(found)
            if stream == self._stream:
                progress = Progress(*rest)
        self._progress[partition] = progress
        return True

    def release(self, partition: int) -> None:
        """Unlock the record of this partition."""
        if self._progress.pop(partition, None) is not None:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _RECORD.size, self._at(partition))

    def of(self, partition: int) -> Progress:
        """Return the progress of this partition; empty unless this process has it locked."""
        return self._progress.get(partition, Progress())

    def begin(self, partition: int) -> None:
        """Record that the sinks are being called. After a crash it is unknown how much of that call took effect."""
        progress = self._progress.get(partition)
        if progress is not None:
            self._write(partition, progress._replace(writing=1))

    def commit(self, partition: int, sequence: int, released_ns: int) -> None:
        """Record that everything up to this message and this stream time was processed. Neither ever decreases."""
        progress = self._progress.get(partition)
        if progress is not None:
            last = max(progress.sequence, sequence), max(progress.released_ns, released_ns)
            self._write(partition, Progress(*last))

    def _write(self, partition: int, progress: Progress) -> None:
        self._progress[partition] = progress
        os.pwrite(self._descriptor, _RECORD.pack(self._stream, *progress), self._at(partition))

    def _at(self, partition: int) -> int:
        return _HEAD + _RECORD.size * partition

    def close(self) -> None:
        """Close the file and release all locks. May be called twice."""
        if self._descriptor >= 0:
            with _guard:
                os.close(self._descriptor)
                if self._file is not None:
                    _open_files.discard(self._file)
            self._descriptor, self._file = -1, None
            self._progress.clear()


def _file_of(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, or None if it does not exist."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _forked() -> None:
    _open_files.clear()  # in the child: the locks belong to the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
