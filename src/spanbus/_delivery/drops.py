"""Counts of the records that a spool dropped, by signal and reason, and for the last 1,000 traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spanbus._delivery.batches import Place
from spanbus._delivery.segment import HEADER_BYTES, Kind, Segment
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.encode import trace_of
from spanbus._otlp.signals import Signal

_TRACES_REMEMBERED: Final = 1_000


class _Undecided(NamedTuple):
    """A record dropped at the quota while it was being sent."""

    segment: Segment
    offset: int
    missing: set[str]
    """Destinations that it is being sent to."""
    signal: Signal
    records: int
    reason: str
    data: bytes


class Drops:
    """Drop counts. Not thread-safe: the owner has the lock."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Signal, str], int] = {}
        self._traces: dict[bytes, int] = {}
        self._undecided: list[_Undecided] = []
        self.in_flight: dict[str, list[Place]] = {}
        """Places of each destination's unacknowledged batch, which may still arrive after its segment was dropped."""

    def add(self, signal: Signal, count: int, reason: str, data: bytes) -> None:
        """Count the items of one record."""
        key = signal, reason
        self._counts[key] = self._counts.get(key, 0) + count
        if signal is Signal.TRACES:
            trace = trace_of(data)
            self._traces[trace] = self._traces.pop(trace, 0) + count
            if len(self._traces) > _TRACES_REMEMBERED:
                del self._traces[next(iter(self._traces))]

    def add_segment(self, segment: Segment, reason: str) -> None:
        """Count the records of a segment that some destination lacks. Records in flight are counted if their attempt fails."""
        if segment.finished():
            return
        begin = min(segment.cursors.values(), default=HEADER_BYTES)
        being_sent = {
            name: place.offset
            for name, places in self.in_flight.items()
            for place in places
            if place.segment is segment
        }
        for frame in segment.frames(begin):
            if frame.kind is not Kind.RECORD:
                continue
            missing = {name for name, cursor in segment.cursors.items() if frame.offset >= cursor}
            fate = frame.signal, frame.count, reason, frame.data
            if missing and all(frame.offset < being_sent.get(name, 0) for name in missing):
                self._undecided.append(_Undecided(segment, frame.offset, missing, *fate))
            else:
                self.add(*fate)

    def arrived(self, destination: str, place: Place) -> None:
        """Settle dropped records that were in flight: ``destination`` has those before ``place``."""
        undecided, self._undecided = self._undecided, []
        for record in undecided:
            if record.segment is place.segment and destination in record.missing:
                if record.offset >= place.offset:
                    self.add(record.signal, record.records, record.reason, record.data)
                    continue
                record.missing.discard(destination)
            if record.missing:
                self._undecided.append(record)

    def settle(self) -> None:
        """Count undecided records as dropped; no more answers will come."""
        self.in_flight.clear()
        for record in self._undecided:
            self.add(record.signal, record.records, record.reason, record.data)
        self._undecided.clear()

    def of_trace(self, trace_id: int) -> int:
        """Number of dropped spans of this trace."""
        return self._traces.get(trace_id.to_bytes(16, "big"), 0) if self._traces else 0

    def counts(self) -> dict[tuple[Signal, str], int]:
        return dict(self._counts)

    def by_signal(self) -> Mapping[Signal, int]:
        found: dict[Signal, int] = {}
        for (signal, _), count in self._counts.items():
            found[signal] = found.get(signal, 0) + count
        return found
