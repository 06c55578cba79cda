"""A batch in delivery to one destination, cut into requests, and the counts of outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from spanbus._delivery.batches import Batch, Stored
from spanbus._delivery.sender_options import LaneStatistics
from spanbus._otlp.signals import Signal

_FEW_CHANGES: Final = 4


class Chunk:
    """Records of one signal for one request."""

    __slots__ = ("failures", "records", "signal")

    def __init__(self, signal: Signal, records: Sequence[Stored]) -> None:
        self.signal, self.records = signal, records
        self.failures = 0

    @property
    def count(self) -> int:
        return sum(record.count for record in self.records)


class Work:
    """A batch with its unsent requests."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        by_signal: dict[Signal, list[Stored]] = {}
        for record in batch.records:
            by_signal.setdefault(record.signal, []).append(record)
        self.chunks = deque(Chunk(signal, records) for signal, records in by_signal.items())

    def halve(self) -> bool:
        """Cut the next request in two; False when it holds a single record."""
        chunk = self.chunks[0]
        middle = len(chunk.records) // 2
        if not middle:
            return False
        self.chunks.popleft()
        self.chunks.extendleft(
            (
                Chunk(chunk.signal, chunk.records[middle:]),
                Chunk(chunk.signal, chunk.records[:middle]),
            )
        )
        return True


class Tally:
    """Records by signal and outcome. Not thread-safe: the owner has the lock."""

    def __init__(self) -> None:
        self._delivered: dict[Signal, int] = {}
        self._rejected: dict[Signal, int] = {}
        self._refused: dict[Signal, int] = {}
        self._unwanted: dict[tuple[Signal, str], int] = {}

    def delivered(self, signal: Signal, count: int, rejected: int) -> None:
        _add(self._delivered, signal, count - rejected)
        _add(self._rejected, signal, rejected)

    def refused(self, signal: Signal, count: int) -> None:
        _add(self._refused, signal, count)

    def unwanted(self, signal: Signal, reason: str, count: int) -> None:
        if count:
            key = signal, reason
            self._unwanted[key] = self._unwanted.get(key, 0) + count

    def statistics(self, outage: str | None) -> LaneStatistics:
        return LaneStatistics(
            dict(self._delivered),
            dict(self._rejected),
            dict(self._refused),
            dict(self._unwanted),
            outage,
        )


def first_run(records: Sequence[Stored]) -> int:
    """Number of records to read at once: up to the first change of signal, so that one signal is acknowledged by itself;
    all of them when signals change more than four times.
    """
    changes = [
        at for at in range(1, len(records)) if records[at].signal is not records[at - 1].signal
    ]
    return changes[0] if 0 < len(changes) <= _FEW_CHANGES else len(records)


def _add(counts: dict[Signal, int], signal: Signal, count: int) -> None:
    if count:
        counts[signal] = counts.get(signal, 0) + count
