"""Lifecycle of a lane, from its first record to the end of the program."""

from __future__ import annotations

from enum import IntEnum


class Lifecycle(IntEnum):
    """State of a lane; it only goes forward."""

    SENDING = 0
    CLOSING = 1
    """Shutdown has begun: only requests likely to be answered before the deadline are sent."""
    GAVE_UP = 2
    RELEASED = 3
    """The spool is no longer read or acknowledged."""
    ENDED = 4
