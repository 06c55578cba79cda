"""Parse timestamps and durations: numbers, numeric text, ISO 8601, RFC 3339, RFC 2822."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

_EARLIEST_NS: Final = 1_000_000_000 * 100_000_000  # 1973: smaller numbers are counters or durations
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_COMPACT: Final = re.compile(r"(19|20)\d{12}", re.ASCII)
_ZONE_NAME: Final = re.compile(r"\s*(?<=[\d\s])(UTC|GMT|Z)$")
_ZONE_ID: Final = re.compile(r"(?<=[\dZz])\[[\w/+\-]+\]$", re.ASCII)
_EXACT_BELOW_S: Final = 2.0**32
"""Below this a float of seconds still resolves microseconds."""
_DISORDER_NS: Final = 2_000_000_000
_UNITS_NS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000_000_000),
    **dict.fromkeys(("ms", "milli", "millis", "millisecond", "milliseconds"), 1_000_000),
    **dict.fromkeys(("us", "µs", "micros", "microsecond", "microseconds"), 1_000),
    **dict.fromkeys(("ns", "nanos", "nanosecond", "nanoseconds"), 1),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60_000_000_000),
}
UNITS: Final = tuple(_UNITS_NS)


def time_ns_of(value: object, *, scale: int | None = None, after_ns: int = 0) -> int | None:
    """Return a timestamp as Unix nanoseconds, None if ``value`` is not a timestamp.

    Numbers and numeric text are s, ms, µs or ns by their magnitude. A time without a zone is local; in the hour that
    occurs twice, the one not before ``after_ns`` is taken.
    """
    if type(value) is datetime:
        return _of_datetime(value, after_ns)
    if type(value) is float:
        return _of_float(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        at_ns = value * (scale or _scale(value))
        return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None
    if isinstance(value, float):
        return _of_float(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, Decimal):
        value = str(value)
    moment = _datetime(value) if isinstance(value, str) else value
    if isinstance(moment, int | float):
        return time_ns_of(moment)
    return _of_datetime(moment, after_ns) if isinstance(moment, datetime) else None


def _of_float(value: float) -> int | None:
    if not 1e8 <= value < 1e19:
        return None
    at_ns = round(value * (1_000_000_000 if value < 1e11 else _scale(value)))
    return at_ns if at_ns < 2**63 else None


def _scale(value: float) -> int:
    if value < 1e11:
        return 1_000_000_000
    return 1_000_000 if value < 1e14 else 1_000 if value < 1e17 else 1


def _datetime(text: str) -> datetime | int | float | None:
    text = _ZONE_ID.sub("", text.strip())
    if _NUMBER.fullmatch(text):
        if _COMPACT.fullmatch(text):
            try:
                return datetime.strptime(text, "%Y%m%d%H%M%S")  # noqa: DTZ007 (the publisher names no zone)
            except ValueError:
                return None
        number = float(text)
        if number >= 1e8 or len(text) != 8:
            return number if "." in text or "e" in text.lower() else int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    upper = text.upper()
    zoned = _ZONE_NAME.sub("", upper)
    try:
        moment = datetime.fromisoformat(zoned)
        return moment.replace(tzinfo=UTC) if zoned != upper and moment.tzinfo is None else moment
    except ValueError:
        pass
    try:
        from email.utils import parsedate_to_datetime  # slow to import

        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _of_datetime(moment: datetime, after_ns: int) -> int | None:
    try:
        at_s = moment.timestamp()
        if 0.0 < at_s < _EXACT_BELOW_S:
            at_ns = round(at_s * 1e6) * 1_000
        else:
            at_ns = _exact_ns(moment)
        if after_ns - at_ns > _DISORDER_NS and moment.tzinfo is None:
            again_ns = _exact_ns(moment.replace(fold=1 - moment.fold))
            at_ns = max(at_ns, again_ns) if again_ns > at_ns else at_ns
    except (OverflowError, ValueError, OSError):
        return None
    return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None


def _exact_ns(moment: datetime) -> int:
    seconds = round(moment.replace(microsecond=0).timestamp())
    return seconds * 1_000_000_000 + moment.microsecond * 1_000


def unit_ns_of(key: str) -> int:
    """Return the nanoseconds of the unit in a key's name (``elapsed_ms``, ``duration_s``); seconds if it names none."""
    unit = re.split(r"[_\-.]|(?<=[a-z])(?=[A-Z])", key)[-1].lower()
    return _UNITS_NS.get(unit, 1_000_000_000) if unit != key.lower() else 1_000_000_000


def unit_ns(unit: str) -> int | None:
    """Return the nanoseconds of a unit by its name, None for an unknown one."""
    return _UNITS_NS.get(unit.lower())


def duration_ns_of(value: object, unit_ns: int = 1_000_000_000) -> int | None:
    """Return a duration in nanoseconds, None if ``value`` is not a positive, finite duration."""
    if type(value) is float and 0 < value < 1e9:
        return round(value * unit_ns)
    if isinstance(value, timedelta):
        value, unit_ns = value.total_seconds(), 1_000_000_000
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value * unit_ns < 1e18
    ):  # emitters send 0.0 for an unknown duration; NaN compares false
        return round(value * unit_ns)
    return None
