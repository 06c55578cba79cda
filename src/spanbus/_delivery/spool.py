"""The spool: stores each record until every destination has acknowledged it, even if the process is killed.

The directory holds the segments of many processes. Each process locks and writes its own segments. The next process to look
adopts those of a dead process, exactly once (:mod:`spanbus._delivery.recovery`). The spool also keeps a journal of open spans
(:mod:`spanbus._delivery.open_journal`) and tracks the records that were measured but not yet exported as metrics, so that
nothing of a killed process is lost or counted twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from spanbus._delivery.batches import Batch, Readable, Stored, gather, still_held
from spanbus._delivery.drops import Drops
from spanbus._delivery.open_journal import SUFFIX as JOURNAL_SUFFIX
from spanbus._delivery.open_journal import OpenJournal
from spanbus._delivery.own_segments import MEMORY_BYTES, OwnSegments
from spanbus._delivery.recovery import Leftover, Recovery
from spanbus._delivery.segment import FRAME_BYTES, HEADER_BYTES, Segment
from spanbus._delivery.spool_files import (
    FOLDER,
    adopting,
    may_map,
    modified_at,
    outlives,
    recovered,
    remove,
    segment_files,
    usable,
)
from spanbus._delivery.spool_journal import SpoolJournal
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal

__all__ = ["Batch", "MemorySpool", "Spool", "SpoolStatistics", "Stored"]

SEGMENT_BYTES: Final = 4 * 2**20
_RECORD_BYTES: Final = 28
_FRAME_MOST: Final = FRAME_BYTES + _RECORD_BYTES + 8


class SpoolStatistics(NamedTuple):
    """Records put by signal, dropped by signal and reason; bytes and age of the waiting records."""

    put: Mapping[Signal, int]
    dropped: Mapping[tuple[Signal, str], int]
    bytes: int
    oldest_at_ns: int | None


class Mark(NamedTuple):
    """A position in the spool."""

    segment: Segment
    position: int


class Spool:
    """Spool of one process. Thread-safe.

    ``directory`` None keeps everything in memory, at most ``quota_bytes``. ``mapped`` False writes files with ``pwrite``
    instead of mapping them; None decides by the file system. ``reason`` is the initial reason of dropped records. ``brief``
    suppresses the warning about a full disk in a short-lived program, which reports only its losses, at its end.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        quota_bytes: int = 256 * 2**20,
        destinations: tuple[str, ...] = ("remote",),
        segment_bytes: int = SEGMENT_BYTES,
        mapped: bool | None = None,
        reason: str = "no_spool",
        brief: bool = False,
    ) -> None:
        self._brief = brief
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
        self._own = OwnSegments(
            self._directory,
            self._token,
            self._destinations,
            quota_bytes=self._quota_bytes,
            segment_bytes=self._segment_bytes,
            mapped=self._mapped,
            reason=self._reason,
            collect=self._collect,
            drop_oldest=self._drop_oldest,
            brief=self._brief,
        )
        self._recovery = Recovery(self._directory, self._destinations)
        self._drops = Drops()
        self._journal = SpoolJournal()
        self._sequence = 0
        self._measured_upto = 0
        self._kept = 0
        self._gone: dict[str, int] = dict.fromkeys(self._destinations, 0)
        """By destination, how many of the kept records it does not wait for; adopted records count below zero."""
        self._put: dict[Signal, int] = dict.fromkeys(Signal, 0)
        self._closed = False
        if self._directory is not None and self._mapped is not None:
            self._new_journal()

    def _new_journal(self) -> None:
        assert self._directory is not None
        self._journal.journal = OpenJournal(
            self._directory / f"{self._token.hex()}{JOURNAL_SUFFIX}",
            self._token,
            self._destinations,
            mapped=bool(self._mapped),
        )

    def open(self) -> Self:
        """Check the directory. Raises :class:`SpoolUnavailable`. Files are created by the first :meth:`put`."""
        if self._directory is not None:
            usable(self._directory)
            if self._mapped is None:
                self._mapped = self._own.mapped = may_map(self._directory)
            if self._journal.journal is None:
                self._new_journal()
        return self

    @property
    def directory(self) -> Path | None:
        """Directory of the segments; None in memory."""
        return self._directory

    @property
    def sequence(self) -> int:
        """Number of the last measured record."""
        return self._sequence

    # --- in -----------------------------------------------------------------------------------------------------------

    def group(self, data: bytes) -> int:
        """Return the number of a resource and scope header, adding it if it is new."""
        known = self._own.number_of(data)
        if known is not None:
            return known
        with self._lock:
            number, is_first = self._own.add_group(data)
            if is_first:
                self._journal.introduce(data)
            return number

    def put(
        self,
        signal: Signal,
        group: int,
        data: bytes,
        *,
        count: int = 1,
        closes: int | None = None,
        measured: bool = False,
        measured_upto: int | None = None,
        finishes: bytes | None = None,
    ) -> bool:
        """Store one record; False when it was dropped and counted. Never raises, never waits for a destination.

        ``closes`` closes a journal entry in the same frame. ``measured`` marks a record whose measurement is not exported
        yet. ``measured_upto`` marks a record that exports all measurements up to that number. ``finishes`` is the token of a
        dead process, of which this is the last record: nobody adopts its leftovers again.
        """
        with self._lock:
            sequence = 0
            if measured:
                sequence = self._sequence = self._sequence + 1
            elif measured_upto is not None:
                sequence = measured_upto
            own = self._own
            segment = own.current
            if segment is None or segment.position + len(data) + _FRAME_MOST > segment.bytes:
                segment = own.segment_with_room(_RECORD_BYTES + len(data))
            if segment is None:
                if closes is not None:
                    self._journal.closed_by(closes, None)
                self._drop(signal, count, data)
                return False
            if own.groups_written < len(own.groups):
                segment = own.with_groups(segment, _RECORD_BYTES + len(data))
                if segment is None:
                    self._drop(signal, count, data)
                    return False
            try:
                held = count if count < 0xFFFF else 0xFFFF  # noqa: FURB136 (avoids a call per record)
                segment.record(signal, group, data, held, closes or 0, sequence)
            except OSError:  # only where files are not mapped
                own.failed()
                self._drop(signal, count, data)
                return False
            if closes is not None:
                self._journal.closed_by(closes, segment)
            if measured:
                segment.measured_last = sequence
            self._kept += 1
            self._put[signal] += count
            if measured_upto is not None:
                self._measured_upto = max(self._measured_upto, measured_upto)
                self._collect()
            if finishes is not None:
                self._recovery.finish(finishes)
            return True

    def journal_open(self, key: int, data: bytes) -> None:
        """Write a journal entry; a record with the same key closes it."""
        with self._lock:
            journal = self._journal.journal
            if journal is not None:
                journal.opened(key, self._own.place, data)

    def journal_update(self, key: int, data: bytes) -> None:
        """Add an update to an entry; a closed one is ignored."""
        with self._lock:
            journal = self._journal.journal
            if journal is not None:
                journal.updated(key, data)

    def journal_close(self, key: int) -> None:
        """Remove an entry."""
        with self._lock:
            journal = self._journal.journal
            if journal is not None:
                journal.closed(key)

    def journal_alive(self, now_ns: int) -> None:
        """Write the heartbeat of the journal: all its entries were open at this time."""
        with self._lock:
            journal = self._journal.journal
            if journal is not None:
                journal.alive(now_ns)

    def _drop(self, signal: Signal, count: int, data: bytes) -> None:
        too_large = _RECORD_BYTES + len(data) + FRAME_BYTES + HEADER_BYTES > self._quota_bytes
        self._drops.add(
            signal, min(count, 0xFFFF), "too_large" if too_large else self._own.reason, data
        )

    def dropped_of(self, trace_id: int) -> int:
        """Number of dropped spans of this trace, for the last 1,000 traces with drops."""
        return self._drops.of_trace(trace_id)

    # --- segments -----------------------------------------------------------------------------------------------------

    def _drop_oldest(self, *, in_memory: bool) -> bool:
        """Drop and count the oldest sealed segment: our own first, then an adopted one, then one of a dead process."""
        own = self._own
        oldest = own.pop_oldest(in_memory=in_memory)
        if oldest is not None:
            by_quota = not in_memory or self._directory is None
            self._count_dropped(oldest, "quota" if by_quota else own.reason)
            remove(oldest)
            return True
        if in_memory:
            return False
        adopted = self._recovery.pop_oldest()
        if adopted is not None:
            self._count_dropped(adopted, "quota")
            remove(adopted)
            return True
        assert self._directory is not None
        with adopting(self._directory, wait=False) as alone:
            if alone:
                for path in sorted(segment_files(self._directory), key=modified_at):
                    other = recovered(path)
                    if other is not None:
                        self._count_dropped(other, "quota", waited_here=False)
                        remove(other)
                        return True
        return False

    def _count_dropped(self, segment: Segment, reason: str, *, waited_here: bool = True) -> None:
        self._drops.add_segment(segment, reason)
        if waited_here:
            for name in self._destinations:
                self._gone[name] += segment.waiting(name)

    def _collect(self) -> None:
        """Remove finished segments."""
        self._own.collect(self._measured_upto)
        if self._journal.waits and not self._own.in_memory():
            self._journal.settle()

    # --- out ----------------------------------------------------------------------------------------------------------

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None:
        """Read the oldest unacknowledged records of ``destination``, dead processes first; None when nothing waits."""
        with self._lock:
            found = self._readable(destination)
        batch = gather(found, max_bytes=max_bytes, max_records=max_records)
        with self._lock:
            batch = still_held(batch, self._holds)
            if not batch.records:
                return None
            self._drops.in_flight[destination] = batch.end
            return batch

    def _readable(self, destination: str) -> list[Readable]:
        own = dict(enumerate(self._own.groups))
        return [
            Readable(segment, groups, segment.cursors[destination], segment.position)
            for segment, groups in (
                *self._recovery.segments(),
                *((segment, own) for segment in self._own),
            )
            if segment.waiting(destination)
        ]

    def acknowledge(self, destination: str, batch: Batch) -> None:
        """Acknowledge ``batch`` for ``destination``."""
        with self._lock:
            self._drops.in_flight.pop(destination, None)
            for place in batch.end:
                if not self._holds(place.segment):
                    self._drops.arrived(destination, place)
                    continue
                place.segment.acknowledge(destination, place.offset, place.records)
                self._gone[destination] += place.records
            self._collect()
            self._recovery.collect()

    def _holds(self, segment: Segment) -> bool:
        return self._own.holds(segment) or any(
            segment is adopted for adopted, _ in self._recovery.segments()
        )

    def pending(self, destination: str) -> int:
        """Records that ``destination`` has not acknowledged."""
        return self._kept - self._gone.get(destination, self._kept)

    def mark(self) -> Mark | None:
        """Position behind the last record, for :meth:`passed`; None while the spool is empty."""
        with self._lock:
            last = next(reversed(list(self._own)), None)
            return Mark(last, last.position) if last is not None else None

    def passed(self, mark: Mark | None, destination: str) -> bool:
        """Whether ``destination`` has acknowledged all records before ``mark`` and all adopted ones."""
        with self._lock:
            if any(segment.waiting(destination) for segment, _ in self._recovery.segments()):
                return False
            if mark is None or not self._own.holds(mark.segment):
                return True
            for segment in self._own:
                waits = bool(segment.waiting(destination))
                if segment is mark.segment:
                    return not waits or segment.cursors[destination] >= mark.position
                if waits:
                    return False
            return True

    # --- what dead processes left ---------------------------------------------------------------------------------------

    def adopt(self) -> list[Leftover]:
        """Adopt the files of dead processes: :meth:`read` returns their records, open entries are returned here.

        Exactly one process adopts each dead process. Open entries are not returned if the dead process had a destination that
        this spool does not have.
        """
        if self._closed:
            return []
        leftovers: list[Leftover] = []
        for adopted in self._recovery.take_over(self._token):
            with self._lock:
                self._recovery.add(adopted)
                for segment in adopted.segments:
                    for name in self._destinations:
                        self._gone[name] -= segment.waiting(name)
            if adopted.leftover is not None:
                leftovers.append(adopted.leftover)
        return leftovers

    def adopted(self, leftover: Leftover) -> None:
        """Forget ``leftover``: all that was to be finished is put here. May be called twice."""
        with self._lock:
            self._recovery.finish(leftover.token)

    # --- life ---------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Sync to the disk, against a power cut."""
        with self._lock:
            segment = self._own.current
            if segment is not None and segment.path is not None and not outlives(segment):
                self._own.seal()  # the directory was removed; the next record gets a new file
            journal = self._journal.renewed()
        if segment is not None:
            with suppress(OSError, ValueError):
                segment.sync()
        if journal is not None:
            with suppress(OSError):
                getattr(os, "fdatasync", os.fsync)(journal)

    @property
    def disk_error(self) -> str:
        """Reason that the newest segment has no file; empty if it has one."""
        return self._own.disk_error

    def pending_in_memory(self, destination: str) -> int:
        """Number of :meth:`pending` records that are lost when the process ends."""
        with self._lock:
            return sum(
                segment.waiting(destination) for segment in self._own if not outlives(segment)
            )

    @property
    def on_disk(self) -> bool:
        """Whether the last record outlives the process."""
        segment = self._own.current
        return segment is not None and segment.path is not None

    def give_up_memory(self) -> Mapping[Signal, int]:
        """Drop and count the records in memory, by signal, because the process ends. Nothing is read after this."""
        with self._lock:
            before = self._drops.by_signal()
            self._drops.settle()
            for segment in self._own.take([one for one in self._own if not outlives(one)]):
                self._count_dropped(segment, self._own.reason)
                with suppress(OSError):
                    segment.close()
            self._journal.settle()
            return {
                signal: count - before.get(signal, 0)
                for signal, count in self._drops.by_signal().items()
                if count != before.get(signal, 0)
            }

    def close(self) -> None:
        """Close: leave waiting records for the next process, delete empty files. May be called twice."""
        with self._lock:
            self._closed = True
            self._journal.close()
            self._own.close(self._measured_upto)
            self._recovery.close()

    def statistics(self) -> SpoolStatistics:
        with self._lock:
            held = [*self._own, *(segment for segment, _ in self._recovery.segments())]
            ages = [at_s for segment in held if (at_s := segment.oldest_at_s()) is not None]
            used = sum(
                segment.position - HEADER_BYTES for segment in held if not segment.finished()
            )
            return SpoolStatistics(
                {signal: count for signal, count in self._put.items() if count},
                self._drops.counts(),
                used,
                min(ages) * 10**9 if ages else None,
            )

    def forked(self) -> None:
        """In a child process: close the parent's files and start empty."""
        self._own.forked()
        self._recovery.close()
        self._journal.forked()
        self._reset()


class MemorySpool(Spool):
    """A spool without files, for when no directory can be used."""

    def __init__(
        self,
        *,
        destinations: tuple[str, ...] = ("remote",),
        quota_bytes: int = MEMORY_BYTES,
        reason: str = "no_spool",
    ) -> None:
        super().__init__(
            None,
            quota_bytes=quota_bytes,
            destinations=destinations,
            reason=reason,
            segment_bytes=2**20,
        )
