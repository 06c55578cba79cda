"""The tables of the local store, with the steps from older versions of them."""

from __future__ import annotations

import sqlite3

_FIRST = """
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, resource BLOB NOT NULL, scope BLOB NOT NULL,
    resource_schema TEXT NOT NULL, scope_schema TEXT NOT NULL
);
CREATE TABLE spans (
    id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL, span_id BLOB NOT NULL, parent_id BLOB, source INTEGER NOT NULL, service TEXT NOT NULL,
    name TEXT NOT NULL, kind INTEGER NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL, level TEXT, run_id TEXT, workflow TEXT, phase TEXT,
    result TEXT, error_type TEXT, stored_at_s INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX spans_by_id ON spans (trace_id, span_id);
CREATE INDEX spans_by_service ON spans (service, start_ns);
CREATE INDEX spans_by_storing ON spans (stored_at_s);
CREATE INDEX runs_by_start ON spans (start_ns) WHERE level = 'run';
CREATE INDEX runs_by_id ON spans (run_id) WHERE level = 'run';
CREATE INDEX phases_by_start ON spans (start_ns) WHERE level = 'phase';
CREATE TABLE logs (
    id INTEGER PRIMARY KEY, trace_id BLOB, span_id BLOB, at_ns INTEGER NOT NULL, source INTEGER NOT NULL, stored_at_s INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX logs_by_trace ON logs (trace_id);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL, kind TEXT NOT NULL, unit TEXT NOT NULL, description TEXT NOT NULL,
    service TEXT NOT NULL, namespace TEXT NOT NULL, instance TEXT NOT NULL, attributes TEXT NOT NULL, value REAL NOT NULL, count INTEGER NOT NULL,
    bounds TEXT NOT NULL, buckets TEXT NOT NULL, exemplars TEXT NOT NULL, at_ns INTEGER NOT NULL
);
"""

_SEEN = """
CREATE TABLE seen (digest BLOB PRIMARY KEY, stored_at_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_by_storing ON seen (stored_at_s);
"""

_ENTRIES = """
CREATE INDEX entries_by_start ON spans (start_ns) WHERE level IS NULL AND (parent_id IS NULL OR kind IN (2, 5))
"""

_STEPS = (_FIRST, _SEEN, _ENTRIES)
"""Step n leads from version n to n + 1; a step that was released is never changed."""

VERSION = len(_STEPS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest version; processes that start at once do it one after another."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        for step in _STEPS[version:]:
            for statement in step.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
