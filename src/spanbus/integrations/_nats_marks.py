"""Local file with the progress of this host in each partition, written in place after each message.

The process that observes a partition locks its slot in the file, so that other processes can see whether it is alive.
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
_MARK: Final = struct.Struct("<16sQQQ")


_guard: Final = threading.Lock()
_open_files: Final[set[tuple[int, int]]] = set()
"""Open files (device, inode) of this process. POSIX locks do not exclude the process itself, and closing any descriptor of the
file releases all its locks.
"""


class Mark(NamedTuple):
    """Last reported message, the stamp (Unix nanoseconds) up to which waiting ends were released, and whether a report was
    under way.
    """

    sequence: int = 0
    released_ns: int = 0
    reporting: int = 0


class Marks:
    """Progress file of one stream and group in a state directory."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1
        self._file: tuple[int, int] | None = None
        self._stream = b""
        self._marks: dict[int, Mark] = {}
        self.holder = ""
        """Name of this state directory among observers, the same for all its processes."""

    def open(self, stream: str) -> None:
        """Open the file for the stream created at this time.

        Raises :class:`~spanbus.errors.BackendError` if that fails, or if another observer of this process has it open.
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
        """Lock the slot of a partition; False while another process holds it."""
        if partition in self._marks:
            return True
        try:
            fcntl.lockf(
                self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _MARK.size, self._at(partition)
            )
        except OSError:
            return False
        found = os.pread(self._descriptor, _MARK.size, self._at(partition))
        mark = Mark()
        if len(found) == _MARK.size:
            stream, *rest = _MARK.unpack(found)
            if stream == self._stream:
                mark = Mark(*rest)
        self._marks[partition] = mark
        return True

    def release(self, partition: int) -> None:
        """Unlock the slot of a partition."""
        if self._marks.pop(partition, None) is not None:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _MARK.size, self._at(partition))

    def of(self, partition: int) -> Mark:
        """Progress of a partition; an empty one without its lock."""
        return self._marks.get(partition, Mark())

    def begin_report(self, partition: int) -> None:
        """Mark a report as under way: a successor cannot know how much of it was done."""
        mark = self._marks.get(partition)
        if mark is not None:
            self._write(partition, mark._replace(reporting=1))

    def reported(self, partition: int, sequence: int, released_ns: int) -> None:
        """Record that everything up to this message, and all ends up to this stamp, was reported; never goes back."""
        mark = self._marks.get(partition)
        if mark is not None:
            last = max(mark.sequence, sequence), max(mark.released_ns, released_ns)
            self._write(partition, Mark(*last))

    def _write(self, partition: int, mark: Mark) -> None:
        self._marks[partition] = mark
        os.pwrite(self._descriptor, _MARK.pack(self._stream, *mark), self._at(partition))

    def _at(self, partition: int) -> int:
        return _HEAD + _MARK.size * partition

    def close(self) -> None:
        """Close the file, and unlock every slot. May be called twice."""
        if self._descriptor >= 0:
            with _guard:
                os.close(self._descriptor)
                if self._file is not None:
                    _open_files.discard(self._file)
            self._descriptor, self._file = -1, None
            self._marks.clear()


def _file_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if it does not exist."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _forked() -> None:
    """In a child process: the locks belong to the parent."""
    _open_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
