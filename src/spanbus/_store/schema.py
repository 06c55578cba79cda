"""Tables of the local store, as steps from version to version."""

from __future__ import annotations

import sqlite3

from spanbus._store.opening import APPLICATION_ID

LARGEST = 2**63 - 1
"""Largest integer of a column."""

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

_PHASES = """
CREATE INDEX IF NOT EXISTS phases_by_trace ON spans (trace_id, start_ns) WHERE level = 'phase'
"""

ENDED = "min(end_ns, (stored_at_s + 1) * 1000000000)"
"""End of a span, or its time of storing if its clock was ahead. Must be written exactly as in the index."""

# Names for the lists on every page. Reading them from all spans would take seconds. ``until_s`` is the time of storing of the
# newest span with the name; a name without spans is older than the oldest span. ``sources_used`` has the last span and log record
# of each source.
_LISTS = f"""
CREATE TABLE IF NOT EXISTS services (name TEXT PRIMARY KEY, until_s INTEGER NOT NULL, runs_until_s INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (service TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, until_s INTEGER NOT NULL, PRIMARY KEY (service, name, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workflows (name TEXT PRIMARY KEY, until_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS missing (trace_id BLOB PRIMARY KEY, spans INTEGER NOT NULL, first_id INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources_used (source INTEGER PRIMARY KEY, span INTEGER NOT NULL, log INTEGER NOT NULL);
INSERT OR REPLACE INTO services SELECT service, max(stored_at_s), max(CASE WHEN level = 'run' THEN stored_at_s END) FROM spans GROUP BY service;
INSERT OR REPLACE INTO operations SELECT service, name, kind, max(stored_at_s) FROM spans GROUP BY service, name, kind;
INSERT OR REPLACE INTO workflows SELECT workflow, max(stored_at_s) FROM spans WHERE level IN ('run', 'phase') AND workflow IS NOT NULL GROUP BY workflow;
INSERT OR REPLACE INTO sources_used SELECT id, coalesce((SELECT max(id) FROM spans), 0), coalesce((SELECT max(id) FROM logs), 0) FROM sources;
DROP INDEX IF EXISTS spans_by_storing;
DROP INDEX IF EXISTS runs_by_start;
DROP INDEX IF EXISTS phases_by_start;
DROP INDEX IF EXISTS entries_by_start;
CREATE INDEX IF NOT EXISTS runs_by_start ON spans (start_ns, workflow, service, result) WHERE level = 'run';
CREATE INDEX IF NOT EXISTS runs_by_workflow ON spans (workflow, start_ns) WHERE level = 'run';
CREATE INDEX IF NOT EXISTS runs_by_end ON spans ({ENDED}) WHERE level = 'run';
CREATE INDEX IF NOT EXISTS runs_by_project ON spans (service, {ENDED}) WHERE level = 'run';
CREATE INDEX IF NOT EXISTS runs_by_trace ON spans (trace_id) WHERE level = 'run';
CREATE INDEX IF NOT EXISTS phases_by_workflow ON spans (workflow, start_ns) WHERE level = 'phase';
CREATE INDEX IF NOT EXISTS entries_by_start ON spans (start_ns, service, name) WHERE level IS NULL AND (parent_id IS NULL OR kind IN (2, 5))
"""

# Compressed blocks of span bodies. Bodies stored by older versions stay in their rows.
_BLOCKS = """
CREATE TABLE IF NOT EXISTS blocks (id INTEGER PRIMARY KEY, spans INTEGER NOT NULL, body BLOB NOT NULL)
"""

# Attempts of a phase, if more than one: lists of phases show it, and nothing else of the body.
_ATTEMPTS = """
ALTER TABLE spans ADD COLUMN attempts INTEGER
"""

STEPS = (_FIRST, _SEEN, _ENTRIES, _LISTS, _PHASES, _BLOCKS, _ATTEMPTS)
"""Step n leads from version n to n + 1; a released step is never changed."""

VERSION = len(STEPS)


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the file to the newest version; concurrent processes do it one after another."""
    if (
        connection.execute("PRAGMA user_version").fetchone()[0] == 0
        and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    ):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        for step in STEPS[version:]:
            for statement in step.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
