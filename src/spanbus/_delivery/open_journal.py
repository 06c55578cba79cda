"""Journal of open spans: one file of slots per process, written in place.

The file ``<token>.open`` lies beside the spool's segments. An entry (the start of a run, phase or hook) takes a slot when it
opens and frees it when it closes, so that the file is as large as the most entries open at once and nothing is copied. Updates
of an entry take slots of their own; its oldest updates are freed first. One heartbeat serves all entries: they die together.

Layout, native byte order. A header of 128 bytes: magic, version, destinations, process id, token, heartbeat (Unix
nanoseconds). Slots of 384 bytes follow: length and CRC-32 of the rest (length 0: free), then key, place, order, part, number of
parts, kind and the payload. ``place`` is where the spool's segments ended when the entry was opened: only a record behind it
closes the entry.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

from spanbus._delivery import JOURNALS
from spanbus._delivery.regular_files import regular_files_in
from spanbus._delivery.segment import DESTINATIONS_MOST, BadSegment
from spanbus._delivery.spool_files import allocate
from spanbus._named_tuple import NamedTuple

SUFFIX: Final = JOURNALS
SLOT_BYTES: Final = 384
LIMIT_BYTES: Final = 64 * 2**20
UPDATES_BYTES: Final = 16 * 2**10
"""Limit on the updates of one entry; the newest are kept."""

_MAGIC: Final = b"SPANOPEN"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHI8s8x16s16s")
_ALIVE_AT: Final = 24
_ALIVE: Final = struct.Struct("@q")
_LEADS: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<QQQHHB3x")
_PAYLOAD_BYTES: Final = SLOT_BYTES - _LEADS.size - _HEAD.size
_AREA_BYTES: Final = 128 * 2**10
_SLOTS: Final = _AREA_BYTES // SLOT_BYTES
_FREE: Final = bytes(_LEADS.size)
_PARTS_MOST: Final = 1024
_RETRY_S: Final = 1.0
_GROUP: Final = 1
_OPEN: Final = 2
_UPDATE: Final = 3
_LEADS_OF: Final = _LEADS.pack
_HEAD_OF: Final = _HEAD.pack

_Area = mmap.mmap | bytearray


class Entry(NamedTuple):
    """Open entry: key, end of the segments when it opened, and its start followed by its updates."""

    key: int
    place: int
    pieces: list[bytes]


class JournalContent(NamedTuple):
    """Content of the journal of a dead process."""

    token: bytes
    destinations: tuple[str, ...]
    alive_ns: int
    group: bytes
    entries: list[Entry]


class OpenJournal:
    """Journal of this process, under its spool's lock. The first entry creates the file; on a full disk entries are not kept."""

    def __init__(
        self,
        path: Path,
        token: bytes,
        destinations: Sequence[str],
        *,
        mapped: bool,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.path = path
        self._token = token
        self._destinations = tuple(destinations)
        self._mapped = mapped
        self._areas_most = max(1, limit_bytes // _AREA_BYTES)
        self._descriptor: int | None = None
        self._header: _Area = bytearray()
        self._areas: list[_Area] = []
        self._freed: list[int] = []
        self._used = 0
        """Number of slots used so far."""
        self._opened: dict[int, tuple[int, ...]] = {}
        self._updates: dict[int, deque[tuple[int, ...]]] = {}
        self._order = 0
        self._not_before = 0.0
        self._closed = False
        self._group = b""

    def introduce(self, group: bytes) -> None:
        """Set the header of our resource, which identifies the owner of the journal."""
        self._group = group

    def __len__(self) -> int:
        return len(self._opened)

    def opened(self, key: int, place: int, data: bytes) -> None:
        """Write an entry."""
        if key in self._opened:
            self.closed(key)
        slots = self._write(_OPEN, key, place, data, self._areas_most)
        if slots is not None:
            self._opened[key] = slots

    def updated(self, key: int, data: bytes) -> None:
        """Add an update to an entry; ignored when it is closed."""
        if key not in self._opened:
            return
        slots = self._write(_UPDATE, key, 0, data, max(1, self._areas_most * 3 // 4))
        if slots is None:
            return
        pieces = self._updates.get(key)
        if pieces is None:
            pieces = self._updates[key] = deque()
        pieces.append(slots)
        while len(pieces) > 1 and sum(map(len, pieces)) * _PAYLOAD_BYTES > UPDATES_BYTES:
            self._free_slots(pieces.popleft())

    def closed(self, key: int) -> None:
        """Free the slots of an entry."""
        slots = self._opened.pop(key, None)
        if slots is None:
            return
        self._free_slots(slots)
        if self._updates:
            for more in self._updates.pop(key, ()):
                self._free_slots(more)

    def alive(self, now_ns: int) -> None:
        """Write the heartbeat: all entries were open at this time."""
        if self._opened and not self._closed:
            data = _ALIVE.pack(now_ns)
            self._header[_ALIVE_AT : _ALIVE_AT + 8] = data
            self._write_through(data, _ALIVE_AT)

    # --- slots --------------------------------------------------------------------------------------------------------

    def _write(
        self, kind: int, key: int, place: int, data: bytes, areas_most: int
    ) -> tuple[int, ...] | None:
        self._order += 1
        parts = (len(data) + _PAYLOAD_BYTES - 1) // _PAYLOAD_BYTES or 1
        if self._closed or parts > _PARTS_MOST:
            return None
        if len(self._freed) < parts and not self._make_room(parts, areas_most):
            return None
        if parts == 1:
            slot = self._freed.pop() if self._freed else self._next_slot()
            self._put(slot, _HEAD_OF(key, place, self._order, 0, 1, kind) + data)
            return (slot,)
        slots: list[int] = []
        for part in range(parts):
            slot = self._freed.pop() if self._freed else self._next_slot()
            piece = data[part * _PAYLOAD_BYTES : (part + 1) * _PAYLOAD_BYTES]
            self._put(slot, _HEAD_OF(key, place, self._order, part, parts, kind) + piece)
            slots.append(slot)
        return tuple(slots)

    def _next_slot(self) -> int:
        slot = self._used
        self._used += 1
        return slot

    def _put(self, slot: int, body: bytes) -> None:
        begin = slot % _SLOTS * SLOT_BYTES
        frame = _LEADS_OF(len(body), crc32(body)) + body
        self._areas[slot // _SLOTS][begin : begin + len(frame)] = frame
        if not self._mapped:
            self._write_through(frame, _slot_offset(slot))

    def _free_slots(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            begin = slot % _SLOTS * SLOT_BYTES
            self._areas[slot // _SLOTS][begin : begin + len(_FREE)] = _FREE
            if not self._mapped:
                self._write_through(_FREE, _slot_offset(slot))
            self._freed.append(slot)

    def _make_room(self, parts: int, areas_most: int) -> bool:
        """Whether there are enough free slots, after adding areas if needed."""
        while len(self._freed) + len(self._areas) * _SLOTS - self._used < parts:
            if len(self._areas) >= areas_most:
                return False
            now = time.monotonic()
            if now < self._not_before:
                return False
            try:
                if self._descriptor is None:
                    self._create()
                else:
                    self._areas.append(self._new_area())
            except (OSError, ValueError):
                self._not_before = now + _RETRY_S
                return False
        return True

    # --- the file -----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        temporary = self.path.with_suffix(".making")
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            allocate(descriptor, 0, mmap.ALLOCATIONGRANULARITY)
            names = [name.encode()[:16] for name in self._destinations] + [b""] * DESTINATIONS_MOST
            header = _HEADER.pack(
                _MAGIC,
                _VERSION,
                len(self._destinations),
                os.getpid(),
                self._token,
                names[0],
                names[1],
            )
            os.pwrite(descriptor, header, 0)
            first = mmap.ALLOCATIONGRANULARITY
            self._header = mmap.mmap(descriptor, first) if self._mapped else bytearray(first)
            os.rename(temporary, self.path)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._areas.append(self._new_area())
        if self._group:
            self._write(_GROUP, 0, 0, self._group, self._areas_most)

    def _new_area(self) -> _Area:
        assert self._descriptor is not None
        offset = mmap.ALLOCATIONGRANULARITY + len(self._areas) * _AREA_BYTES
        allocate(self._descriptor, offset, _AREA_BYTES)
        if self._mapped:
            return mmap.mmap(self._descriptor, _AREA_BYTES, offset=offset)
        return bytearray(_AREA_BYTES)

    def _write_through(self, data: bytes, offset: int) -> None:
        if not self._mapped and self._descriptor is not None:
            try:
                os.pwrite(self._descriptor, data, offset)
            except OSError:
                return

    def renewed(self) -> int | None:
        """Return the descriptor of the file, to sync it without the lock; a file that was removed is written anew before.

        None if there is no file.
        """
        if self._descriptor is not None and not self._closed and not self.path.exists():
            self._recreate()
        return None if self._closed else self._descriptor

    def _recreate(self) -> None:
        before = self._areas, self._header, self._descriptor, self._used
        areas = [bytes(area) for area in self._areas]
        self._areas = []
        try:
            group, self._group = self._group, b""
            self._create()
            self._group = group
            while len(self._areas) < len(areas):
                self._areas.append(self._new_area())
            for position, content in enumerate(areas):
                self._areas[position][:] = content
                self._write_through(content, _slot_offset(position * _SLOTS))
        except (OSError, ValueError):
            self._areas, self._header, self._descriptor, self._used = before
            return
        _release_files(before[0], before[1], before[2])

    def close(self) -> None:
        """Close; delete the file when nothing is open, else leave it for the next process. May be called twice."""
        self._closed = True
        try:
            if self._descriptor is not None and not self._opened:
                self.path.unlink(missing_ok=True)
        except OSError:
            pass
        _release_files(self._areas, self._header, self._descriptor)
        self._areas, self._header, self._descriptor = [], bytearray(), None
        self._opened.clear()
        self._updates.clear()

    def forked(self) -> None:
        """In a child process: close the parent's file. The child does not use this journal."""
        self._closed = True
        _release_files(self._areas, self._header, self._descriptor)
        self._descriptor = None


def _slot_offset(slot: int) -> int:
    area, number = divmod(slot, _SLOTS)
    return mmap.ALLOCATIONGRANULARITY + area * _AREA_BYTES + number * SLOT_BYTES


def _release_files(areas: list[_Area], header: _Area, descriptor: int | None) -> None:
    for area in (*areas, header):
        if isinstance(area, mmap.mmap):
            try:
                area.close()
            except (BufferError, ValueError):
                continue
    if descriptor is not None:
        try:
            os.close(descriptor)
        except OSError:
            return


def parse_journal(path: Path, data: bytes) -> JournalContent:
    """Parse the bytes of a journal. Torn slots count as free. Raises :class:`BadSegment`."""
    if len(data) < mmap.ALLOCATIONGRANULARITY:
        raise BadSegment(path, "is shorter than a header")
    magic, version, count, _, token, *names = _HEADER.unpack_from(data, 0)
    if magic != _MAGIC:
        raise BadSegment(path, "is no journal of a spool")
    if version != _VERSION or count > DESTINATIONS_MOST:
        raise BadSegment(
            path, f"was written by a newer spanbus (version {version})", newer=version > _VERSION
        )
    (alive_ns,) = _ALIVE.unpack_from(data, _ALIVE_AT)
    found: dict[tuple[int, int], dict[int, tuple[int, int, int, bytes]]] = {}
    for key, place, order, part, parts, kind, payload in _slots(data):
        found.setdefault((key, order), {})[part] = (parts, place, kind, payload)
    entries: dict[int, Entry] = {}
    updates: dict[int, list[bytes]] = {}
    group = b""
    for (key, _), pieces in sorted(found.items(), key=lambda item: item[0][1]):
        parts, place, kind, _ = next(iter(pieces.values()))
        if len(pieces) != parts:
            continue
        data = b"".join(pieces[part][3] for part in range(parts))
        if kind == _GROUP:
            group = data
        elif kind == _OPEN:
            entries[key] = Entry(key, place, [data])
            updates.pop(key, None)
        else:
            updates.setdefault(key, []).append(data)
    for key, more in updates.items():
        if key in entries:
            entries[key].pieces.extend(more)
    shown = tuple(name.rstrip(b"\0").decode("ascii", "replace") for name in names[:count])
    return JournalContent(token, shown, alive_ns, group, list(entries.values()))


def _slots(data: bytes) -> Iterator[tuple[int, int, int, int, int, int, bytes]]:
    for area in range(mmap.ALLOCATIONGRANULARITY, len(data), _AREA_BYTES):
        for begin in range(area, min(area + _SLOTS * SLOT_BYTES, len(data)), SLOT_BYTES):
            length, checksum = _LEADS.unpack_from(data, begin)
            if not _HEAD.size <= length <= SLOT_BYTES - _LEADS.size:
                continue
            body = data[begin + _LEADS.size : begin + _LEADS.size + length]
            if len(body) == length and crc32(body) == checksum:
                key, place, order, part, parts, kind = _HEAD.unpack_from(body, 0)
                if part < parts <= _PARTS_MOST:
                    yield key, place, order, part, parts, kind, body[_HEAD.size :]


def journal_files(directory: Path) -> list[Path]:
    """Journal files in a directory; regular files only."""
    return regular_files_in(directory, SUFFIX)
