"""Estimates of publishers' clock offsets from the server's clock.

The server stamps a message shortly after it was sent, so the smallest difference over a minute is the offset, to a
fraction of a millisecond. Our own publishers send the time of sending as a header. For others the event time is used;
it may be much older than the message, so differences above an hour are ignored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

WRONG_S: Final = 1.0
"""Offset in seconds above which a clock is reported as wrong."""
_WINDOW_NS: Final = 60 * 1_000_000_000
_OLD_NS: Final = 3_600 * 1_000_000_000
_PUBLISHERS: Final = 4_096


class _Window:
    """Smallest delay in the current minute of the stream and in the previous one."""

    __slots__ = ("before_ns", "since_ns", "smallest_ns")

    def __init__(self, since_ns: int, delay_ns: int) -> None:
        self.since_ns, self.smallest_ns = since_ns, delay_ns
        self.before_ns: int | None = None

    def record(self, stamp_ns: int, delay_ns: int) -> None:
        if stamp_ns - self.since_ns >= _WINDOW_NS:
            self.before_ns, self.since_ns, self.smallest_ns = self.smallest_ns, stamp_ns, delay_ns
        elif delay_ns < self.smallest_ns:
            self.smallest_ns = delay_ns

    @property
    def delay_ns(self) -> int:
        before = self.before_ns
        return self.smallest_ns if before is None else min(self.smallest_ns, before)


class Clocks:
    """Clock offsets by publisher. Updates are not thread-safe; other threads may read."""

    def __init__(self) -> None:
        self._publishers: OrderedDict[str, _Window] = OrderedDict()

    def record(self, publisher: str, stamp_ns: int, at_ns: int, *, sent: bool) -> None:
        """Record a message: its server timestamp and the publisher's time, of sending (``sent``) or of its last event."""
        delay_ns = stamp_ns - at_ns
        if not sent and delay_ns > _OLD_NS:
            return
        known = self._publishers.get(publisher)
        if known is not None:
            known.record(stamp_ns, delay_ns)
            return
        self._publishers[publisher] = _Window(stamp_ns, delay_ns)
        while len(self._publishers) > _PUBLISHERS:
            self._publishers.popitem(last=False)

    def offset_s(self, publisher: str) -> float:
        """Return the seconds by which this clock is ahead of the server's, negative if behind, 0 if unknown."""
        known = self._publishers.get(publisher)
        return -known.delay_ns / 1e9 if known is not None else 0.0

    def is_wrong(self, publisher: str) -> bool:
        """Whether this clock is more than a second ahead or behind."""
        return abs(self.offset_s(publisher)) > WRONG_S

    def wrong(self) -> Mapping[str, float]:
        """Return the clocks that are wrong, with their offsets in seconds."""
        return {
            publisher: self.offset_s(publisher)
            for publisher in list(self._publishers)
            if self.is_wrong(publisher)
        }

    def largest_s(self) -> float:
        """Return the largest absolute offset in seconds."""
        offsets = [abs(self.offset_s(publisher)) for publisher in list(self._publishers)]
        return max(offsets, default=0.0)
