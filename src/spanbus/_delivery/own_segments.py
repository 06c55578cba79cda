"""Segments that this process writes, oldest first, and the group headers at the start of each."""

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
    """Drop and count the oldest segment; False when there is none."""

    def __call__(self, *, in_memory: bool) -> bool: ...


class OwnSegments:
    """Segments of this process. Not thread-safe: the spool has the lock.

    If the directory cannot take a segment, it is kept in memory; a file is tried again a second later.
    """

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
        "_warned",
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
        """Reason that dropped records are counted with."""
        self._collect, self._drop_oldest, self._brief = collect, drop_oldest, brief
        self.current: Segment | None = None
        self.sealed: list[Segment] = []
        self.groups: list[bytes] = []
        self._group_numbers: dict[bytes, int] = {}
        self.groups_written = 0
        """Number of groups written to the current segment."""
        self._number = 0
        self._not_before = 0.0
        self.disk_error = ""
        """Reason that the newest segment has no file; empty if it has one."""
        self._warned = brief
        """A short-lived program reports only its losses, at its end."""
        self._closed = False

    def __iter__(self) -> Iterator[Segment]:
        yield from self.sealed
        if self.current is not None:
            yield self.current

    def holds(self, segment: Segment) -> bool:
        return segment is self.current or segment in self.sealed

    @property
    def place(self) -> int:
        """End of the segments, as :meth:`Segment.place_of` numbers it."""
        segment = self.current
        return segment.place_of(segment.position) if segment is not None else self._number << 32

    # --- groups -------------------------------------------------------------------------------------------------------

    def number_of(self, data: bytes) -> int | None:
        """Number of a known group, else None; needs no lock."""
        return self._group_numbers.get(data)

    def add_group(self, data: bytes) -> tuple[int, bool]:
        """Add a group; return its number, and whether it is the first of all."""
        number = self._group_numbers.setdefault(data, len(self.groups))
        if number < len(self.groups):
            return number, False
        self.groups.append(data)
        return number, not number

    def with_groups(self, segment: Segment, more_bytes: int) -> Segment | None:
        """Write all groups to the segment, or to a new one; return that segment, None when there is no room."""
        while self.groups_written < len(self.groups):
            data = self.groups[self.groups_written]
            if not segment.room_for(8 + len(data) + FRAME_BYTES + more_bytes):
                self.seal()
                replaced = self._new_segment(8 + len(data) + FRAME_BYTES + more_bytes)
                if replaced is None:
                    return None
                segment = replaced
                continue
            segment.group(self.groups_written, data)
            self.groups_written += 1
        return segment

    # --- segments -----------------------------------------------------------------------------------------------------

    def segment_with_room(self, payload_bytes: int) -> Segment | None:
        """Return a segment with room for a payload, creating it if needed; None when there is no room."""
        segment = self.current
        if segment is not None:
            if segment.room_for(payload_bytes):
                return segment
            self.seal()
        return self._new_segment(payload_bytes)

    def seal(self) -> None:
        """Stop writing to the current segment."""
        segment, self.current = self.current, None
        if segment is not None:
            segment.sealed = True
            segment.rest()
            self.sealed.append(segment)

    def failed(self) -> None:
        """Seal a segment that could not be written; try no file for a second."""
        self.seal()
        self._not_before = time.monotonic() + _RETRY_S

    def _new_segment(self, payload_bytes: int) -> Segment | None:
        """Create a segment with room for a record and all groups."""
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
            self._new_file_segment(size, self._directory)
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

    def _new_file_segment(self, size: int, directory: Path) -> Segment | None:
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
            if not self._warned:
                self._warned = True
                logger.warning(
                    "%s: telemetry cannot be kept on disk (%s); it is kept in memory, at most %d MiB, and what is dropped is counted",
                    directory,
                    self.disk_error,
                    MEMORY_BYTES >> 20,
                )
            return None
        self._warned, self.disk_error = self._brief, ""
        return segment

    def in_memory(self) -> bool:
        """Whether any segment has no file."""
        return any(segment.path is None for segment in self)

    def memory_bytes(self) -> int:
        return sum(segment.bytes for segment in self if segment.path is None)

    def pop_oldest(self, *, in_memory: bool) -> Segment | None:
        """Remove and return the oldest sealed segment in memory, or with a file."""
        for segment in self.sealed:
            if (segment.path is None) is in_memory:
                self.sealed.remove(segment)
                return segment
        return None

    def take(self, segments: Iterable[Segment]) -> Iterable[Segment]:
        """Remove and return these segments."""
        for segment in segments:
            if segment is self.current:
                self.current = None
            else:
                self.sealed.remove(segment)
        return segments

    def collect(self, measured_upto: int) -> None:
        """Delete sealed segments that are finished and hold no measurement above this number."""
        for segment in list(self.sealed):
            if segment.finished() and segment.measured_last <= measured_upto:
                self.sealed.remove(segment)
                remove(segment)

    def close(self, measured_upto: int) -> None:
        """Keep the files with waiting records, delete the others."""
        self._closed = True
        for segment in self:
            if segment.path is None:
                continue
            with suppress(
                OSError
            ):  # a program that closes all descriptors, as daemons do, closed ours
                if segment.finished() and segment.measured_last <= measured_upto:
                    remove(segment)
                else:
                    segment.close()
        self.current = None
        self.sealed.clear()

    def forked(self) -> None:
        """In a child process: close the parent's files."""
        for segment in self:
            with suppress(OSError, ValueError, BufferError):
                segment.close()
