"""The spool: what was put is there until every destination has it, whatever becomes of the process.

A directory holds segments of many processes. Each is written by one, which holds its lock; what a dead process left is
taken over by the next one that comes, once. Beside records the spool keeps a journal of what is open and knows which records
were measured and not yet exported as metrics, so that nothing of a killed process is lost or counted twice.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Self

from spanbus.delivery.segment import FRAME_BYTES, HEADER_BYTES, BadSegment, Kind, Segment
from spanbus.delivery.signals import Signal
from spanbus.delivery.spool_files import (
    FOLDER,
    SUFFIX,
    Leftover,
    SpoolUnavailable,
    adopting,
    folder_bytes,
    is_token,
    left_open,
    made_at,
    may_map,
    outlives,
    recovered,
    remove,
    segment_files,
    usable,
)
from spanbus.delivery.wire import trace_of

logger = logging.getLogger(__name__)

MEMORY_BYTES: Final = 16 * 2**20
FIRST_SEGMENT_BYTES: Final = 2**20
SEGMENT_BYTES: Final = 4 * 2**20
_RETRY_S: Final = 1.0
_RECORD_BYTES: Final = 28
_SLICE: Final = 8
_SLICE_S: Final = 0.000_3
_OPEN, _GROUP, _RECORD = Kind.OPEN, Kind.GROUP, Kind.RECORD  # asked for at every frame: a member is looked up by a descriptor
_TRACES_REMEMBERED: Final = 1_000
_CLOSINGS_BYTES: Final = 1024
"""Kept free at the end of each file, to close there what was closed in memory when the disk was full."""
_FRAME_MOST: Final = FRAME_BYTES + _RECORD_BYTES + 8


class Stored:
    """One record as it was put; ``group`` is the header that it was put with."""

    __slots__ = ("count", "data", "group", "signal")

    def __init__(self, signal: Signal, group: bytes, data: bytes, count: int) -> None:
        self.signal, self.group, self.data, self.count = signal, group, data, count


class SpoolStatistics(NamedTuple):
    """Records put by signal, dropped by signal and reason; bytes and age of what waits here."""

    put: Mapping[Signal, int]
    dropped: Mapping[tuple[Signal, str], int]
    bytes: int
    oldest_at_ns: int | None


class Place(NamedTuple):
    """How far a segment was read, and how many records that were."""

    segment: Segment
    offset: int
    records: int


class Batch(NamedTuple):
    """What was read; ``end`` is what to acknowledge."""

    records: list[Stored]
    end: list[Place]


class _Undecided(NamedTuple):
    """A record that went at the quota while it was being sent."""

    segment: Segment
    offset: int
    missing: set[str]
    """The destinations that it is being sent to."""
    signal: Signal
    records: int
    reason: str
    data: bytes


class _Adopted:
    """The segments of one dead process."""

    def __init__(self, segments: list[Segment], *, whole: bool) -> None:
        self.segments = segments
        self.whole = whole
        """Every destination of it is served here, so that what it left open can be finished here."""
        self.groups: dict[int, bytes] = {}
        self.leftovers = False


class Spool:
    """Thread-safe. ``directory`` None keeps everything in memory, at most ``quota_bytes`` of it.

    ``mapped`` False writes plainly instead of mapping; None decides by the file system.
    """

    def __init__(
        self, directory: Path | None, *, quota_bytes: int = 256 * 2**20, destinations: tuple[str, ...] = ("remote",), segment_bytes: int = SEGMENT_BYTES,
        mapped: bool | None = None, reason: str = "no_spool",
    ) -> None:
        self._directory = directory / FOLDER if directory is not None else None
        self._quota_bytes = quota_bytes
        self._destinations = destinations
        self._segment_bytes = segment_bytes
        self._mapped = mapped
        self._reason = reason
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._token = os.urandom(8)
        self._number = 0
        self._segment: Segment | None = None
        self._sealed: list[Segment] = []
        self._adopted: dict[bytes, _Adopted] = {}
        self._groups: list[bytes] = []
        self._group_numbers: dict[bytes, int] = {}
        self._groups_written = 0
        self._open: dict[int, list[bytes]] = {}
        self._sequence = 0
        self._measured_upto = 0
        self._pending: dict[str, int] = dict.fromkeys(self._destinations, 0)
        self._in_hand: dict[str, list[Place]] = {}
        """What each destination read last and has not acknowledged: it may still have it, also when its segment goes."""
        self._undecided: list[_Undecided] = []
        self._put: dict[Signal, int] = {}
        self._dropped: dict[tuple[Signal, str], int] = {}
        self._dropped_traces: dict[bytes, int] = {}
        self._not_before = 0.0
        self._told = False
        self._closed = False

    def open(self) -> Self:
        """Make sure that the directory can be used. Raises :class:`SpoolUnavailable`; files are made when something is put."""
        if self._directory is not None:
            usable(self._directory)
            if self._mapped is None:
                self._mapped = may_map(self._directory)
        return self

    @property
    def directory(self) -> Path | None:
        """Where the files are."""
        return self._directory

    @property
    def sequence(self) -> int:
        """The number of the record measured last."""
        return self._sequence

    # --- in -----------------------------------------------------------------------------------------------------------

    def group(self, data: bytes) -> int:
        """The number of a header that records are put with."""
        known = self._group_numbers.get(data)
        if known is not None:
            return known
        with self._lock:
            number = self._group_numbers.setdefault(data, len(self._groups))
            if number == len(self._groups):
                self._groups.append(data)
            return number

    def put(
        self, signal: Signal, group: int, data: bytes, *, count: int = 1, closes: int | None = None, measured: bool = False, measured_upto: int | None = None
    ) -> bool:
        """Keep one record. Never raises and never waits for a destination; False when it was dropped, which is counted.

        ``closes`` closes a journal entry with the same frame. ``measured`` marks a record whose measurement is not exported
        yet; ``measured_upto`` says that this record exports all of them up to that number.
        """
        with self._lock:
            sequence = 0
            if measured:
                sequence = self._sequence = self._sequence + 1
            elif measured_upto is not None:
                sequence = measured_upto
            segment = self._segment
            if segment is None or segment.position + len(data) + _FRAME_MOST > segment.bytes:
                segment = self._room(_RECORD_BYTES + len(data))
            if closes is not None:
                self._open.pop(closes, None)
            if segment is None:
                self._drop(signal, min(count, 0xFFFF), "too_large" if _RECORD_BYTES + len(data) + FRAME_BYTES + HEADER_BYTES > self._quota_bytes else None, data)
                return False
            if self._groups_written < len(self._groups):
                segment = self._write_groups(segment, _RECORD_BYTES + len(data))
                if segment is None:
                    self._drop(signal, count, None, data)
                    return False
            try:
                segment.record(signal, group, data, count if count < 0xFFFF else 0xFFFF, closes or 0, sequence)
            except OSError:  # where files are written plainly
                self._seal()
                self._not_before = time.monotonic() + _RETRY_S
                self._drop(signal, count, None, data)
                return False
            if measured:
                segment.measured_last = sequence
            for name in self._pending:
                self._pending[name] += 1
            self._put[signal] = self._put.get(signal, 0) + count
            if measured_upto is not None:
                self._measured_upto = max(self._measured_upto, measured_upto)
                self._collect()
            return True

    def journal_open(self, key: int, data: bytes) -> None:
        """Remember what was opened until its record closes it."""
        with self._lock:
            self._open[key] = [data]
            self._journal(_OPEN, key, data)

    def journal_update(self, key: int, data: bytes) -> None:
        """Add to what was opened; nothing when it is closed by now."""
        with self._lock:
            pieces = self._open.get(key)
            if pieces is not None:
                pieces.append(data)
                self._journal(Kind.UPDATE, key, data)

    def journal_close(self, key: int) -> None:
        """Forget what was opened."""
        with self._lock:
            if self._open.pop(key, None) is not None:
                self._journal(Kind.CLOSE, key, b"")

    def _journal(self, kind: Kind, key: int, data: bytes) -> None:
        segment = self._room(8 + len(data))
        if segment is not None and self._groups_written < len(self._groups):
            segment = self._write_groups(segment, 8 + len(data))
        if segment is not None:
            segment.journal(kind, key, data)

    def _drop(self, signal: Signal, count: int, reason: str | None, data: bytes) -> None:
        key = signal, reason or self._reason
        self._dropped[key] = self._dropped.get(key, 0) + count
        if signal is Signal.TRACES:
            trace = trace_of(data)
            self._dropped_traces[trace] = self._dropped_traces.pop(trace, 0) + count
            if len(self._dropped_traces) > _TRACES_REMEMBERED:
                del self._dropped_traces[next(iter(self._dropped_traces))]

    def dropped_of(self, trace_id: int) -> int:
        """How many spans of this trace were dropped here, as far as that is remembered."""
        return self._dropped_traces.get(trace_id.to_bytes(16, "big"), 0) if self._dropped_traces else 0

    def _write_groups(self, segment: Segment, more_bytes: int) -> Segment | None:
        while self._groups_written < len(self._groups):
            data = self._groups[self._groups_written]
            if not segment.room_for(8 + len(data) + FRAME_BYTES + more_bytes):
                self._seal()
                replaced = self._new_segment(8 + len(data) + FRAME_BYTES + more_bytes)
                if replaced is None:
                    return None
                segment = replaced
                continue
            segment.group(self._groups_written, data)
            self._groups_written += 1
        return segment

    # --- segments -----------------------------------------------------------------------------------------------------

    def _room(self, payload_bytes: int) -> Segment | None:
        segment = self._segment
        if segment is not None:
            if segment.room_for(payload_bytes):
                return segment
            self._seal()
        return self._new_segment(payload_bytes)

    def _seal(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.sealed = True
            self._sealed.append(segment)

    def _new_segment(self, payload_bytes: int) -> Segment | None:
        """One with room for this, and for what is carried over; None when there is none to be had."""
        carried = sum(FRAME_BYTES + 16 + len(piece) for pieces in self._open.values() for piece in pieces)
        carried += sum(FRAME_BYTES + 16 + len(data) for data in self._groups)
        wanted = self._segment_bytes if self._number else min(FIRST_SEGMENT_BYTES, self._segment_bytes)
        size = max(wanted, HEADER_BYTES + carried + payload_bytes + 2 * FRAME_BYTES + 64 + _CLOSINGS_BYTES)
        size = (size + 4095) & ~4095
        if size > self._quota_bytes:
            return None
        self._collect()
        segment = self._file_segment(size) if self._directory is not None and not self._closed else None
        if segment is None:
            if self._memory_bytes() + size > min(MEMORY_BYTES, self._quota_bytes) and not self._drop_oldest(in_memory=True):
                return None
            segment = Segment.create(
                bytearray(size), None, None, through=False, token=self._token, number=self._number, destinations=self._destinations
            )
        self._number += 1
        self._segment = segment
        self._groups_written = 0
        for key, pieces in self._open.items():
            for position, piece in enumerate(pieces):
                segment.journal(Kind.OPEN if not position else Kind.UPDATE, key, piece)
        return self._write_groups(segment, payload_bytes) if self._groups else segment

    def _file_segment(self, size: int) -> Segment | None:
        assert self._directory is not None
        if time.monotonic() < self._not_before:
            return None
        path = self._directory / f"{self._token.hex()}-{self._number:08d}{SUFFIX}"
        temporary = path.with_suffix(".new")
        descriptor: int | None = None
        try:
            if not self._directory.exists():  # somebody has cleaned up
                usable(self._directory)
            while folder_bytes(self._directory) + size > self._quota_bytes:
                if not self._drop_oldest(in_memory=False):
                    raise OSError(errno.EDQUOT, f"the spool's quota of {self._quota_bytes} bytes is used up by running processes")
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, size)  # a full disk fails here, not in the middle of a frame
            buffer: mmap.mmap | bytearray = mmap.mmap(descriptor, size) if self._mapped else bytearray(size)
            segment = Segment.create(
                buffer, path, descriptor, through=not self._mapped, token=self._token, number=self._number, destinations=self._destinations
            )
            segment.bytes -= _CLOSINGS_BYTES
            os.rename(temporary, path)
        except (OSError, SpoolUnavailable) as problem:
            error = problem if isinstance(problem, OSError) else problem.__cause__
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if descriptor is not None:
                os.close(descriptor)
            self._not_before = time.monotonic() + _RETRY_S
            self._reason = "disk_full" if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else "no_spool"
            if not self._told:
                self._told = True
                logger.warning(
                    "%s: telemetry cannot be kept on disk (%s); it is kept in memory, at most %d MiB, and what is dropped is counted",
                    self._directory, (error.strerror if isinstance(error, OSError) else None) or problem, MEMORY_BYTES >> 20,
                )
            return None
        self._told = False
        return segment

    def _memory_bytes(self) -> int:
        return sum(segment.bytes for segment in self._own() if segment.path is None)

    def _own(self) -> Iterator[Segment]:
        yield from self._sealed
        if self._segment is not None:
            yield self._segment

    def _drop_oldest(self, *, in_memory: bool) -> bool:
        """Make room: the oldest sealed segment that is ours, adopted, or of a dead process goes, and is counted."""
        for segment in self._sealed:
            if (segment.path is None) is in_memory:
                self._sealed.remove(segment)
                self._count_dropped(segment, "quota" if not in_memory or self._directory is None else self._reason)
                remove(segment)
                return True
        if in_memory:
            return False
        for token, adopted in list(self._adopted.items()):
            if adopted.segments:
                segment = adopted.segments.pop(0)
                self._count_dropped(segment, "quota")
                remove(segment)
                if not adopted.segments:
                    del self._adopted[token]
                return True
        assert self._directory is not None
        with adopting(self._directory, wait=False) as alone:
            if alone:
                for path in sorted(segment_files(self._directory), key=made_at):
                    other = recovered(path)
                    if other is not None:
                        self._count_dropped(other, "quota", waited_here=False)
                        remove(other)
                        return True
        return False

    def _count_dropped(self, segment: Segment, reason: str, *, waited_here: bool = True) -> None:
        """Count what no destination has; what one is just sending is counted when it turns out that it was not taken."""
        if not segment.finished():
            begin = min(segment.cursors.values(), default=HEADER_BYTES)
            being_sent = {name: place.offset for name, places in self._in_hand.items() for place in places if place.segment is segment}
            for frame in segment.frames(begin):
                if frame.kind is not Kind.RECORD:
                    continue
                missing = {name for name, cursor in segment.cursors.items() if frame.offset >= cursor}
                if missing and all(frame.offset < being_sent.get(name, 0) for name in missing):
                    self._undecided.append(_Undecided(segment, frame.offset, missing, frame.signal, frame.count, reason, frame.data))
                else:
                    self._drop(frame.signal, frame.count, reason, frame.data)
        if waited_here:
            for name, waiting in segment.waiting.items():
                if name in self._pending:
                    self._pending[name] -= waiting

    def _collect(self) -> None:
        """Let go of segments that nobody needs any more."""
        for segment in list(self._sealed):
            if segment.finished() and segment.measured_last <= self._measured_upto:
                self._sealed.remove(segment)
                remove(segment)

    # --- out ----------------------------------------------------------------------------------------------------------

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None:
        """The oldest records that ``destination`` has not acknowledged: those of dead processes first. None: nothing waits."""
        with self._lock:  # who puts a record does not wait for who reads: frames before a position do not change any more
            found = [(segment, groups, segment.cursors[destination], segment.position) for segment, groups in self._readable(destination)]
        records: list[Stored] = []
        places: list[Place] = []
        size = 0
        let_go_at_s = time.perf_counter() + _SLICE_S
        for segment, groups, cursor, position in found:
            taken, offset, full = 0, cursor, False
            try:
                for frame in segment.frames(offset, journal=False):
                    if frame.offset >= position:
                        break
                    if frame.kind is _GROUP:
                        groups[frame.key] = frame.data
                    elif frame.kind is _RECORD:
                        if records and (size + len(frame.data) > max_bytes or len(records) >= max_records):
                            full = True
                            break
                        records.append(Stored(frame.signal, groups.get(frame.group, b""), frame.data, frame.count))
                        size += len(frame.data)
                        taken += 1
                        if not taken % _SLICE and time.perf_counter() > let_go_at_s:
                            time.sleep(0)  # others may have the interpreter; who asks for it again may wait some milliseconds
                            let_go_at_s = time.perf_counter() + _SLICE_S
                    offset = frame.end
            except ValueError:  # it went meanwhile, at the quota: what was read of it is counted as dropped
                del records[len(records) - taken:]
                continue
            places.append(Place(segment, offset, taken))
            if full or len(records) >= max_records or size >= max_bytes:
                break
        with self._lock:
            if not all(self._holds(place.segment) for place in places):  # it went while others were read
                each = iter(records)
                by_place = [(place, list(islice(each, place.records))) for place in places]
                places = [place for place, _ in by_place if self._holds(place.segment)]
                records = [record for place, found in by_place if place in places for record in found]
            if not records:
                return None
            self._in_hand[destination] = places
            return Batch(records, places)

    def _readable(self, destination: str) -> list[tuple[Segment, dict[int, bytes]]]:
        found = [
            (segment, adopted.groups) for adopted in self._adopted.values() for segment in adopted.segments if segment.waiting.get(destination)
        ]
        own = dict(enumerate(self._groups))
        found.extend((segment, own) for segment in self._own() if segment.waiting.get(destination))
        return found

    def acknowledge(self, destination: str, batch: Batch) -> None:
        """``destination`` has all of ``batch``."""
        with self._lock:
            self._in_hand.pop(destination, None)
            for place in batch.end:
                if not self._holds(place.segment):
                    self._decide(destination, place)
                    continue
                place.segment.acknowledge(destination, place.offset, place.records)
                self._pending[destination] -= place.records
            self._collect()
            self._collect_adopted()

    def _decide(self, destination: str, place: Place) -> None:
        """Of a segment that went at the quota while it was being sent: this much has arrived."""
        undecided, self._undecided = self._undecided, []
        for record in undecided:
            if record.segment is place.segment and destination in record.missing:
                if record.offset >= place.offset:
                    self._drop(record.signal, record.records, record.reason, record.data)
                    continue
                record.missing.discard(destination)
            if record.missing:
                self._undecided.append(record)

    def _holds(self, segment: Segment) -> bool:
        return segment is self._segment or segment in self._sealed or any(segment in adopted.segments for adopted in self._adopted.values())

    def _collect_adopted(self) -> None:
        for token, adopted in list(self._adopted.items()):
            if adopted.leftovers or any(segment.waiting.get(name) for segment in adopted.segments for name in self._destinations):
                continue
            for segment in adopted.segments:
                if adopted.whole and segment.finished():
                    remove(segment)
                else:
                    segment.close()
            del self._adopted[token]

    def pending(self, destination: str) -> int:
        """Records that ``destination`` has not acknowledged."""
        return self._pending.get(destination, 0)

    def oldest_sealed_is_unmeasured(self) -> bool:
        """Some segment is kept only because its measurements were not exported: time to export them."""
        return any(segment.finished() and segment.measured_last > self._measured_upto for segment in self._sealed)

    # --- what dead processes left ---------------------------------------------------------------------------------------

    def adopt(self) -> list[Leftover]:
        """Take over what dead processes left: their records join :meth:`read`, what they left open is returned.

        Exactly one process gets each of them. A process whose destinations are not all served here keeps what it left open.
        """
        if self._directory is None or self._closed:
            return []
        leftovers: list[Leftover] = []
        with adopting(self._directory, wait=False) as alone:
            if not alone:
                return []
            found: dict[str, list[Path]] = {}
            for path in segment_files(self._directory):
                found.setdefault(path.name.partition("-")[0], []).append(path)
            for token, paths in sorted(found.items(), key=lambda item: min(map(made_at, item[1]))):
                if token == self._token.hex() or bytes.fromhex(token) in self._adopted if is_token(token) else True:
                    continue
                leftover = self._adopt_process(sorted(paths))
                if leftover is not None:
                    leftovers.append(leftover)
        return leftovers

    def _adopt_process(self, paths: list[Path]) -> Leftover | None:
        segments: list[Segment] = []
        for path in paths:
            try:
                segment = recovered(path)
            except BadSegment as error:
                if not error.newer:
                    logger.warning("%s; it is set aside", error)
                    with suppress(OSError):
                        path.rename(path.with_suffix(".bad"))
                continue
            if segment is not None and segment.token.hex() != path.name.partition("-")[0]:
                segment.close()
                logger.warning("%s is a copy of another file; it is set aside", path)
                with suppress(OSError):
                    path.rename(path.with_suffix(".bad"))
                continue
            if segment is None:  # somebody holds one of them, so it is not dead yet
                for each in segments:
                    each.close()
                return None
            segments.append(segment)
        if not segments:
            return None
        whole = set(segments[0].destinations) <= set(self._destinations)
        serves = any(segment.waiting.get(name) for segment in segments for name in self._destinations)
        adopted = _Adopted(segments, whole=whole)
        leftover = left_open(segments, adopted.groups)
        adopted.leftovers = whole and bool(leftover.open or leftover.measurements)
        if not serves and not adopted.leftovers:
            for segment in segments:
                if whole and segment.finished():
                    remove(segment)
                else:
                    segment.close()
            return None
        with self._lock:
            self._adopted[segments[0].token] = adopted
            for segment in segments:
                for name in self._pending:
                    self._pending[name] += segment.waiting.get(name, 0)
        return leftover if adopted.leftovers else None

    def adopted(self, leftover: Leftover) -> None:
        """What ``leftover`` said was finished and put here: forget it."""
        with self._lock:
            adopted = self._adopted.get(leftover.token)
            if adopted is None:
                return
            for segment in adopted.segments:
                segment.finish_leftovers()
            adopted.leftovers = False
            self._collect_adopted()

    # --- life ---------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Onto the disk: what a power cut would take otherwise."""
        with self._lock:
            segment = self._segment
            if segment is not None and segment.path is not None and not outlives(segment):
                self._seal()  # somebody has cleaned up; what comes next has a file again
        if segment is not None:
            with suppress(OSError, ValueError):
                segment.sync()

    def pending_in_memory(self, destination: str) -> int:
        """How many of :meth:`pending` are lost when the process ends."""
        with self._lock:
            return sum(segment.waiting.get(destination, 0) for segment in self._own() if not outlives(segment))

    @property
    def on_disk(self) -> bool:
        """Whether what was put last outlives the process."""
        segment = self._segment
        return segment is not None and segment.path is not None

    def give_up_memory(self) -> Mapping[Signal, int]:
        """The process ends: count as dropped what only lies in memory, by signal. Nothing is read after this."""
        with self._lock:
            before = self._by_signal()
            self._in_hand.clear()
            for record in self._undecided:
                self._drop(record.signal, record.records, record.reason, record.data)
            self._undecided.clear()
            in_memory = [segment for segment in self._own() if not outlives(segment)]
            for segment in in_memory:
                self._count_dropped(segment, self._reason)
                with suppress(OSError):
                    segment.close()
            if in_memory:
                self._sealed = [segment for segment in self._sealed if segment not in in_memory]
                if self._segment in in_memory:
                    self._segment = None
                self._close_on_disk()
            after = self._by_signal()
            return {signal: count - before.get(signal, 0) for signal, count in after.items() if count != before.get(signal, 0)}

    def _by_signal(self) -> dict[Signal, int]:
        found: dict[Signal, int] = {}
        for (signal, _), count in self._dropped.items():
            found[signal] = found.get(signal, 0) + count
        return found

    def _close_on_disk(self) -> None:
        """What is open by the files, and was closed by records in memory, did not die with this process."""
        files = sorted((segment for segment in self._own() if segment.path is not None), key=lambda segment: segment.number)
        if files:
            files[-1].bytes += _CLOSINGS_BYTES
            for key, _ in left_open(files, {}).open:
                if key not in self._open and files[-1].room_for(8):
                    files[-1].journal(Kind.CLOSE, key, b"")

    def close(self) -> None:
        """Let go: what waits stays for the next process, empty files go. May be called twice."""
        with self._lock:
            self._closed = True
            adopted = [segment for each in self._adopted.values() for segment in each.segments]
            for segment in [*self._own(), *adopted]:
                if segment.path is None:
                    continue
                with suppress(OSError):  # a program that closes every descriptor, as daemons do, has closed this one too
                    if segment not in adopted and segment.finished() and segment.measured_last <= self._measured_upto and not self._open:
                        remove(segment)
                    else:
                        segment.close()
            self._segment = None
            self._sealed.clear()
            self._adopted.clear()

    def statistics(self) -> SpoolStatistics:
        with self._lock:
            held = [*self._own(), *(segment for adopted in self._adopted.values() for segment in adopted.segments)]
            ages = [at_s for segment in held if (at_s := segment.oldest_at_s()) is not None]
            used = sum(segment.position - HEADER_BYTES for segment in held if not segment.finished())
            return SpoolStatistics(dict(self._put), dict(self._dropped), used, min(ages) * 10**9 if ages else None)

    def forked(self) -> None:
        """In a child process: the parent's files are the parent's; this spool begins anew."""
        for segment in [*self._own(), *(segment for adopted in self._adopted.values() for segment in adopted.segments)]:
            with suppress(OSError, ValueError, BufferError):
                segment.close()
        self._reset()


class MemorySpool(Spool):
    """A spool without files, for when there is no directory to be had."""

    def __init__(self, *, destinations: tuple[str, ...] = ("remote",), quota_bytes: int = MEMORY_BYTES, reason: str = "no_spool") -> None:
        super().__init__(None, quota_bytes=quota_bytes, destinations=destinations, reason=reason, segment_bytes=2**20)
