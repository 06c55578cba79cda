"""Details of stored runs and phases for long lists: from columns and indexes, and from a span's body only if necessary."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import cast

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._runs.listing import PhaseMark, PhasePoint, RunGlance, RunHead
from spanbus._semantics import FAILED_RESULTS, Level, names
from spanbus._store.blocks import Bodies
from spanbus._store.query import newest_first

PHASES_SHOWN = 40
ERROR_SHOWN = 300

PHASES = (
    f"SELECT start_ns, workflow, phase, run_id, end_ns, result, service, attempts, body FROM spans WHERE level = '{Level.PHASE}' "
    "AND workflow IS ? AND start_ns >= ?{where} ORDER BY start_ns DESC LIMIT ?"
)
_OF_RUN = f"FROM spans WHERE trace_id = ? AND level = '{Level.PHASE}' AND run_id = ?"
_Point = tuple[
    int, str | None, str | None, str | None, int, str | None, str | None, int | None, bytes
]
_ATTEMPTS = names.PHASE_ATTEMPTS.encode()
_FAILED = ",".join(f"'{result}'" for result in sorted(FAILED_RESULTS))
_COMMANDS = (  # in the last attempt, if there were several
    f"SELECT id, parent_id, body FROM spans WHERE trace_id = ? AND run_id = ? AND level IN ('{Level.HOOK}', '{Level.COMMAND}') "
    f"AND result IN ({_FAILED}) AND end_ns <= ? AND start_ns >= (SELECT coalesce(max(start_ns), ?) FROM spans "
    f"WHERE trace_id = ? AND run_id = ? AND level = '{Level.ATTEMPT}' AND phase = ?) ORDER BY end_ns, id LIMIT 8"
)
_DEPTH = 8


def glances(connection: sqlite3.Connection, heads: Sequence[RunHead]) -> list[RunGlance]:
    """Details of each run for a list, in the same order."""
    sources: dict[int, tuple[str, str]] = {}
    bodies = Bodies(connection)
    return [_glance(connection, head, sources, bodies) for head in heads]


def _glance(
    connection: sqlite3.Connection,
    head: RunHead,
    sources: dict[int, tuple[str, str]],
    bodies: Bodies,
) -> RunGlance:
    trace_id, span_id = bytes.fromhex(head.trace_id), bytes.fromhex(head.span_id)
    key = (trace_id, head.run_id)
    phases = connection.execute(
        f"SELECT phase, result, start_ns, end_ns {_OF_RUN} ORDER BY start_ns, id LIMIT {PHASES_SHOWN}",
        key,
    ).fetchall()
    total = len(phases)
    if total == PHASES_SHOWN:
        total = int(connection.execute(f"SELECT count(*) {_OF_RUN}", key).fetchone()[0])
    own = connection.execute(
        "SELECT source, id, body FROM spans WHERE trace_id = ? AND span_id = ?", (trace_id, span_id)
    ).fetchone()
    branch, commit = _version(connection, own[0], sources) if own is not None else ("", "")
    failed, error, output = "", "", ""
    if head.result in FAILED_RESULTS:
        first = connection.execute(
            f"SELECT phase, id, body, span_id, start_ns, end_ns {_OF_RUN} AND result IN ({_FAILED}) ORDER BY end_ns, id LIMIT 1",
            key,
        ).fetchone()
        failed = str(first[0] or "") if first is not None else ""
        row = first if first is not None else own
        span = Span.FromString(bodies.of(row[1], row[2]) if row is not None else b"")
        error = _first_line(span.status.message)
        output = _output(span)
        if not output and first is not None:
            output = _output_beneath(connection, key, first, bodies)
    return RunGlance(
        branch,
        commit,
        tuple(
            PhaseMark(str(name or ""), str(result or ""), max(0, end_ns - start_ns) / 1e9)
            for name, result, start_ns, end_ns in phases
        ),
        total,
        failed,
        error,
        output,
    )


def _output_beneath(
    connection: sqlite3.Connection,
    key: tuple[bytes, str],
    phase: tuple[str | None, int, bytes, bytes, int, int],
    bodies: Bodies,
) -> str:
    """Last output line of the command or hook that failed first in a phase."""
    name, _, _, top, start_ns, end_ns = phase
    for row_id, parent, body in connection.execute(
        _COMMANDS, (*key, end_ns, start_ns, *key, name)
    ).fetchall():
        if _is_beneath(connection, key[0], parent, top):
            found = _output(Span.FromString(bodies.of(row_id, body)))
            if found:
                return found
    return ""


def _is_beneath(connection: sqlite3.Connection, trace_id: bytes, parent: bytes, top: bytes) -> bool:
    """Whether ``top`` is that parent or an ancestor of it, up to 8 levels."""
    above = parent
    for _ in range(_DEPTH):
        if above == top:
            return True
        row = connection.execute(
            "SELECT parent_id FROM spans WHERE trace_id = ? AND span_id = ?", (trace_id, above)
        ).fetchone()
        if row is None:
            return False
        above = row[0]
    return False


def _output(span: Span) -> str:
    tail = next(
        (pair.value.string_value for pair in span.attributes if pair.key == names.OUTPUT_TAIL), ""
    )
    lines = (line.strip() for line in reversed(tail.splitlines()))
    return next(filter(None, lines), "")[:ERROR_SHOWN]


def _version(
    connection: sqlite3.Connection, source: int, known: dict[int, tuple[str, str]]
) -> tuple[str, str]:
    """Branch and commit of a source's resource."""
    if source not in known:
        row = connection.execute("SELECT resource FROM sources WHERE id = ?", (source,)).fetchone()
        values = (
            {pair.key: pair.value.string_value for pair in Resource.FromString(row[0]).attributes}
            if row is not None
            else {}
        )
        known[source] = (
            values.get("vcs.ref.head.name", "")[:200],
            values.get("vcs.ref.head.revision", "")[:64],
        )
    return known[source]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:ERROR_SHOWN]


def phase_points(
    connection: sqlite3.Connection,
    workflows: Sequence[str | None],
    *,
    since_ns: int,
    limit: int,
    project: str | None = None,
    phase: str | None = None,
) -> list[PhasePoint]:
    """The newest ``limit`` phases of these workflows, oldest first."""
    where, values = "", list[object]()
    for column, value in (("service", project), ("phase", phase)):
        if value is not None:
            where += f" AND {column} = ?"
            values.append(value)
    rows = newest_first(
        connection, PHASES.format(where=where), workflows, (since_ns, *values, limit)
    )
    newest = [cast("_Point", row) for row in islice(rows, limit)]
    return [
        PhasePoint(
            workflow or "",
            name or "",
            run_id or "",
            start_ns,
            max(0, end_ns - start_ns) / 1e9,
            result or "",
            service or "",
            attempts or _attempts(body),
        )
        for start_ns, workflow, name, run_id, end_ns, result, service, attempts, body in reversed(
            newest
        )
    ]


def _attempts(body: bytes) -> int:
    """Attempts of a phase stored by an older version, with its body in its row."""
    if _ATTEMPTS not in body:
        return 1
    for pair in Span.FromString(body).attributes:
        if pair.key == names.PHASE_ATTEMPTS:
            return max(1, pair.value.int_value)
    return 1
