"""The folder of a spool: whether it can be used, which files are whose, what a dead process left in them."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from spanbus.delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus.delivery.signals import Signal
from spanbus.errors import DeliveryError

FOLDER: Final = "spool"
APART: Final = "apart-"
"""How the folders begin whose spools hold what goes to another server than the spans do."""
SUFFIX: Final = ".seg"
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "ncpfs", "lustre", "gpfs", "beegfs", "sshfs"})


class SpoolUnavailable(DeliveryError):
    """No spool can be kept in a directory; the text says why."""


class Leftover(NamedTuple):
    """What a dead process left: open journal entries with their updates, and measured records that were not exported."""

    open: list[tuple[int, list[bytes]]]
    measurements: list[bytes]
    token: bytes = b""
    group: bytes = b""
    """The header that this process introduced first: its resource."""


def usable(directory: Path) -> None:
    """Make sure that a directory is there, is ours and can be written. Raises :class:`SpoolUnavailable`."""
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        if found.st_uid != os.geteuid():
            raise SpoolUnavailable(f"{directory} belongs to another user (uid {found.st_uid}); set SPANBUS_STATE_DIR to a folder of yours")
        if not directory.is_dir() or directory.is_symlink():
            raise SpoolUnavailable(f"{directory} is no folder; set SPANBUS_STATE_DIR to another one")
        if found.st_mode & 0o077:
            directory.chmod(0o700)
        probe = directory / f".probe-{os.getpid()}-{threading.get_ident()}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise SpoolUnavailable(f"{directory}: {error.strerror or error}; set SPANBUS_STATE_DIR to a folder that can be written") from error


def may_map(directory: Path) -> bool:
    """Mapping a file of a network file system may lose what another machine writes; there frames are written plainly."""
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
        if (where == point or where.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind not in _NETWORK and not kind.startswith("fuse.")


@contextmanager
def adopting(directory: Path, *, wait: bool) -> Generator[bool]:
    """Hold the lock under which segments of dead processes are taken; False when another process has it."""
    descriptor: int | None = None
    held = False
    try:
        with suppress(OSError):
            descriptor = os.open(directory / "adopt.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def recovered(path: Path) -> Segment | None:
    """The segment of a dead process, locked by us; None when it lives or is gone. Raises :class:`BadSegment`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        if found.st_nlink == 0:  # removed while we waited
            os.close(descriptor)
            return None
        if found.st_uid != os.geteuid():
            raise BadSegment(path, "belongs to another user", newer=True)
        if found.st_size < HEADER_BYTES:
            raise BadSegment(path, "is shorter than a header")
        return Segment.recover(mmap.mmap(descriptor, found.st_size), path, descriptor)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BadSegment:
        os.close(descriptor)
        raise
    except (OSError, ValueError):
        os.close(descriptor)
        return None


def segment_files(directory: Path) -> list[Path]:
    """Regular files only: opening a pipe would wait for its other end."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False)]
    except OSError:
        return []


def outlives(segment: Segment) -> bool:
    """Whether what it holds is there when the process has ended: it has a file that nobody has removed."""
    try:
        return segment.path is not None and segment.path.exists()
    except OSError:
        return False


def remove(segment: Segment) -> None:
    """Nobody needs it any more; where it cannot be removed now, the next process does it."""
    try:
        segment.remove()
    except OSError:
        with suppress(OSError):
            segment.close()


def left_open(segments: list[Segment], groups: dict[int, bytes]) -> Leftover:
    """What the frames say is open and was measured without being exported, with the groups on the way."""
    opened: dict[int, list[bytes]] = {}
    measured: dict[int, bytes] = {}
    for segment in segments:
        restarted: set[int] = set()
        for frame in segment.frames(HEADER_BYTES):
            match frame.kind:
                case Kind.GROUP:
                    groups[frame.key] = frame.data
                case Kind.OPEN:
                    opened[frame.key] = [frame.data]
                    restarted.add(frame.key)
                case Kind.UPDATE:
                    if frame.key in opened:
                        opened[frame.key].append(frame.data)
                case Kind.CLOSE:
                    opened.pop(frame.key, None)
                case Kind.RECORD:
                    if frame.key:
                        opened.pop(frame.key, None)
                    if frame.sequence and frame.signal is Signal.TRACES:
                        measured[frame.sequence] = frame.data
                    elif frame.sequence:
                        for sequence in [sequence for sequence in measured if sequence <= frame.sequence]:
                            del measured[sequence]
    if any(segment.leftovers_done for segment in segments):
        return Leftover([], [], segments[0].token)
    return Leftover(list(opened.items()), list(measured.values()), segments[0].token, groups.get(0, b""))


def is_token(text: str) -> bool:
    """Whether this is how a process names its segments."""
    try:
        return len(bytes.fromhex(text)) == 8
    except ValueError:
        return False


def made_at(path: Path) -> float:
    """When a file was changed last, in Unix seconds; 0.0 when it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def folder_bytes(directory: Path) -> int:
    """The size of all segments in a directory."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith((SUFFIX, ".new")):
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def is_locked(path: Path) -> bool:
    """Whether its writer lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
