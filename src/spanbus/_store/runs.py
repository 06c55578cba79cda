"""Queries of the local store for runs and their phases."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from spanbus._otlp.messages import MOST_BYTES, NotCovered, read
from spanbus._patterns import pattern
from spanbus._semantics import Level
from spanbus._store.blocks import Bodies
from spanbus._store.database import Database
from spanbus._store.schema import ENDED
from spanbus.errors import RunNotFound

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spanbus._runs.listing import PhasePoint, RunGlance, RunHead
    from spanbus._runs.summary import RunSummary

_HEAD = "run_id, workflow, lower(hex(trace_id)), lower(hex(span_id)), result, error_type, start_ns, end_ns, service"
_RUNS = f"FROM spans WHERE level = '{Level.RUN}'"
_LISTED = (  # both halves use the index of starts (the plus disables the other); a start in the future counts as its time of storing
    f"SELECT * FROM (SELECT {_HEAD}, id, start_ns AS place {_RUNS}{{where}} AND start_ns <= ? ORDER BY start_ns DESC, id DESC LIMIT ?) UNION ALL "
    f"SELECT * FROM (SELECT {_HEAD}, id, stored_at_s * 1000000000 AS place {_RUNS}{{where}} AND start_ns > ? ORDER BY +stored_at_s DESC, id DESC LIMIT ?) "
    "ORDER BY place DESC, id DESC LIMIT ? OFFSET ?"
)
_BY_PREFIX = f"SELECT id {_RUNS} AND run_id >= ? AND run_id < ? LIMIT ?"
_PREFIX_LIMIT = 1_000
_LAST = pattern(r"last(?:~(\d{1,9}))?")


class Runs(Database):
    """Queries for runs by id, workflow, project and time."""

    def run_heads(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        result: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[RunHead]:
        """Heads of runs, newest first. ``result`` is a comma-separated list of results, or ``failed``; ``text`` is a part of
        the workflow's name or the beginning of a run id.
        """
        from spanbus._runs.listing import results

        where, values = "", cast("list[object]", [])
        if workflow is not None:
            where += " AND workflow = ?"
            values.append(workflow)
        if project is not None:
            where += " AND service = ?"
            values.append(project)
        if result is not None:
            wanted = results(result)
            where += f" AND result IN ({','.join('?' * len(wanted))})"
            values.extend(wanted)
        if text:
            named = [name for name in self.workflows() if text.lower() in name.lower()]
            by_id = self._ids_with_prefix(text, _PREFIX_LIMIT)
            where += f" AND (workflow IN ({_places(named)}) OR id IN ({_places(by_id)}))"
            values.extend((*named, *by_id))
        if since_ns is not None:
            where += " AND start_ns >= ?"
            values.append(since_ns)
        half = (*values, time.time_ns(), limit + offset)
        with self.reading() as connection:
            rows = connection.execute(
                _LISTED.format(where=where), (*half, *half, limit, offset)
            ).fetchall()
        return [_head(row[:-2]) for row in rows]

    def run_head(self, run: str, *, project: str | None = None) -> RunHead:
        """Find a run by id or unique prefix, or by ``last`` and ``last~1`` (the one before), the latter of ``project`` if
        given. Raises RunNotFound.
        """
        with self.reading() as connection:
            if (last := _LAST.fullmatch(run)) is not None:
                of, values = ("", ()) if project is None else (" AND service = ?", (project,))
                rows = connection.execute(
                    f"SELECT {_HEAD} {_RUNS}{of} ORDER BY {ENDED} DESC, id DESC LIMIT 1 OFFSET ?",
                    (*values, int(last[1] or 0)),
                ).fetchall()
                if not rows and last[1] and int(last[1]):
                    raise RunNotFound(
                        f"there are not so many runs{f' of project {project!r}' if project else ''}: {run}; `spanbus runs` lists them"
                    )
                if (
                    not rows
                    and project is not None
                    and connection.execute(f"SELECT 1 {_RUNS} LIMIT 1").fetchone()
                ):
                    raise RunNotFound(
                        f"no run of project {project!r} is stored; --all looks at those of all projects"
                    )
                if not rows:
                    raise RunNotFound(
                        f"no run is stored in {self.path.parent}; `spanbus run` or `spanbus exec -- COMMAND` makes the first"
                    )
            else:
                rows = connection.execute(
                    f"SELECT {_HEAD} {_RUNS} AND run_id = ? ORDER BY start_ns DESC LIMIT 1", (run,)
                ).fetchall()
                if not rows and run:
                    rows = connection.execute(
                        f"SELECT {_HEAD} {_RUNS} AND id IN ({_BY_PREFIX}) ORDER BY +start_ns DESC",
                        (*_range(run), 4),
                    ).fetchall()
                if not rows:
                    raise RunNotFound(f"no stored run is {run!r}; `spanbus runs` lists them")
                if len({row[0] for row in rows}) > 1:
                    raise RunNotFound(
                        f"{run!r} is the beginning of several runs: {', '.join(sorted(str(row[0]) for row in rows))}"
                    )
        return _head(rows[0])

    def run(self, run: str | RunHead, *, project: str | None = None) -> RunSummary:
        """A stored run with its phases; raises RunNotFound."""
        from spanbus._runs.summary import from_spans

        head = self.run_head(run, project=project) if isinstance(run, str) else run
        root = bytes.fromhex(head.span_id)
        summary = from_spans(self._spans(bytes.fromhex(head.trace_id)), root)
        if summary is None:
            raise RunNotFound(f"the spans of run {head.run_id!r} are gone")
        missing = self.missing_spans(head.trace_id)
        return summary._replace(missing_spans=missing) if missing else summary

    def runs_within(self, run: RunSummary) -> Sequence[RunHead]:
        """Runs nested in a stored run, such as those of ``spanbus exec`` in its commands, oldest first."""
        trace_id, root = bytes.fromhex(run.trace_id), bytes.fromhex(run.span_id)
        with self.reading() as connection:
            rows = connection.execute(
                f"SELECT {_HEAD} {_RUNS} AND trace_id = ? AND span_id != ? ORDER BY +start_ns, id",
                (trace_id, root),
            ).fetchall()
            if not rows:
                return []
            children: dict[bytes, list[bytes]] = {}
            for span_id, parent_id in connection.execute(
                "SELECT span_id, parent_id FROM spans WHERE trace_id = ?", (trace_id,)
            ):
                children.setdefault(parent_id or b"", []).append(span_id)
        inside = descendants(children, root)
        return [head for head in map(_head, rows) if bytes.fromhex(head.span_id) in inside]

    def workflows(self) -> Sequence[str]:
        """Names of the stored workflows, in alphabetical order."""
        return self._names("SELECT name FROM workflows ORDER BY name")

    def projects(self) -> Sequence[str]:
        """Services that ran workflows, in alphabetical order."""
        return self._names("SELECT name FROM services WHERE runs_until_s IS NOT NULL ORDER BY name")

    def missing_spans(self, trace_id: str) -> int:
        """Number of deleted spans of a stored trace, which is old or larger than the store."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT spans FROM missing WHERE trace_id = ?", (bytes.fromhex(trace_id),)
            ).fetchone()
        return int(row[0]) if row is not None else 0

    def glances(self, heads: Sequence[RunHead]) -> Sequence[RunGlance]:
        """Details of each run for a list, in the same order."""
        from spanbus._store.glances import glances

        with self.reading() as connection:
            return glances(connection, heads)

    def phase_points(
        self,
        *,
        since_ns: int,
        workflow: str | None,
        limit: int,
        project: str | None = None,
        phase: str | None = None,
    ) -> Sequence[PhasePoint]:
        """The newest ``limit`` phases, oldest first."""
        from spanbus._store.glances import phase_points

        workflows = [workflow] if workflow is not None else [*self.workflows(), None]
        with self.reading() as connection:
            return phase_points(
                connection, workflows, since_ns=since_ns, limit=limit, project=project, phase=phase
            )

    def _names(self, question: str) -> list[str]:
        with self.reading() as connection:
            return [str(name) for (name,) in connection.execute(question)]

    def _ids_with_prefix(self, text: str, most: int) -> list[int]:
        with self.reading() as connection:
            rows = connection.execute(_BY_PREFIX, (*_range(text), most)).fetchall()
        return [row_id for (row_id,) in rows]

    def _spans(self, trace_id: bytes) -> list[Span]:
        with self.reading() as connection:
            bodies = Bodies(connection)
            rows = connection.execute(
                "SELECT id, body FROM spans WHERE trace_id = ? ORDER BY start_ns, id", (trace_id,)
            )
            found = [bodies.of(row_id, body) for row_id, body in rows]
        return _decoded(found)


def _decoded(bodies: Sequence[bytes]) -> list[Span]:
    """Decode spans; a few without protobuf, which takes longer to import than a short command runs."""
    if sum(map(len, bodies)) <= MOST_BYTES:
        with suppress(NotCovered):
            return [cast("Span", read("WholeSpan", body)) for body in bodies]
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    return [Span.FromString(body) for body in bodies]


def _range(prefix: str) -> tuple[str, str]:
    """Range of the texts that begin with ``prefix``, for an index."""
    return prefix, f"{prefix}\U0010ffff"


def _places(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _head(row: tuple[object, ...]) -> RunHead:
    from spanbus._runs.listing import RunHead

    run_id, workflow, trace_id, span_id, result, error_type, start_ns, end_ns, service = row
    started, ended = cast("int", start_ns), cast("int", end_ns)
    return RunHead(
        str(run_id or ""),
        str(workflow or ""),
        str(trace_id),
        str(span_id),
        str(result or ""),
        str(error_type) if error_type else None,
        started,
        (ended - started) / 1e9 if ended - started > 1 else 0.0,
        str(service or ""),
    )


def descendants(children: Mapping[bytes, Sequence[bytes]], root: bytes) -> set[bytes]:
    found: set[bytes] = set()
    waiting = [root]
    while waiting:
        span_id = waiting.pop()
        if span_id not in found:
            found.add(span_id)
            waiting.extend(children.get(span_id, ()))
    return found
