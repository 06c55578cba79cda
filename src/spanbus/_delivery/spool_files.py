"""Directory of a spool: checks, locks and segment files."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from spanbus._delivery import FOLDER as FOLDER
from spanbus._delivery import SEGMENTS
from spanbus._delivery.regular_files import regular_files_in
from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Segment
from spanbus.errors import DeliveryError

APART: Final = "apart-"
"""Prefix of the folders with spools for signals that go to another server than the spans."""
SUFFIX: Final = SEGMENTS
_NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "ncpfs",
        "lustre",
        "gpfs",
        "beegfs",
        "sshfs",
    }
)


class SpoolUnavailable(DeliveryError):
    """The directory cannot hold a spool; the message says why."""


def allocate(descriptor: int, offset: int, size: int) -> None:
    """Allocate disk space, so that a full disk fails here. Without ``posix_fallocate`` the file is only extended."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
    else:
        os.ftruncate(descriptor, max(os.fstat(descriptor).st_size, offset + size))


def usable(directory: Path) -> None:
    """Create the directory if needed; check that it is ours and writable. Raises :class:`SpoolUnavailable`."""
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        if found.st_uid != os.geteuid():
            raise SpoolUnavailable(
                f"{directory} belongs to another user (uid {found.st_uid}); set SPANBUS_STATE_DIR to a folder of yours"
            )
        if not directory.is_dir() or directory.is_symlink():
            raise SpoolUnavailable(
                f"{directory} is no folder; set SPANBUS_STATE_DIR to another one"
            )
        if found.st_mode & 0o077:
            directory.chmod(0o700)
        probe = directory / f".probe-{os.getpid()}-{threading.get_ident()}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise SpoolUnavailable(
            f"{directory}: {error.strerror or error}; set SPANBUS_STATE_DIR to a folder that can be written"
        ) from error


def may_map(directory: Path) -> bool:
    """Whether files may be mapped: not on network and FUSE file systems, where a mapping may lose another machine's writes."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return True
    where = str(directory.resolve())
    best, kind = "", ""
    for mount in mounts:
        fields = mount.split()
        if len(fields) < 10 or "-" not in fields:
            continue
        point = fields[4].replace("\\040", " ")
        if (where == point or where.startswith(point.rstrip("/") + "/")) and len(point) >= len(
            best
        ):
            best, kind = point, fields[fields.index("-") + 1]
    return kind not in _NETWORK and not kind.startswith("fuse.")


@contextmanager
def adopting(directory: Path, *, wait: bool) -> Generator[bool]:
    """Hold the lock for adopting dead processes; yields False when another process holds it."""
    descriptor: int | None = None
    held = False
    try:
        with suppress(OSError):
            descriptor = os.open(
                directory / "adopt.lock",
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def new_segment(
    path: Path, size: int, *, mapped: bool, token: bytes, number: int, destinations: Sequence[str]
) -> Segment:
    """Create and lock a segment file. Raises OSError; a full disk fails here, not in the middle of a frame."""
    temporary = path.with_suffix(".new")
    descriptor: int | None = None
    try:
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        allocate(descriptor, 0, size)
        buffer: mmap.mmap | bytearray = mmap.mmap(descriptor, size) if mapped else bytearray(size)
        segment = Segment.create(
            buffer,
            path,
            descriptor,
            through=not mapped,
            token=token,
            number=number,
            destinations=destinations,
        )
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)
        raise
    return segment


def recovered(path: Path) -> Segment | None:
    """Lock and open the segment of a dead process; None when its writer lives or it is gone. Raises :class:`BadSegment`."""
    found = locked(path)
    if found is None:
        return None
    descriptor, size = found
    try:
        if size < HEADER_BYTES:
            raise BadSegment(path, "is shorter than a header")
        segment = Segment.recover(mmap.mmap(descriptor, size), path, descriptor)
        segment.rest()
        return segment
    except BadSegment:
        os.close(descriptor)
        raise
    except (OSError, ValueError):
        os.close(descriptor)
        return None


def locked(path: Path) -> tuple[int, int] | None:
    """Lock the file of a dead process; return descriptor and size, or None when its writer lives or it is gone.

    Raises :class:`BadSegment` for a file of another user.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    if found.st_nlink == 0:  # removed while we waited
        os.close(descriptor)
        return None
    if found.st_uid != os.geteuid():
        os.close(descriptor)
        raise BadSegment(path, "belongs to another user", newer=True)
    return descriptor, found.st_size


def segment_files(directory: Path) -> list[Path]:
    """Segment files in a directory; regular files only."""
    return regular_files_in(directory, SUFFIX)


def outlives(segment: Segment) -> bool:
    """Whether the records outlive the process: the segment has a file, and nobody removed it."""
    try:
        return segment.path is not None and segment.path.exists()
    except OSError:
        return False


def remove(segment: Segment) -> None:
    """Remove a finished segment; where that fails, the next process does it."""
    try:
        segment.remove()
    except OSError:
        with suppress(OSError):
            segment.close()


def modified_at(path: Path) -> float:
    """Modification time of a file in Unix seconds; 0.0 when it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def folder_bytes(directory: Path) -> int:
    """Total size of the segments in a directory."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith((SUFFIX, ".new")):
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def is_locked(path: Path) -> bool:
    """Whether the writer of a file lives: it holds the lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
