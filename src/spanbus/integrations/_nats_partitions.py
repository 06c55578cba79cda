"""Parsing and display of partition numbers: lists of numbers, or a share of all partitions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from spanbus.errors import InputError

PARTITIONS: Final = 64
_RANGE: Final = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_SHARE: Final = re.compile(r"(?:.*\D)?(\d{1,9})/(\d{1,9})", re.DOTALL)


def numbered(text: str) -> tuple[int, ...]:
    """Parse a list of partitions such as ``0-15,40``. Raises :class:`~spanbus.errors.InputError`."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InputError(f"--partitions {text[:100]!r}: give numbers such as 0-15 or 0-7,40")
        first = int(match[1])
        last = int(match[2]) if match[2] is not None else first
        if last < first or last >= PARTITIONS:
            raise InputError(
                f"--partitions {text[:100]!r}: partitions are numbered from 0 to {PARTITIONS - 1}, the smaller one first"
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def share(text: str) -> tuple[int, ...]:
    """Return the partitions of a share such as ``2/4``: the third of four, counted from 0 like the pods of a StatefulSet.

    The number may be preceded by a name, such as a pod's. Raises :class:`~spanbus.errors.InputError`.
    """
    match = _SHARE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--share {text[:100]!r}: give a share and their number, such as 0/4")
    which, of = int(match[1]), int(match[2])
    if not 1 <= of <= PARTITIONS:
        raise InputError(f"--share {text[:100]!r}: there can be 1 to {PARTITIONS} shares, not {of}")
    if which >= of:
        last = f"0/{of} to {of - 1}/{of}" if of > 1 else "the only one is 0/1"
        raise InputError(f"--share {text[:100]!r}: shares are counted from 0: {last}")
    return tuple(range(which * PARTITIONS // of, (which + 1) * PARTITIONS // of))


def given(partitions: str | None, share_of: str | None) -> tuple[int, ...]:
    """Return the partitions given on the command line, by default all. Raises :class:`~spanbus.errors.InputError`."""
    if partitions is not None and share_of is not None:
        raise InputError("give --partitions or --share, not both")
    if partitions is not None:
        return numbered(partitions)
    return share(share_of) if share_of is not None else tuple(range(PARTITIONS))


def checked(partitions: Iterable[int]) -> tuple[int, ...]:
    """Return valid partition numbers, sorted. Raises :class:`~spanbus.errors.InputError`."""
    found = tuple(sorted(set(partitions)))
    wrong = [each for each in found if not 0 <= each < PARTITIONS]
    if wrong or not found:
        raise InputError(
            f"partitions are numbered from 0 to {PARTITIONS - 1}, not {wrong or 'none'}"
        )
    return found


def counted_by(partition: int, after: int, upto: int) -> int:
    """Return how many of the deleted messages after ``after`` up to ``upto`` this partition counts.

    The partitions of deleted messages are unknown. Each sequence number is assigned to one partition, so that all
    holders together count each message once.
    """
    return (upto - partition) // PARTITIONS - (after - partition) // PARTITIONS


def shown(partitions: Sequence[int]) -> str:
    """Format partitions for display: ``0-15, 40``."""
    parts: list[str] = []
    for each in sorted(partitions):
        first, _, last = parts[-1].partition("-") if parts else ("", "", "")
        if parts and int(last or first) + 1 == each:
            parts[-1] = f"{first}-{each}"
        else:
            parts.append(str(each))
    return ", ".join(parts)


def subjects(partitions: Sequence[int]) -> list[str]:
    """Return the subjects under which the server stores the messages of these partitions."""
    if len(partitions) == PARTITIONS:
        return ["spanbus.v1.p.>"]
    return [f"spanbus.v1.p.{each}.*" for each in partitions]
