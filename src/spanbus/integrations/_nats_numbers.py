"""An observer's numbers, as the metrics ``spanbus.observe.*`` of the catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import reduce

from spanbus._semantics import names
from spanbus.integrations._nats_reading import Counts


class Numbers:
    """Written by the thread that observes, read by the one that exports."""

    def __init__(self, group: str) -> None:
        self._attributes = {names.OBSERVE_GROUP: group}
        self.lost = 0
        """Messages deleted before they were read."""
        self.read_again = self.takeovers = self.killed = 0
        self.checkpoint_s: float | None = None
        """When (monotonic) the oldest checkpoint was taken; None while no partition is held."""
        self.server_ahead_ns = 0
        self._before = self._now = Counts()
        self.held = 0
        """Partitions held."""
        self.offset_s = 0.0
        """The largest offset of a clock, without its sign."""
        self._behind_ns: int | None = None
        self._read_s = time.monotonic()

    def counts(self, held: Iterable[Counts]) -> Counts:
        """The counts of lines: those of partitions held, and of those that were let go."""
        self._now = reduce(Counts.plus, held, self._before)
        return self._now

    def let_go(self, counts: Counts) -> None:
        """A partition with these counts is held no more."""
        self._before = self._before.plus(counts)

    def at(self, stamp_ns: int | None) -> None:
        """A message with this stamp was read, and there are more; None at the head of the stream."""
        self._behind_ns = stamp_ns
        self._read_s = time.monotonic()

    def _lag_s(self) -> float:
        """Age of the newest event read; at the head, the time since one could ask whether it still is the head."""
        if self._behind_ns is None:
            away_s = time.monotonic() - self._read_s
            return away_s if away_s > 5.0 else 0.0
        return max(0.0, (time.time_ns() + self.server_ahead_ns - self._behind_ns) / 1e9)

    def read(self) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        """By metric name, the one series of this observer."""
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
