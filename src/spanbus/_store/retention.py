"""Retention of spans and logs, by age and by size of the file.

Deletion is done in small transactions, so that writers hardly wait; each is a :meth:`Sweeper.step`.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final, Self

from spanbus._named_tuple import NamedTuple
from spanbus._semantics import Level
from spanbus._store import blocks
from spanbus._store.lists import forget_names

DAY_S = 86_400
_OUTPUT_EVERY_S = 60.0
_STEP_ROWS: Final = 500
_NEWEST_ROWS: Final = 500
_NEWEST_SHARE: Final = 8
"""The newest spans. A trace that is among them and also among the oldest is larger than the store."""
_HIGH, _LOW, _HARD = 0.92, 0.90, 0.95
"""Shares of the bound: above the first, deletion goes on down to the second; above the third, writers help."""


class Retention(NamedTuple):
    """Limits of retention: age in seconds since storing, and size."""

    age_s: float = 30 * DAY_S
    size_bytes: int = 512 * 2**20
    every_s: float = 60.0

    @classmethod
    def of_days(cls, days: int, size_bytes: int = 512 * 2**20) -> Self:
        return cls(age_s=days * DAY_S, size_bytes=size_bytes)

    @property
    def log_bytes(self) -> int:
        """Size above which SQLite's WAL is checkpointed and truncated."""
        return min(16 * 2**20, max(2**18, self.size_bytes // 32))


class Sweeper:
    """Deletes old rows, and the oldest ones when the file is too large."""

    def __init__(self, state_dir: Path, retention: Retention) -> None:
        self._state_dir = state_dir
        self._retention = retention
        self._next_s = self._next_output_s = 0.0
        self._written_bytes = 0
        self._shrinking = False
        self._forget_output = False

    def wrote(self, size_bytes: int) -> None:
        """Count written bytes: a check is due by them as well as by time."""
        self._written_bytes += size_bytes

    def is_due(self) -> bool:
        """Whether a check is due."""
        return (
            self._shrinking
            or self._written_bytes >= self._retention.size_bytes // 256
            or time.monotonic() >= self._next_s
        )

    def is_urgent(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is above the hard bound, so that writers must help."""
        return used_bytes(connection) > self._retention.size_bytes * _HARD

    def step(self, connection: sqlite3.Connection) -> bool:
        """Delete some rows within the caller's transaction; True when there may be more."""
        self._written_bytes = 0
        gone = _older(connection, int(time.time() - self._retention.age_s))
        used = used_bytes(connection)
        bound = self._retention.size_bytes
        if used > bound * (_LOW if self._shrinking else _HIGH):
            self._shrinking = _oldest(connection, used, int(used - bound * _LOW), bound)
            gone += self._shrinking
        else:
            self._shrinking = False
        if gone:
            forget_names(connection)
            self._forget_output = True
            return True
        self._next_s = time.monotonic() + self._retention.every_s
        return False

    def forget_output(self, connection: sqlite3.Connection) -> None:
        """Delete the output of commands of deleted runs, at most once a minute."""
        if not self._forget_output or time.monotonic() < self._next_output_s:
            return
        from spanbus._store.output import folder_of, forget

        self._forget_output = False
        self._next_output_s = time.monotonic() + _OUTPUT_EVERY_S
        runs = connection.execute(
            f"SELECT DISTINCT run_id FROM spans WHERE level = '{Level.RUN}'"
        ).fetchall()
        kept = {folder_of(self._state_dir, str(run_id)).name for (run_id,) in runs}
        forget(self._state_dir, kept.__contains__, older_than_s=DAY_S)


def used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        _number(connection, name) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def wasted_share(connection: sqlite3.Connection) -> float:
    """Share of free pages in the file."""
    return _number(connection, "freelist_count") / max(1, _number(connection, "page_count"))


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _older(connection: sqlite3.Connection, before_s: int) -> int:
    """Delete some rows stored before that time; return their number. Ids are in order of storing unless a clock was set back."""
    gone = 0
    for table in ("spans", "logs"):
        extent = _extent(connection, table)
        if not extent.rows or extent.oldest_s >= before_s:
            continue
        rows = connection.execute(
            f"SELECT id, stored_at_s FROM {table} ORDER BY id LIMIT ?", (_STEP_ROWS,)
        ).fetchall()
        old = [row_id for row_id, stored_at_s in rows if stored_at_s < before_s]
        gone += _delete(connection, table, old)
    gone += connection.execute(
        "DELETE FROM seen WHERE digest IN (SELECT digest FROM seen WHERE stored_at_s < ? LIMIT ?)",
        (before_s, _STEP_ROWS),
    ).rowcount
    return gone


def _oldest(connection: sqlite3.Connection, used: int, too_much: int, bound: int) -> bool:
    """Delete some of the oldest spans or log records; False when nothing can be deleted."""
    spans, logs = (_extent(connection, table) for table in ("spans", "logs"))
    rows = max(1, spans.rows + logs.rows)
    wanted = min(_STEP_ROWS, max(10, too_much * rows // max(1, used)))
    from_spans = bool(spans.rows) and (not logs.rows or spans.oldest_s <= logs.oldest_s)
    if from_spans:
        ids = _old_spans(
            connection,
            wanted,
            newest_rows=min(_NEWEST_ROWS, spans.rows // _NEWEST_SHARE + 1),
            first_kept=max(10, min(1_000, bound // 2**14)),
        )
        gone = _delete(connection, "spans", ids)
    else:
        oldest = connection.execute("SELECT id FROM logs ORDER BY id LIMIT ?", (wanted,)).fetchall()
        gone = _delete(connection, "logs", [row_id for (row_id,) in oldest])
    left_s = min((each.oldest_s for each in (spans, logs) if each.rows), default=2**62)
    gone += connection.execute(
        "DELETE FROM seen WHERE digest IN (SELECT digest FROM seen WHERE stored_at_s < ? ORDER BY stored_at_s LIMIT ?)",
        (left_s, wanted),
    ).rowcount
    return bool(gone)


class _Extent(NamedTuple):
    rows: int
    oldest_s: int


def _extent(connection: sqlite3.Connection, table: str) -> _Extent:
    """Approximate number of rows in a table, and the time of storing of the first."""
    first = connection.execute(
        f"SELECT id, stored_at_s FROM {table} ORDER BY id LIMIT 1"
    ).fetchone()
    if first is None:
        return _Extent(0, 0)
    last = connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]
    return _Extent(last - first[0] + 1, first[1])


def _old_spans(
    connection: sqlite3.Connection, wanted: int, *, newest_rows: int, first_kept: int
) -> list[int]:
    """Ids of the oldest deletable spans. Of a trace larger than the store, the first and the newest spans are kept."""
    newest: set[bytes] = {
        trace_id
        for (trace_id,) in connection.execute(
            "SELECT trace_id FROM spans ORDER BY id DESC LIMIT ?", (newest_rows,)
        )
    }
    stay_until: dict[bytes, int] = {}
    found: list[int] = []
    for row_id, trace_id in connection.execute("SELECT id, trace_id FROM spans ORDER BY id"):
        if trace_id in newest:
            until = stay_until.get(trace_id)
            if until is None:
                until = stay_until[trace_id] = _first_kept(connection, trace_id, row_id, first_kept)
            if row_id <= until:
                continue
        found.append(row_id)
        if len(found) >= wanted:
            break
    if found:
        return found
    oldest = connection.execute("SELECT id FROM spans ORDER BY id LIMIT ?", (wanted,)).fetchall()
    return [row_id for (row_id,) in oldest]


def _first_kept(connection: sqlite3.Connection, trace_id: bytes, first_id: int, spans: int) -> int:
    """Id of the last of a trace's first spans, which are kept; decided once per trace."""
    known = connection.execute(
        "SELECT first_id FROM missing WHERE trace_id = ?", (trace_id,)
    ).fetchone()
    if known is not None and known[0]:
        return int(known[0])
    rows = connection.execute(
        "SELECT id FROM spans WHERE id >= ? AND +trace_id = ? ORDER BY id LIMIT ?",
        (first_id, trace_id, spans),
    ).fetchall()
    until = int(rows[-1][0]) if rows else 0
    connection.execute(
        "INSERT INTO missing (trace_id, spans, first_id) VALUES (?, 0, ?) ON CONFLICT (trace_id) DO UPDATE SET first_id = excluded.first_id",
        (trace_id, until),
    )
    return until


def _delete(connection: sqlite3.Connection, table: str, ids: list[int]) -> int:
    """Delete rows by id; for traces that keep other spans, count the deleted ones as missing."""
    if not ids:
        return 0
    these = f"id IN ({','.join('?' * len(ids))})"
    of_traces = (
        connection.execute(
            f"SELECT trace_id, count(*) FROM spans WHERE {these} GROUP BY trace_id", ids
        ).fetchall()
        if table == "spans"
        else []
    )
    connection.execute(f"DELETE FROM {table} WHERE {these}", ids)
    if table == "spans":
        blocks.forget(connection, ids)
    for trace_id, count in of_traces:
        if connection.execute(
            "SELECT 1 FROM spans WHERE trace_id = ? LIMIT 1", (trace_id,)
        ).fetchone():
            connection.execute(
                "INSERT INTO missing (trace_id, spans) VALUES (?, ?) ON CONFLICT (trace_id) DO UPDATE SET spans = spans + excluded.spans",
                (trace_id, count),
            )
        else:
            connection.execute("DELETE FROM missing WHERE trace_id = ?", (trace_id,))
    return len(ids)
