"""Segments that this process writes, oldest first, and the groups with which each of them begins."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from spanbus._delivery.segment import FRAME_BYTES, HEADER_BYTES, Segment
from spanbus._delivery.spool_files import (
    SUFFIX,
    SpoolUnavailable,
    folder_bytes,
    new_segment,
    remove,
    usable,
)
from spanbus._loggers import Logger

logger = Logger(__name__)

MEMORY_BYTES: Final = 16 * 2**20
FIRST_SEGMENT_BYTES: Final = 2**20
_RETRY_S: Final = 1.0


class DropOldest(Protocol):
    """Makes room by dropping, and counting, the oldest segment; False where there is none to drop."""

    def __call__(self, *, in_memory: bool) -> bool: ...


class OwnSegments:
    """Not thread-safe: the spool has the lock. What a directory does not take goes into memory, and a file is tried later."""

    __slots__ = (
        "_brief",
        "_closed",
        "_collect",
        "_destinations",
        "_directory",
        "_drop_oldest",
        "_group_numbers",
        "_not_before",
        "_number",
        "_quota_bytes",
        "_segment_bytes",
        "_token",
        "_told",
        "current",
        "disk_error",
        "groups",
        "groups_written",
        "mapped",
        "reason",
        "sealed",
    )

    def __init__(
        self,
        directory: Path | None,
        token: bytes,
        destinations: tuple[str, ...],
        *,
        quota_bytes: int,
        segment_bytes: int,
        mapped: bool | None,
        reason: str,
        collect: Callable[[], None],
        drop_oldest: DropOldest,
        brief: bool = False,
    ) -> None:
        self._directory, self._token, self._destinations = directory, token, destinations
        self._quota_bytes, self._segment_bytes = quota_bytes, segment_bytes
        self.mapped = mapped
        self.reason = reason
        """Reason for which records are dropped, where they are."""
        self._collect, self._drop_oldest, self._brief = collect, drop_oldest, brief
        self.current: Segment | None = None
        self.sealed: list[Segment] = []
        self.groups: list[bytes] = []
        self._group_numbers: dict[bytes, int] = {}
        self.groups_written = 0
        """Number of groups that stand in the current segment."""
        self._number = 0
        self._not_before = 0.0
        self.disk_error = ""
        """Why the newest segment has no file, empty where it has one."""
        self._told = brief
        """Of a program that ends soon, only what it lost is told, at its end."""
        self._closed = False

    def __iter__(self) -> Iterator[Segment]:
        yield from self.sealed
        if self.current is not None:
            yield self.current

    def holds(self, segment: Segment) -> bool:
        return segment is self.current or segment in self.sealed

    @property
    def place(self) -> int:
        """The place where the next record goes, or before it, as :meth:`Segment.place_of` says it."""
        segment = self.current
        return segment.place_of(segment.position) if segment is not None else self._number << 32

    # --- groups -------------------------------------------------------------------------------------------------------

    def number_of(self, data: bytes) -> int | None:
        """The number of a group that is known; may be asked without the lock."""
        return self._group_numbers.get(data)

    def add_group(self, data: bytes) -> tuple[int, bool]:
        """The number of a group, and whether it is the first of all."""
        number = self._group_numbers.setdefault(data, len(self.groups))
        if number < len(self.groups):
            return number, False
        self.groups.append(data)
        return number, not number

    def with_groups(self, segment: Segment, more_bytes: int) -> Segment | None:
        """The segment, or the one after it, with all groups written in it; None when that is impossible."""
        while self.groups_written < len(self.groups):
            data = self.groups[self.groups_written]
            if not segment.room_for(8 + len(data) + FRAME_BYTES + more_bytes):
                self.seal()
                replaced = self._made(8 + len(data) + FRAME_BYTES + more_bytes)
                if replaced is None:
                    return None
                segment = replaced
                continue
            segment.group(self.groups_written, data)
            self.groups_written += 1
        return segment

    # --- segments -----------------------------------------------------------------------------------------------------

    def room(self, payload_bytes: int) -> Segment | None:
        """The segment in which so much has room, a new one where it takes one; None when that is impossible."""
        segment = self.current
        if segment is not None:
            if segment.room_for(payload_bytes):
                return segment
            self.seal()
        return self._made(payload_bytes)

    def seal(self) -> None:
        """Write no more into the current segment."""
        segment, self.current = self.current, None
        if segment is not None:
            segment.sealed = True
            segment.rest()
            self.sealed.append(segment)

    def failed(self) -> None:
        """The current segment could not be written; no file is tried for a while."""
        self.seal()
        self._not_before = time.monotonic() + _RETRY_S

    def _made(self, payload_bytes: int) -> Segment | None:
        """A new segment with room for this record and carried-over data."""
        carried = sum(FRAME_BYTES + 16 + len(data) for data in self.groups)
        wanted = (
            self._segment_bytes if self._number else min(FIRST_SEGMENT_BYTES, self._segment_bytes)
        )
        size = max(wanted, HEADER_BYTES + carried + payload_bytes + 2 * FRAME_BYTES + 64)
        size = (size + 4095) & ~4095
        if size > self._quota_bytes:
            return None
        self._collect()
        segment = (
            self._in_a_file(size, self._directory)
            if self._directory is not None and not self._closed
            else None
        )
        if segment is None:
            if self.memory_bytes() + size > min(
                MEMORY_BYTES, self._quota_bytes
            ) and not self._drop_oldest(in_memory=True):
                return None
            segment = Segment.create(
                bytearray(size),
                None,
                None,
                through=False,
                token=self._token,
                number=self._number,
                destinations=self._destinations,
            )
        self._number += 1
        self.current = segment
        self.groups_written = 0
        return self.with_groups(segment, payload_bytes) if self.groups else segment

    def _in_a_file(self, size: int, directory: Path) -> Segment | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            if not directory.exists():  # the directory was removed
                usable(directory)
            while folder_bytes(directory) + size > self._quota_bytes:
                if not self._drop_oldest(in_memory=False):
                    raise OSError(
                        errno.EDQUOT,
                        f"the spool's quota of {self._quota_bytes} bytes is used up by running processes",
                    )
            segment = new_segment(
                directory / f"{self._token.hex()}-{self._number:08d}{SUFFIX}",
                size,
                mapped=bool(self.mapped),
                token=self._token,
                number=self._number,
                destinations=self._destinations,
            )
        except (OSError, SpoolUnavailable) as problem:
            error = problem if isinstance(problem, OSError) else problem.__cause__
            self._not_before = time.monotonic() + _RETRY_S
            self.reason = (
                "disk_full"
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "no_spool"
            )
            self.disk_error = (error.strerror if isinstance(error, OSError) else "") or str(problem)
            if not self._told:
                self._told = True
                logger.warning(
                    "%s: telemetry cannot be kept on disk (%s); it is kept in memory, at most %d MiB, and what is dropped is counted",
                    directory,
                    self.disk_error,
                    MEMORY_BYTES >> 20,
                )
            return None
        self._told, self.disk_error = self._brief, ""
        return segment

    def in_memory(self) -> bool:
        """Whether a segment has no file."""
        return any(segment.path is None for segment in self)

    def memory_bytes(self) -> int:
        return sum(segment.bytes for segment in self if segment.path is None)

    def pop_oldest(self, *, in_memory: bool) -> Segment | None:
        """The oldest sealed segment of this kind, which is no longer one of these."""
        for segment in self.sealed:
            if (segment.path is None) is in_memory:
                self.sealed.remove(segment)
                return segment
        return None

    def take(self, segments: Iterable[Segment]) -> Iterable[Segment]:
        """These segments, which are no longer among the own."""
        for segment in segments:
            if segment is self.current:
                self.current = None
            else:
                self.sealed.remove(segment)
        return segments

    def collect(self, measured_upto: int) -> None:
        """Remove the sealed segments that are finished, and whose measurements up to this number are exported."""
        for segment in list(self.sealed):
            if segment.finished() and segment.measured_last <= measured_upto:
                self.sealed.remove(segment)
                remove(segment)

    def close(self, measured_upto: int) -> None:
        """Leave the files with waiting records, delete the others."""
        self._closed = True
        for segment in self:
            if segment.path is None:
                continue
            with suppress(
                OSError
            ):  # a program that closes every descriptor, as daemons do, has closed this one too
                if segment.finished() and segment.measured_last <= measured_upto:
                    remove(segment)
                else:
                    segment.close()
        self.current = None
        self.sealed.clear()

    def forked(self) -> None:
        """In a child process: the files are the parent's."""
        for segment in self:
            with suppress(OSError, ValueError, BufferError):
                segment.close()
