"""Names of services, operations and workflows, kept while spans come in: to read them from all spans takes seconds.

Each row says when its newest span came in. What is older than the oldest span that is stored has no span any more.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

_MOST_KNOWN = 20_000


class Names:
    """The names that one process wrote within the second; written once a second, not once a span."""

    def __init__(self) -> None:
        self._at_s = 0
        self._known: set[tuple[object, ...]] = set()

    def write(
        self, connection: sqlite3.Connection, seen: Iterable[tuple[object, ...]], now_s: int
    ) -> set[tuple[object, ...]]:
        """Write names that are new in this second, within the caller's transaction; call :meth:`written` with the
        result once it is committed.
        """
        new = set(seen)
        if now_s == self._at_s:
            new -= self._known
        for row in new:
            match row:
                case ("operation", service, name, kind):
                    connection.execute(
                        "INSERT INTO operations (service, name, kind, until_s) VALUES (?, ?, ?, ?) "
                        "ON CONFLICT (service, name, kind) DO UPDATE SET until_s = max(until_s, excluded.until_s)",
                        (service, name, kind, now_s),
                    )
                case ("service", name):
                    connection.execute(
                        "INSERT INTO services (name, until_s) VALUES (?, ?) "
                        "ON CONFLICT (name) DO UPDATE SET until_s = max(until_s, excluded.until_s)",
                        (name, now_s),
                    )
                case ("project", name):
                    connection.execute(
                        "INSERT INTO services (name, until_s, runs_until_s) VALUES (?, ?, ?) "
                        "ON CONFLICT (name) DO UPDATE SET until_s = max(until_s, excluded.until_s), runs_until_s = excluded.runs_until_s",
                        (name, now_s, now_s),
                    )
                case ("workflow", name):
                    connection.execute(
                        "INSERT INTO workflows (name, until_s) VALUES (?, ?) "
                        "ON CONFLICT (name) DO UPDATE SET until_s = max(until_s, excluded.until_s)",
                        (name, now_s),
                    )
                case _:
                    raise ValueError(f"no list for {row[0]!r}")
        return new

    def written(self, new: set[tuple[object, ...]], now_s: int) -> None:
        """Remember what was committed."""
        if now_s != self._at_s or len(self._known) > _MOST_KNOWN:
            self._at_s, self._known = now_s, set()
        self._known |= new


def forget_names(connection: sqlite3.Connection) -> None:
    """Let go of names and resources that nothing refers to any more."""
    oldest = connection.execute("SELECT stored_at_s FROM spans ORDER BY id LIMIT 1").fetchone()
    now_s = int(
        time.time()
    )  # another process may write spans of a name that it wrote in this second
    oldest_s = min(now_s, oldest[0]) if oldest is not None else now_s
    for table in ("services", "operations", "workflows"):
        connection.execute(f"DELETE FROM {table} WHERE until_s < ?", (oldest_s,))
    connection.execute(
        "UPDATE services SET runs_until_s = NULL WHERE runs_until_s < ?", (oldest_s,)
    )
    first_span, first_log = (
        connection.execute(f"SELECT coalesce(min(id), {2**62}) FROM {table}").fetchone()[0]
        for table in ("spans", "logs")
    )
    unused = "SELECT source FROM sources_used WHERE span < ? AND log < ?"
    connection.execute(f"DELETE FROM sources WHERE id IN ({unused})", (first_span, first_log))
    connection.execute(
        "DELETE FROM sources_used WHERE span < ? AND log < ?", (first_span, first_log)
    )
