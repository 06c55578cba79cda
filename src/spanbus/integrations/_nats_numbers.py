"""Metrics ``spanbus.observe.*`` of an observer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import reduce

from spanbus._semantics import names
from spanbus.integrations._nats_reading import Counts


class Numbers:
    """Metrics of an observer, written by its thread and read by the exporting thread."""

    def __init__(self, group: str) -> None:
        self._attributes = {names.OBSERVE_GROUP: group}
        self.lost = 0
        """Messages deleted before they were read."""
        self.read_again = self.takeovers = self.killed = 0
        self.checkpoint_s: float | None = None
        """Monotonic time of the oldest checkpoint; None while no partition is held."""
        self.server_ahead_ns = 0
        self._released = self._now = Counts()
        self.held = 0
        """Number of held partitions."""
        self.offset_s = 0.0
        """Largest absolute offset of a clock, in seconds."""
        self._behind_ns: int | None = None
        self._read_s = time.monotonic()

    def counts(self, held: Iterable[Counts]) -> Counts:
        """Sum of the counts of held and released partitions."""
        self._now = reduce(Counts.plus, held, self._released)
        return self._now

    def add_released(self, counts: Counts) -> None:
        """Add the counts of a released partition."""
        self._released = self._released.plus(counts)

    def at(self, stamp_ns: int | None) -> None:
        """Record the stamp of the last message read; None at the head of the stream."""
        self._behind_ns = stamp_ns
        self._read_s = time.monotonic()

    def _lag_s(self) -> float:
        """Age of the newest event read; at the head 0, or the time since the last successful read if above 5 s."""
        if self._behind_ns is None:
            away_s = time.monotonic() - self._read_s
            return away_s if away_s > 5.0 else 0.0
        return max(0.0, (time.time_ns() + self.server_ahead_ns - self._behind_ns) / 1e9)

    def read(self) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        """The single data point of each metric."""
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
