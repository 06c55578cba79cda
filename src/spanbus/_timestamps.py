"""Format Unix nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(at_ns: int) -> str:
    """Return ISO 8601 in UTC with microseconds."""
    seconds, rest = divmod(at_ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a foreign client's year 60000
        moment = datetime.max.replace(tzinfo=UTC)
    return f"{moment.isoformat()[:19]}.{rest // 1_000:06d}Z"  # strftime takes four times as long


def local_time(at_ns: int) -> str:
    """Return local date and time, to the second."""
    try:
        return f"{datetime.fromtimestamp(at_ns // 10**9).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "a time out of range"
