"""Offsets of publishers' clocks from the server's, by the stamps of the messages that they sent.

A message is stamped by the server a moment after it was sent, so the smallest difference over a minute is the offset, to a
fraction of a millisecond. Our own publishers say when they sent a message. Of others the time of the event stands for
it, which may be much older than its message; beyond an hour it tells nothing about a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

WRONG_S: Final = 1.0
"""Seconds from which on a clock is called wrong."""
_WINDOW_NS: Final = 60 * 1_000_000_000
_OLD_NS: Final = 3_600 * 1_000_000_000
_PUBLISHERS: Final = 4_096


class _Window:
    """The smallest delay of this minute of the stream and of the one before."""

    __slots__ = ("before_ns", "since_ns", "smallest_ns")

    def __init__(self, since_ns: int, delay_ns: int) -> None:
        self.since_ns, self.smallest_ns = since_ns, delay_ns
        self.before_ns: int | None = None

    def heard(self, stamp_ns: int, delay_ns: int) -> None:
        if stamp_ns - self.since_ns >= _WINDOW_NS:
            self.before_ns, self.since_ns, self.smallest_ns = self.smallest_ns, stamp_ns, delay_ns
        elif delay_ns < self.smallest_ns:
            self.smallest_ns = delay_ns

    @property
    def delay_ns(self) -> int:
        before = self.before_ns
        return self.smallest_ns if before is None else min(self.smallest_ns, before)


class Clocks:
    """Offsets by publisher. Not thread-safe; the numbers may be read from other threads."""

    def __init__(self) -> None:
        self._publishers: OrderedDict[str, _Window] = OrderedDict()

    def heard(self, publisher: str, stamp_ns: int, at_ns: int, *, sent: bool) -> None:
        """A message with the server's stamp, and the publisher's time: of the sending itself, or of its last event."""
        delay_ns = stamp_ns - at_ns
        if not sent and delay_ns > _OLD_NS:
            return
        known = self._publishers.get(publisher)
        if known is not None:
            known.heard(stamp_ns, delay_ns)
            return
        self._publishers[publisher] = _Window(stamp_ns, delay_ns)
        while len(self._publishers) > _PUBLISHERS:
            self._publishers.popitem(last=False)

    def offset_s(self, publisher: str) -> float:
        """Seconds by which this clock is ahead of the server's, below zero where it is behind; 0 for one not known."""
        known = self._publishers.get(publisher)
        return -known.delay_ns / 1e9 if known is not None else 0.0

    def is_wrong(self, publisher: str) -> bool:
        """Whether this clock is more than a second ahead or behind."""
        return abs(self.offset_s(publisher)) > WRONG_S

    def wrong(self) -> Mapping[str, float]:
        """The clocks that are wrong, with their offsets in seconds."""
        return {
            publisher: self.offset_s(publisher)
            for publisher in list(self._publishers)
            if self.is_wrong(publisher)
        }

    def largest_s(self) -> float:
        """The largest offset, without its sign."""
        offsets = [abs(self.offset_s(publisher)) for publisher in list(self._publishers)]
        return max(offsets, default=0.0)
