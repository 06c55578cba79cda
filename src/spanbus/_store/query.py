"""Trace queries, their deadline, and merging of indexed results."""

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
    """Query for traces with a span that matches all fields. Times are Unix nanoseconds, both ends included.

    ``service`` None matches all services.
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
"""Limit of a search in seconds; then it returns what it found."""
_LOOK_EVERY = 5_000
"""Instructions of SQLite between two checks of the clock."""


class Partial(list[str]):
    """Ids of a search that reached its deadline: the newest matches. ``why`` tells the range that was searched."""

    def __init__(self, found: Iterable[str], why: str) -> None:
        super().__init__(found)
        self.why = why


class Deadline:
    """Deadline of a query. ``passed`` is true once the query was interrupted."""

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
    """Interrupt SQLite after ``seconds``; the block then ends without an error."""
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
    """Run one query per key and merge the rows by their first column, largest first.

    The key is the first parameter. Each query uses an index; one query for all keys would sort all rows before the first.
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
