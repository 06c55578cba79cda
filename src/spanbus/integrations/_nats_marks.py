"""A file with how far this host has told its sinks of each partition, written in place after each message.

Who may write a partition's place in it has it locked, so that another process can tell whether that one still lives.
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
_here: Final[set[tuple[int, int]]] = set()
"""Files (device, inode) that this process has open: locks of a process do not keep it from itself, and closing such a file
anywhere in it lets go of all of them.
"""


class Mark(NamedTuple):
    """The last message that was told, the stamp (Unix nanoseconds) until which ends were let go without a message, and
    whether something more was being told.
    """

    sequence: int = 0
    let_go_ns: int = 0
    telling: int = 0


class Marks:
    """The file of one stream and group in a state directory."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1
        self._file: tuple[int, int] | None = None
        self._stream = b""
        self._marks: dict[int, Mark] = {}
        self.holder = ""
        """The name of this state directory among observers: the same for every process that has it."""

    def open(self, stream: str) -> None:
        """Open the file for the stream that was made at this time.

        Raises :class:`~spanbus.errors.BackendError` where it cannot be, and where another observer of this process has it.
        """
        self._stream = blake2b(stream.encode(), digest_size=16).digest()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _guard:
                if _file_of(self._path) in _here:
                    raise BackendError(
                        f"{self._path}: another observer in this process has it; give one observer the partitions of both, or the"
                        " second one a runtime with a state directory of its own"
                    )
                self._descriptor = open_own(self._path, os.O_RDWR)
                self._file = _file_of(self._path)
                if self._file is not None:
                    _here.add(self._file)
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
        """Become the one that marks this partition here; False while another process is."""
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
            whose, *rest = _MARK.unpack(found)
            if whose == self._stream:
                mark = Mark(*rest)
        self._marks[partition] = mark
        return True

    def release(self, partition: int) -> None:
        """Let another process mark this partition."""
        if self._marks.pop(partition, None) is not None:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _MARK.size, self._at(partition))

    def of(self, partition: int) -> Mark:
        """The mark of this partition; none while another process marks it."""
        return self._marks.get(partition, Mark())

    def tell(self, partition: int) -> None:
        """Something is being told; a process that finds this mark does not know how much of it was."""
        mark = self._marks.get(partition)
        if mark is not None:
            self._write(partition, mark._replace(telling=1))

    def told(self, partition: int, sequence: int, let_go_ns: int) -> None:
        """All was told up to this message, and all ends up to this stamp; it never goes back."""
        mark = self._marks.get(partition)
        if mark is not None:
            last = max(mark.sequence, sequence), max(mark.let_go_ns, let_go_ns)
            self._write(partition, Mark(*last))

    def _write(self, partition: int, mark: Mark) -> None:
        self._marks[partition] = mark
        os.pwrite(self._descriptor, _MARK.pack(self._stream, *mark), self._at(partition))

    def _at(self, partition: int) -> int:
        return _HEAD + _MARK.size * partition

    def close(self) -> None:
        """Close the file, and let go of every partition. May be called twice."""
        if self._descriptor >= 0:
            with _guard:
                os.close(self._descriptor)
                if self._file is not None:
                    _here.discard(self._file)
            self._descriptor, self._file = -1, None
            self._marks.clear()


def _file_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _forked() -> None:
    """In a child process: the locks are the parent's."""
    _here.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
