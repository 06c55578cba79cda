"""Names of services, operations and workflows, recorded as spans arrive: reading them from all spans would take seconds.

Each row has the time of storing of its newest span. A name older than the oldest stored span has no spans left.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

_MOST_KNOWN = 20_000


class Names:
    """Cache of the names written within the current second, so that a name is written once a second and not once a span."""

    def __init__(self) -> None:
        self._at_s = 0
        self._known: set[tuple[object, ...]] = set()

    def write(
        self, connection: sqlite3.Connection, seen: Iterable[tuple[object, ...]], now_s: int
    ) -> set[tuple[object, ...]]:
        """Write the names that are new in this second, within the caller's transaction; after the commit, call
        :meth:`written` with the result.
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
        """Add committed names to the cache."""
        if now_s != self._at_s or len(self._known) > _MOST_KNOWN:
            self._at_s, self._known = now_s, set()
        self._known |= new


def forget_names(connection: sqlite3.Connection) -> None:
    """Delete names and sources that are no longer used."""
    oldest = connection.execute("SELECT stored_at_s FROM spans ORDER BY id LIMIT 1").fetchone()
    # Spare names of this second: another process may have cached one, and write spans with it.
    now_s = int(time.time())
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
