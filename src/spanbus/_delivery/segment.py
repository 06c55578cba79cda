"""Segment: one append-only file of frames.

Layout, little-endian. A header of 128 bytes: magic, version, number of destinations, process id, token of the writer, segment
number, Unix seconds of creation, a flag for finished leftovers, two destinations of 16 bytes and their read positions. Frames
follow, aligned to 8 bytes: length and CRC-32 of the rest, then kind, signal, count, Unix seconds and payload. The CRC detects
a torn frame; a length of 0 ends the file.

The buffer is a memory-mapped file (bytes survive the process as soon as they are written), a file to which every frame is also
written (where mapping is not safe), or memory alone (where no file can be created).
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from time import time_ns
from typing import Final
from zlib import crc32

from spanbus._otlp.signals import Signal
from spanbus.errors import DeliveryError

MAGIC: Final = b"SPANBUS\x01"
VERSION: Final = 1
HEADER_BYTES: Final = 128
DESTINATIONS_MOST: Final = 2

_HEADER: Final = struct.Struct("<8sHHI8sQIB3x16s16s")
_CURSORS_AT: Final = 96
_DONE_AT: Final = 36
_CURSOR: Final = struct.Struct("<Q")
_LEADS: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<BBHI")
_RECORD: Final = struct.Struct("<IQQ")
_KEY: Final = struct.Struct("<Q")
_LEADS_OF: Final = _LEADS.pack
_RECORD_HEAD: Final = struct.Struct("<BBHIIQQ").pack
_HEAD_BYTES: Final = _HEAD.size
_RECORD_HEAD_BYTES: Final = _HEAD.size + _RECORD.size
_KEY_HEAD: Final = struct.Struct("<BBHIQ").pack
_KEY_HEAD_BYTES: Final = _HEAD.size + _KEY.size
FRAME_BYTES: Final = _LEADS.size + _HEAD.size

_SECOND_NS: Final = 1_000_000_000
_SIGNALS: Final[tuple[Signal, ...]] = tuple(Signal)
_NUMBER: Final = {signal: number for number, signal in enumerate(_SIGNALS)}

Buffer = mmap.mmap | bytearray


class Kind(IntEnum):
    """Kind of a frame."""

    RECORD = 1
    GROUP = 2
    OPEN = 3
    UPDATE = 4
    CLOSE = 5


_RECORD_KIND: Final = int(Kind.RECORD)
_RECORD_FRAME: Final = Kind.RECORD
_JOURNAL_FROM: Final = int(Kind.OPEN)
_KINDS: Final[dict[int, Kind]] = {int(kind): kind for kind in Kind}


class BadSegment(DeliveryError):
    """The file is not a segment that this version can read."""

    def __init__(self, path: Path, reason: str, *, newer: bool = False) -> None:
        super().__init__(f"{path}: {reason}")
        self.newer = newer


class Frame:
    """One frame as read, from ``offset`` to ``end``. ``key`` is a journal key, or the number of a group."""

    __slots__ = (
        "at_s",
        "count",
        "data",
        "end",
        "group",
        "key",
        "kind",
        "offset",
        "sequence",
        "signal",
    )

    def __init__(
        self,
        kind: Kind,
        signal: Signal,
        count: int,
        at_s: int,
        offset: int,
        end: int,
        group: int,
        key: int,
        sequence: int,
        data: bytes,
    ) -> None:
        self.kind, self.signal = kind, signal
        self.count, self.at_s = count, at_s
        self.offset, self.end = offset, end
        self.group, self.key = group, key
        self.sequence, self.data = sequence, data


class Segment:
    """An open segment; not thread-safe, its owner has the lock. ``position`` is the offset of the next frame."""

    __slots__ = (
        "_buffer",
        "_descriptor",
        "_taken",
        "_through",
        "bytes",
        "cursors",
        "destinations",
        "leftovers_done",
        "measured_last",
        "number",
        "path",
        "position",
        "records",
        "sealed",
        "token",
    )

    def __init__(
        self, buffer: Buffer, path: Path | None, descriptor: int | None, *, through: bool
    ) -> None:
        self._buffer = buffer
        self._descriptor = descriptor
        self._through = through and descriptor is not None
        self.path = path
        self.bytes = len(buffer)
        self.position = HEADER_BYTES
        self.sealed = False
        self.measured_last = 0
        """Highest number of a measured record."""
        self.records = 0
        self._taken: dict[str, int] = {}
        """Acknowledged records by destination."""
        self.cursors: dict[str, int] = {}
        self.destinations: tuple[str, ...] = ()
        self.token = b""
        self.number = 0
        self.leftovers_done = False

    # --- making and opening -------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        buffer: Buffer,
        path: Path | None,
        descriptor: int | None,
        *,
        through: bool,
        token: bytes,
        number: int,
        destinations: Sequence[str],
    ) -> Segment:
        """Create a segment in an empty buffer."""
        segment = cls(buffer, path, descriptor, through=through)
        segment.token, segment.number, segment.destinations = token, number, tuple(destinations)
        segment.cursors = dict.fromkeys(destinations, HEADER_BYTES)
        segment._taken = dict.fromkeys(destinations, 0)
        names = [name.encode()[:16] for name in destinations] + [b""] * DESTINATIONS_MOST
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            len(segment.destinations),
            os.getpid(),
            token,
            number,
            time_ns() // _SECOND_NS,
            0,
            names[0],
            names[1],
        )
        for position, _ in enumerate(segment.destinations):
            header = header.ljust(_CURSORS_AT + 8 * position, b"\0") + _CURSOR.pack(HEADER_BYTES)
        segment._put(0, header)
        return segment

    @classmethod
    def recover(
        cls, buffer: Buffer, path: Path, descriptor: int | None, *, through: bool = False
    ) -> Segment:
        """Open a segment that another process wrote, up to its last whole frame. Raises :class:`BadSegment`."""
        if len(buffer) < HEADER_BYTES:
            raise BadSegment(path, "is shorter than a header")
        magic, version, count, _, token, number, _, done, *names = _HEADER.unpack_from(buffer, 0)
        if magic != MAGIC:
            raise BadSegment(path, "is no segment of a spool")
        if version != VERSION:
            raise BadSegment(
                path, f"was written by a newer spanbus (version {version})", newer=True
            )
        if count > DESTINATIONS_MOST:
            raise BadSegment(path, f"names {count} destinations")
        segment = cls(buffer, path, descriptor, through=through)
        segment.token, segment.number = token, number
        segment.leftovers_done = bool(done)
        segment.sealed = True
        segment.destinations = tuple(
            name.rstrip(b"\0").decode("ascii", "replace") for name in names[:count]
        )
        wanted = {
            name: _CURSOR.unpack_from(buffer, _CURSORS_AT + 8 * position)[0]
            for position, name in enumerate(segment.destinations)
        }
        segment.cursors = dict.fromkeys(segment.destinations, HEADER_BYTES)
        segment._taken = dict.fromkeys(segment.destinations, 0)
        for frame in segment.frames(HEADER_BYTES):
            segment.position = frame.end
            if frame.kind is Kind.RECORD:
                segment.records += 1
                for name, cursor in wanted.items():
                    if frame.offset < cursor:
                        segment._taken[name] += 1
            for name, cursor in wanted.items():
                if frame.end <= cursor:  # a cursor counts only as far as frames are whole
                    segment.cursors[name] = frame.end
        return segment

    def place_of(self, offset: int) -> int:
        """Return a position in it as one number that increases over all segments of a process."""
        return self.number << 32 | offset

    # --- writing ------------------------------------------------------------------------------------------------------

    def room_for(self, payload_bytes: int) -> bool:
        return self.position + FRAME_BYTES + payload_bytes + 8 <= self.bytes

    def record(
        self, signal: Signal, group: int, data: bytes, count: int, closes: int, sequence: int
    ) -> None:
        """Append a record; ``closes`` is a journal key or 0, ``sequence`` the number of a measurement or 0."""
        self._append(
            _RECORD_HEAD(
                _RECORD_KIND,
                _NUMBER[signal],
                count,
                time_ns() // _SECOND_NS,
                group,
                closes,
                sequence,
            )
            + data
        )
        self.records += 1

    def group(self, number: int, data: bytes) -> None:
        self._append(_KEY_HEAD(Kind.GROUP, 0, 0, time_ns() // _SECOND_NS, number) + data)

    def journal(self, kind: Kind, key: int, data: bytes) -> None:
        self._append(_KEY_HEAD(kind, 0, 0, time_ns() // _SECOND_NS, key) + data)

    def _append(self, body: bytes) -> None:
        position = self.position
        size = len(body)
        frame = _LEADS_OF(size, crc32(body)) + body
        end = position + 8 + size
        self._buffer[position:end] = frame
        if self._through:
            self._write(frame, position)
        self.position = (end + 7) & ~7

    def _put(self, offset: int, data: bytes) -> None:
        self._buffer[offset : offset + len(data)] = data
        if self._through:
            self._write(data, offset)

    def _write(self, data: bytes, offset: int) -> None:
        assert self._descriptor is not None
        os.pwrite(self._descriptor, data, offset)

    def acknowledge(self, destination: str, offset: int, records: int) -> None:
        """Acknowledge everything before ``offset``."""
        self.cursors[destination] = offset
        self._taken[destination] += records
        self._put(_CURSORS_AT + 8 * self.destinations.index(destination), _CURSOR.pack(offset))

    def finish_leftovers(self) -> None:
        """Mark that another process has finished the leftovers."""
        self.leftovers_done = True
        self._put(_DONE_AT, b"\x01")

    # --- reading ------------------------------------------------------------------------------------------------------

    def frames(self, offset: int, *, journal: bool = True) -> Iterator[Frame]:
        """Yield whole frames from ``offset``; stop at the first torn one. ``journal`` includes the frames of a journal."""
        buffer, size = self._buffer, self.bytes
        while offset + FRAME_BYTES <= size:
            lead: tuple[int, int] = _LEADS.unpack_from(buffer, offset)
            length, checksum = lead
            begin = offset + 8
            if length < _HEAD_BYTES or begin + length > size:
                return
            end = offset + ((8 + length + 7) & ~7)
            if not journal and buffer[begin] >= _JOURNAL_FROM:
                offset = end
                continue
            body = bytes(buffer[begin : begin + length])
            if crc32(body) != checksum:
                return
            head: tuple[int, int, int, int] = _HEAD.unpack_from(body, 0)
            kind, signal, count, at_s = head
            try:
                which = _KINDS[kind]
                if which is _RECORD_FRAME:
                    group, closes, sequence = _RECORD.unpack_from(body, _HEAD_BYTES)
                    yield Frame(
                        which,
                        _SIGNALS[signal],
                        count,
                        at_s,
                        offset,
                        end,
                        group,
                        closes,
                        sequence,
                        body[_RECORD_HEAD_BYTES:],
                    )
                else:
                    yield Frame(
                        which,
                        _SIGNALS[0],
                        0,
                        at_s,
                        offset,
                        end,
                        0,
                        _KEY.unpack_from(body, _HEAD_BYTES)[0],
                        0,
                        body[_KEY_HEAD_BYTES:],
                    )
            except (KeyError, IndexError, struct.error):
                return
            offset = end

    def waiting(self, destination: str) -> int:
        """Number of records that ``destination`` has not acknowledged; 0 if they are not for it."""
        return self.records - self._taken.get(destination, self.records)

    def finished(self) -> bool:
        """Whether every destination has acknowledged everything."""
        return all([taken == self.records for taken in self._taken.values()])

    def oldest_at_s(self) -> int | None:
        """Time of the oldest record that some destination does not have."""
        waiting = [cursor for name, cursor in self.cursors.items() if self.waiting(name)]
        if not waiting:
            return None
        return next(
            (frame.at_s for frame in self.frames(min(waiting)) if frame.kind is Kind.RECORD), None
        )

    # --- closing ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Return mapped pages to the system, so that waiting records take no memory; reading maps them again."""
        if isinstance(self._buffer, mmap.mmap) and sys.platform == "linux":
            with suppress(OSError, ValueError):
                self._buffer.madvise(mmap.MADV_DONTNEED)

    def sync(self) -> None:
        """Sync to the disk; needed only against a power cut."""
        if self._descriptor is not None:  # not mmap.flush(), which holds the GIL meanwhile
            getattr(os, "fdatasync", os.fsync)(self._descriptor)

    def close(self) -> None:
        """Unmap and unlock; the file stays."""
        if isinstance(self._buffer, mmap.mmap):
            self._buffer.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Close and delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.close()
