"""Questions to a store of traces."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import merge
from types import MappingProxyType

from spanbus._named_tuple import NamedTuple

_NO_TIME = 2**63 - 1
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class TraceQuery(NamedTuple):
    """Query for traces with a span that matches all of this. Times are Unix nanoseconds, both ends included.

    Without ``service`` those of every service.
    """

    service: str | None = None
    operation: str | None = None
    tags: Mapping[str, str] = _NO_TAGS
    start_ns: int = 0
    end_ns: int = _NO_TIME
    min_ns: int = 0
    max_ns: int = _NO_TIME
    limit: int = 100


SEARCH_S = 0.8
"""Seconds that a search takes at most; then it gives what it found."""
_LOOK_EVERY = 5_000
"""Instructions of SQLite between two looks at the clock."""


class Partial(list[str]):
    """Ids of a search that came to its deadline: the newest that were found. ``why`` says what was looked at."""

    def __init__(self, found: Iterable[str], why: str) -> None:
        super().__init__(found)
        self.why = why


class Deadline:
    """Time that is left for a question. ``passed`` is true once it was broken off."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._end_s = clock() + seconds
        self.passed = False

    def is_over(self) -> bool:
        self.passed = self.passed or self._clock() >= self._end_s
        return self.passed


@contextmanager
def deadline(
    connection: sqlite3.Connection,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Deadline]:
    """Break SQLite off when the time is over; what is asked within ends then without an error."""
    left = Deadline(clock, seconds)
    connection.set_progress_handler(left.is_over, _LOOK_EVERY)
    try:
        yield left
    except sqlite3.OperationalError:
        if not left.passed:
            raise
    finally:
        connection.set_progress_handler(None, 0)


def newest_first(
    connection: sqlite3.Connection, question: str, keys: Iterable[object], values: Iterable[object]
) -> Iterator[tuple[object, ...]]:
    """Rows of one question asked for each key, each by its index, merged by their first column, the largest first.

    The key is the first parameter. One question for all keys would sort every row before it gives the first.
    """
    rest = tuple(values)
    cursors = [connection.execute(question, (key, *rest)) for key in keys]
    try:
        yield from cursors[0] if len(cursors) == 1 else merge(*cursors, key=_first, reverse=True)
    finally:
        for cursor in cursors:
            cursor.close()


def _first(row: tuple[object, ...]) -> int:
    return row[0]  # type: ignore[return-value]
