"""Metrics of an observer: ``spanbus.observe.*``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import reduce

from spanbus._semantics import names
from spanbus.integrations._nats_partition_reader import Counts


class ObserverMetrics:
    """Metrics of one observer, written by the observing thread and read by the exporting one."""

    def __init__(self, group: str) -> None:
        self._attributes = {names.OBSERVE_GROUP: group}
        self.lost = 0
        """Messages deleted before they were read."""
        self.read_again = self.takeovers = self.killed = 0
        self.checkpoint_s: float | None = None
        """Monotonic time of the oldest durable checkpoint; None while no partition is held."""
        self.server_ahead_ns = 0
        self._before = self._now = Counts()
        self.held = 0
        """Partitions held."""
        self.offset_s = 0.0
        """Largest absolute clock offset, in seconds."""
        self._behind_ns: int | None = None
        self._read_s = time.monotonic()

    def counts(self, held: Iterable[Counts]) -> Counts:
        """Return the counts of lines of the held partitions and of those released before."""
        self._now = reduce(Counts.plus, held, self._before)
        return self._now

    def released(self, counts: Counts) -> None:
        """Keep the counts of a partition that is no longer held."""
        self._before = self._before.plus(counts)

    def at(self, stamp_ns: int | None) -> None:
        """Record the timestamp of the last message read; None at the head of the stream."""
        self._behind_ns = stamp_ns
        self._read_s = time.monotonic()

    def _lag_s(self) -> float:
        """Age of the newest event read. At the head: time since the last read, if it is more than five seconds."""
        if self._behind_ns is None:
            away_s = time.monotonic() - self._read_s
            return away_s if away_s > 5.0 else 0.0
        return max(0.0, (time.time_ns() + self.server_ahead_ns - self._behind_ns) / 1e9)

    def read(self) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        """Return the series of this observer by metric name."""
        counts, checkpoint_s = self._now, self.checkpoint_s
        age_s = time.monotonic() - checkpoint_s if checkpoint_s is not None else 0.0
        found = {
            names.OBSERVE_EVENTS: counts.fed,
            names.OBSERVE_LAG: self._lag_s(),
            names.OBSERVE_LOST: self.lost,
            names.OBSERVE_LATE: counts.late,
            names.OBSERVE_DOUBLED: counts.doubled,
            names.OBSERVE_BROKEN: counts.broken,
            names.OBSERVE_PARTITIONS: self.held,
            names.OBSERVE_TAKEOVERS: self.takeovers,
            names.OBSERVE_READ_AGAIN: self.read_again,
            names.OBSERVE_KILLED: self.killed,
            names.OBSERVE_CHECKPOINT_AGE: age_s,
            names.OBSERVE_CLOCK_OFFSET: self.offset_s,
        }
        return {name: [(self._attributes, value)] for name, value in found.items()}
