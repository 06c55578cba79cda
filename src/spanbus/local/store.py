"""The local store: spans, log records and metric series in one SQLite file.

Several processes write at once (WAL); a span id is stored once. A span is kept as the bytes it came in, beside the columns
that are asked for. Retention is by age of storing and by size of the file.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from spanbus.errors import RunNotFound, StoreError
from spanbus.local.read_only import Source, can_be_written, reading
from spanbus.local.store_schema import VERSION, migrate
from spanbus.telemetry import names
from spanbus.telemetry.names import Level

if TYPE_CHECKING:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

    from spanbus.local.api import TraceQuery
    from spanbus.local.heads import PhasePoint, RunHead, TraceHead
    from spanbus.local.series import Series
    from spanbus.telemetry.summary import RunSummary

DAY_S = 86_400
_SOURCES_EVERY_S = 3_600.0
_MOST = 2**63 - 1
_HEAD = "run_id, workflow, lower(hex(trace_id)), lower(hex(span_id)), result, error_type, start_ns, end_ns"
_RUNS = f"FROM spans WHERE level = '{Level.RUN}'"
_LISTED = (  # both by the index of starts (a plus keeps SQLite off the other); what a wrong clock puts into the future has its place where it came in
    f"SELECT * FROM (SELECT {_HEAD}, id, start_ns AS place {_RUNS}{{where}} AND start_ns <= ? ORDER BY start_ns DESC, id DESC LIMIT ?) UNION ALL "
    f"SELECT * FROM (SELECT {_HEAD}, id, stored_at_s * 1000000000 AS place {_RUNS}{{where}} AND start_ns > ? ORDER BY +stored_at_s DESC, id DESC LIMIT ?) "
    "ORDER BY place DESC, id DESC LIMIT ? OFFSET ?"
)
_RESULT_KEYS = (names.PIPELINE_RESULT, names.TASK_RESULT, names.HOOK_RESULT)
_PARENTS: list[sqlite3.Connection] = []
"""Connections that a parent process made; kept so that nothing closes them."""
_INSERT = (
    "INSERT OR IGNORE INTO spans (trace_id, span_id, parent_id, source, service, name, kind, start_ns, end_ns, level, run_id, workflow, phase, result, "
    "error_type, stored_at_s, body) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


class Retention(NamedTuple):
    """What is kept: at most so old (seconds since it was stored), at most so large."""

    age_s: float = 30 * DAY_S
    size_bytes: int = 512 * 2**20
    every_s: float = 60.0

    @classmethod
    def of_days(cls, days: int) -> Self:
        return cls(age_s=days * DAY_S)


class Store:
    """An open store; thread-safe. Use it as a context manager, or call :meth:`close`."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self.path = path
        self._retention = retention or Retention()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._next_sweep_s = 0.0
        self._next_source_sweep_s = 0.0
        self._closed = False
        self._process = os.getpid()
        self._still: Source | None = None

    @property
    def read_only(self) -> bool:
        """Whether it lies where it cannot be written; nothing is taken in then."""
        return self._still is not None

    @classmethod
    def open_to_read(cls, path: Path, retention: Retention | None = None) -> Store:
        """Open one that is there, also where nothing may be written; where it may, it takes in too. Raises :class:`~spanbus.errors.StoreError` for one that cannot be read."""
        if not path.exists() or can_be_written(path):
            return cls.open(path, retention)
        store = cls(path)
        try:
            store._still = reading(path)
            store._check_version()
        except OSError as error:
            raise StoreError(f"{path}: the local store cannot be read: {error.strerror or error}") from error
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: the local store cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _no_store(path, error) from error
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, retention: Retention | None = None) -> Store:
        """Open or create; raises :class:`~spanbus.errors.StoreError` for a file that is broken or newer than this program."""
        store = cls(path, retention)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close every connection; may be called twice."""
        if self._process != os.getpid():
            self._leave_the_parents()
        with self._lock:
            self._closed = True
            for connection in self._connections:
                with suppress(sqlite3.Error):
                    connection.close()
            self._connections.clear()
            self._local = threading.local()
            if self._still is not None:
                self._still.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- connections --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            folder = self.path.parent
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            if not self.path.exists():
                _make(self.path)
        except OSError as error:
            raise StoreError(f"{self.path}: the local store cannot be opened: {error.strerror or error}; set SPANBUS_STATE_DIR to a folder of yours") from error
        if self._check_version() < VERSION:
            with self._reading() as connection:
                migrate(connection)

    def _check_version(self) -> int:
        with self._reading() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise StoreError(f"{self.path}: the store has schema {version}, this spanbus knows {VERSION}; update spanbus, or set SPANBUS_STATE_DIR to another folder")
        if version == 0 and self.read_only:
            raise StoreError(f"{self.path}: there is no store in it yet, and none can be made: it cannot be written")
        return version

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        """This thread's connection; SQLite's errors become one that says which file."""
        if self._process != os.getpid():
            self._leave_the_parents()
        try:
            connection = cast("sqlite3.Connection | None", getattr(self._local, "connection", None))
            if connection is None:
                if self._closed:
                    raise StoreError(f"{self.path}: the store was closed")
                where, is_uri = (self.path, False) if self._still is None else (self._still.uri, True)
                connection = sqlite3.connect(where, timeout=10.0, isolation_level=None, check_same_thread=False, uri=is_uri)
                with self._lock:
                    self._connections.append(connection)
                connection.execute("PRAGMA synchronous = NORMAL")
                self._local.connection = connection
            yield connection
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _no_store(self.path, error) from error

    def _leave_the_parents(self) -> None:
        """In a forked child: a connection must not be used, nor closed, on this side of a fork."""
        _PARENTS.extend(self._connections)
        self._process, self._lock, self._local, self._connections = os.getpid(), threading.Lock(), threading.local(), []

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """One transaction."""
        if self.read_only:
            raise StoreError(f"{self.path}: the local store cannot be written")
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # --- in -----------------------------------------------------------------------------------------------------------

    def ingest(self, signal: str, body: bytes) -> None:
        """Keep one OTLP export request in protobuf bytes; ``signal`` is traces, metrics or logs."""
        {"traces": self.ingest_traces, "metrics": self.ingest_metrics, "logs": self.ingest_logs}[signal](body)

    def ingest_traces(self, body: bytes) -> None:
        """Keep the spans of an ``ExportTraceServiceRequest``; those that are there already are left as they are."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(body)
        now_s = int(time.time())
        with self._writing() as connection:
            for resource_spans in request.resource_spans:
                resource = resource_spans.resource.SerializeToString()
                service = _service(resource_spans.resource)
                for scope_spans in resource_spans.scope_spans:
                    source = self._source(connection, resource, scope_spans.scope.SerializeToString(), resource_spans.schema_url, scope_spans.schema_url)
                    connection.executemany(_INSERT, [_row(span, source, service, now_s) for span in scope_spans.spans])
        self._sweep()

    def ingest_metrics(self, body: bytes) -> int:
        """Add the points of an ``ExportMetricsServiceRequest``: deltas are accumulated, cumulative series and gauges replaced.

        How many points were left out, because the store has as many series as it takes.
        """
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        from spanbus.local.store_metrics import add

        request = ExportMetricsServiceRequest.FromString(body)
        with self._writing() as connection:
            left_out = add(connection, request, int(time.time()))
        self._sweep()
        return left_out

    def ingest_logs(self, body: bytes) -> None:
        """Keep the records of an ``ExportLogsServiceRequest``."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        from spanbus.local.store_metrics import first_time

        request = ExportLogsServiceRequest.FromString(body)
        now_s = int(time.time())
        with self._writing() as connection:
            for resource_logs in request.resource_logs:
                resource = resource_logs.resource.SerializeToString()
                once = _is_one_shot(resource_logs.resource)
                for scope_logs in resource_logs.scope_logs:
                    source = self._source(connection, resource, scope_logs.scope.SerializeToString(), resource_logs.schema_url, scope_logs.schema_url)
                    connection.executemany(
                        "INSERT INTO logs (trace_id, span_id, at_ns, source, stored_at_s, body) VALUES (?,?,?,?,?,?)",
                        [
                            (record.trace_id, record.span_id, min(_MOST, record.time_unix_nano or record.observed_time_unix_nano), source, now_s, record.SerializeToString())
                            for record in scope_logs.log_records
                            if not once or first_time(connection, now_s, resource, record.SerializeToString(deterministic=True))
                        ],
                    )
        self._sweep()

    def _source(self, connection: sqlite3.Connection, resource: bytes, scope: bytes, resource_schema: str, scope_schema: str) -> int:
        """The number of a resource with a scope."""
        # Asked each time: another process may have let go of a source that this one knew.
        digest = blake2b(b"\0".join((resource, scope, resource_schema.encode(), scope_schema.encode())), digest_size=16).digest()
        known = connection.execute("SELECT id FROM sources WHERE digest = ?", (digest,)).fetchone()
        if known is not None:
            return int(known[0])
        made = connection.execute(
            "INSERT INTO sources (digest, resource, scope, resource_schema, scope_schema) VALUES (?,?,?,?,?)",
            (digest, resource, scope, resource_schema, scope_schema),
        )
        return int(made.lastrowid or 0)

    def _sweep(self) -> None:
        """Let go of what is too old, and of the oldest when the file is too large; once a minute at most."""
        now_s = time.monotonic()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + self._retention.every_s
        with self._writing() as connection:
            before_s = int(time.time() - self._retention.age_s)
            gone = connection.execute("DELETE FROM spans WHERE stored_at_s < ?", (before_s,)).rowcount
            gone += connection.execute("DELETE FROM logs WHERE stored_at_s < ?", (before_s,)).rowcount
            connection.execute("DELETE FROM seen WHERE stored_at_s < ?", (before_s,))
            if gone and now_s >= self._next_source_sweep_s:  # it looks at every span
                self._next_source_sweep_s = now_s + _SOURCES_EVERY_S
                _forget_sources(connection)
            while _used_bytes(connection) > self._retention.size_bytes:
                gone = 0
                for table in ("spans", "logs"):
                    total = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                    gone += connection.execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT ?)", (total // 5 + 1,)).rowcount
                _forget_sources(connection)
                total = int(connection.execute("SELECT count(*) FROM seen").fetchone()[0])
                connection.execute("DELETE FROM seen WHERE digest IN (SELECT digest FROM seen ORDER BY stored_at_s LIMIT ?)", (total // 5 + 1,))
                if not gone:
                    break
        with self._reading() as connection:
            connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()

    # --- runs ---------------------------------------------------------------------------------------------------------

    def run_heads(
        self, *, workflow: str | None = None, result: str | None = None, text: str | None = None, since_ns: int | None = None, limit: int = 100,
        offset: int = 0,
    ) -> Sequence[RunHead]:
        """The newest first; ``result`` is one or several, with commas, or ``failed``; ``text`` a part of the workflow's name or the beginning of a run id."""
        from spanbus.local.heads import results

        where, values = "", cast("list[object]", [])
        if workflow is not None:
            where += " AND workflow = ?"
            values.append(workflow)
        if result is not None:
            wanted = results(result)
            where += f" AND result IN ({','.join('?' * len(wanted))})"
            values.extend(wanted)
        if text:
            where += " AND (instr(lower(workflow), ?) > 0 OR substr(run_id, 1, ?) = ?)"
            values.extend((text.lower(), len(text), text))
        if since_ns is not None:
            where += " AND start_ns >= ?"
            values.append(since_ns)
        half = (*values, time.time_ns(), limit + offset)
        with self._reading() as connection:
            rows = connection.execute(_LISTED.format(where=where), (*half, *half, limit, offset)).fetchall()
        return [_head(row[:-2]) for row in rows]

    def run_head(self, run: str) -> RunHead:
        """By id, by unique prefix, or ``last``; raises RunNotFound."""
        with self._reading() as connection:
            if run == "last":
                rows = connection.execute(f"SELECT {_HEAD} {_RUNS} ORDER BY min(end_ns, (stored_at_s + 1) * 1000000000) DESC, id DESC LIMIT 1").fetchall()
                if not rows:
                    raise RunNotFound(f"no run is stored in {self.path.parent}; `spanbus run` or `spanbus exec -- COMMAND` makes the first")
            else:
                rows = connection.execute(f"SELECT {_HEAD} {_RUNS} AND run_id = ? ORDER BY start_ns DESC LIMIT 1", (run,)).fetchall()
                if not rows and run:
                    rows = connection.execute(
                        f"SELECT {_HEAD} {_RUNS} AND substr(run_id, 1, ?) = ? ORDER BY start_ns DESC LIMIT 4", (len(run), run)
                    ).fetchall()
                if not rows:
                    raise RunNotFound(f"no stored run is {run!r}; `spanbus runs` lists them")
                if len({row[0] for row in rows}) > 1:
                    raise RunNotFound(f"{run!r} is the beginning of several runs: {', '.join(sorted(str(row[0]) for row in rows))}")
        return _head(rows[0])

    def run(self, run: str) -> RunSummary:
        """A stored run with its phases; raises RunNotFound."""
        from spanbus.telemetry.summary import from_spans

        head = self.run_head(run)
        root = bytes.fromhex(head.span_id)
        summary = from_spans(self._spans(bytes.fromhex(head.trace_id)), root)
        if summary is None:
            raise RunNotFound(f"the spans of run {run!r} are gone")
        return summary

    def runs_within(self, run: RunSummary) -> Sequence[RunHead]:
        """The runs that began beneath a stored one, such as those of ``spanbus exec`` in its commands, the oldest first."""
        trace_id, root = bytes.fromhex(run.trace_id), bytes.fromhex(run.span_id)
        with self._reading() as connection:
            rows = connection.execute(f"SELECT {_HEAD} {_RUNS} AND trace_id = ? AND span_id != ? ORDER BY start_ns, id", (trace_id, root)).fetchall()
            if not rows:
                return []
            beneath: dict[bytes, list[bytes]] = {}
            for span_id, parent_id in connection.execute("SELECT span_id, parent_id FROM spans WHERE trace_id = ?", (trace_id,)):
                beneath.setdefault(parent_id or b"", []).append(span_id)
        inside = _tree(beneath, root)
        return [head for head in map(_head, rows) if bytes.fromhex(head.span_id) in inside]

    def workflows(self) -> Sequence[str]:
        """The names of the workflows that ran, in the order of the alphabet."""
        with self._reading() as connection:
            return [str(row[0]) for row in connection.execute(f"SELECT DISTINCT workflow {_RUNS} ORDER BY workflow").fetchall()]

    def phase_points(self, *, since_ns: int, workflow: str | None, limit: int) -> Sequence[PhasePoint]:
        """The newest ``limit`` phases, oldest first."""
        from spanbus.local.heads import PhasePoint

        where, values = ("", []) if workflow is None else (" AND workflow = ?", [workflow])
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT workflow, phase, run_id, start_ns, end_ns, result FROM spans WHERE level = '{Level.PHASE}' AND start_ns >= ?{where} "
                "ORDER BY start_ns DESC LIMIT ?", (since_ns, *values, limit),
            ).fetchall()
        return [PhasePoint(row[0] or "", row[1] or "", row[2] or "", row[3], (row[4] - row[3]) / 1e9, row[5] or "") for row in reversed(rows)]

    # --- traces -------------------------------------------------------------------------------------------------------

    def services(self) -> Sequence[str]:
        with self._reading() as connection:
            return [str(row[0]) for row in connection.execute("SELECT DISTINCT service FROM spans ORDER BY service").fetchall()]

    def operations(self, service: str) -> Sequence[tuple[str, int]]:
        """Name and OTLP kind of every operation."""
        with self._reading() as connection:
            rows = connection.execute("SELECT DISTINCT name, kind FROM spans WHERE service = ? ORDER BY name, kind", (service,)).fetchall()
        return [(str(name), int(kind)) for name, kind in rows]

    def trace_ids(self, query: TraceQuery) -> Sequence[str]:
        """The traces that hold a span which answers to the query, 32 hexadecimal digits, the newest first."""
        where, values = "service = ? AND start_ns BETWEEN ? AND ?", cast("list[object]", [query.service, max(0, query.start_ns), min(_MOST, query.end_ns)])
        if query.operation is not None:
            where += " AND name = ?"
            values.append(query.operation)
        if query.min_ns > 0 or query.max_ns < _MOST:
            where += " AND end_ns - start_ns BETWEEN ? AND ?"
            values.extend((query.min_ns, min(_MOST, query.max_ns)))
        found: dict[bytes, None] = {}
        with self._reading() as connection:
            if not query.tags:
                rows = connection.execute(
                    f"SELECT trace_id, max(start_ns) FROM spans WHERE {where} GROUP BY trace_id ORDER BY 2 DESC LIMIT ?", (*values, query.limit)
                ).fetchall()
                return [row[0].hex() for row in rows]
            columns = "trace_id, body, (SELECT resource FROM sources WHERE sources.id = spans.source)"
            cursor = connection.execute(f"SELECT {columns} FROM spans WHERE {where} ORDER BY start_ns DESC", values)
            for trace_id, body, resource in cursor:
                if trace_id not in found and _answers(body, resource, query.tags):
                    found[trace_id] = None
                    if len(found) >= query.limit:
                        break
        return [trace_id.hex() for trace_id in found]

    def trace_heads(self, *, service: str | None = None, text: str | None = None, since_ns: int | None = None, limit: int = 100) -> Sequence[TraceHead]:
        """Traces of other clients, the newest first; ``text`` is a part of the name or the beginning of a trace id."""
        from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

        from spanbus.local.heads import TraceHead

        where, values = "level IS NULL AND (parent_id IS NULL OR kind IN (2, 5))", cast("list[object]", [])  # as the index has it
        if service is not None:
            where += " AND service = ?"
            values.append(service)
        if text:
            where += " AND (instr(lower(name), ?) > 0 OR substr(lower(hex(trace_id)), 1, ?) = ?)"
            values.extend((text.lower(), len(text), text.lower()))
        if since_ns is not None:
            where += " AND start_ns >= ?"
            values.append(since_ns)
        found: dict[str, TraceHead] = {}
        with self._reading() as connection:
            cursor = connection.execute(
                f"SELECT trace_id, service, name, start_ns, end_ns, body, parent_id IS NULL FROM spans WHERE {where} ORDER BY start_ns DESC, id DESC", values
            )
            for trace_id, of, name, start_ns, end_ns, body, is_top in cursor:
                key = trace_id.hex()
                if key in found and not is_top:
                    continue
                if key not in found and len(found) >= limit:
                    break
                failed = Span.FromString(body).status.code == Status.STATUS_CODE_ERROR
                found[key] = TraceHead(key, str(of), str(name), failed, start_ns, max(0, end_ns - start_ns) / 1e9)
        return list(found.values())

    def trace(self, trace_id: str) -> Sequence[ResourceSpans]:
        """The spans of one trace with their resources; empty when there are none."""
        from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

        with self._reading() as connection:
            rows = connection.execute(
                "SELECT body, source FROM spans WHERE trace_id = ? ORDER BY start_ns, id", (bytes.fromhex(trace_id.zfill(32)),)
            ).fetchall()
            made: dict[int, ResourceSpans] = {}
            for body, source in rows:
                group = made.get(source)
                if group is None:
                    found = connection.execute("SELECT resource, scope, resource_schema, scope_schema FROM sources WHERE id = ?", (source,)).fetchone()
                    if found is None:  # let go of between the two questions
                        continue
                    resource, scope, resource_schema, scope_schema = found
                    group = made[source] = ResourceSpans(schema_url=resource_schema)
                    group.resource.ParseFromString(resource)
                    inner = group.scope_spans.add(schema_url=scope_schema)
                    if scope:
                        inner.scope.ParseFromString(scope)
                group.scope_spans[0].spans.add().ParseFromString(body)
        return list(made.values())

    def dependencies(self, start_ns: int, end_ns: int) -> Sequence[tuple[str, str, int]]:
        """Which service called which, how often; among spans that began in that time."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT parent.service, child.service, count(*) FROM spans AS child JOIN spans AS parent ON parent.trace_id = child.trace_id "
                "AND parent.span_id = child.parent_id WHERE child.start_ns BETWEEN ? AND ? GROUP BY 1, 2 ORDER BY 1, 2", (max(0, start_ns), min(_MOST, end_ns)),
            ).fetchall()
        return [(str(parent), str(child), int(count)) for parent, child, count in rows]

    def otlp_json(self, run: str) -> dict[str, object]:
        """The spans of a run, with all that lies beneath it, as OTLP JSON."""
        from spanbus.local import otlp_json

        head = self.run_head(run)
        groups = self.trace(head.trace_id)
        beneath: dict[bytes, list[bytes]] = {}
        for span in (span for group in groups for scope in group.scope_spans for span in scope.spans):
            beneath.setdefault(span.parent_span_id, []).append(span.span_id)
        wanted = _tree(beneath, bytes.fromhex(head.span_id))
        for group in groups:
            for scope in group.scope_spans:
                kept = [span for span in scope.spans if span.span_id in wanted]
                del scope.spans[:]
                scope.spans.extend(kept)
        from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

        return otlp_json.write(TracesData(resource_spans=[group for group in groups if any(scope.spans for scope in group.scope_spans)]))

    def _spans(self, trace_id: bytes) -> list[Span]:
        from opentelemetry.proto.trace.v1.trace_pb2 import Span

        with self._reading() as connection:
            rows = connection.execute("SELECT body FROM spans WHERE trace_id = ? ORDER BY start_ns, id", (trace_id,)).fetchall()
        return [Span.FromString(row[0]) for row in rows]

    # --- metrics ------------------------------------------------------------------------------------------------------

    def metric_series(self) -> Iterable[Series]:
        """Every series, accumulated."""
        from spanbus.local.store_metrics import read

        with self._reading() as connection:
            return read(connection)


def _no_store(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(f"{path}: this is no store that can be read ({error}); move it away, nothing was changed")


def _make(path: Path) -> None:
    """An empty file of the user's own.

    It is never opened under its name: closing any descriptor of a file ends this process's POSIX locks on it, those of SQLite
    too, and another process would take the log away from under a store that is open here
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    descriptor, made = tempfile.mkstemp(prefix=".store-", dir=path.parent)
    os.close(descriptor)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here: the mode is then what the folder protects
        path.touch(0o600, exist_ok=True)
    finally:
        os.unlink(made)


def _row(span: Span, source: int, service: str, now_s: int) -> tuple[object, ...]:
    level = run_id = workflow = phase = result = error_type = None
    for pair in span.attributes:
        key = pair.key
        if key == names.LEVEL:
            level = pair.value.string_value
        elif key == names.PIPELINE_RUN_ID:
            run_id = pair.value.string_value
        elif key == names.PIPELINE_NAME:
            workflow = pair.value.string_value
        elif key == names.TASK_NAME:
            phase = pair.value.string_value
        elif key in _RESULT_KEYS:
            result = pair.value.string_value
        elif key == names.ERROR_TYPE:
            error_type = pair.value.string_value
    return (
        span.trace_id, span.span_id, span.parent_span_id or None, source, service, span.name, span.kind, min(_MOST, span.start_time_unix_nano),
        min(_MOST, span.end_time_unix_nano), level, run_id, workflow, phase, result, error_type, now_s, span.SerializeToString(),
    )


def _is_one_shot(resource: Resource) -> bool:
    said = {pair.key: pair.value.string_value for pair in resource.attributes}
    return said.get(names.LIFETIME) == "run" and bool(said.get("service.instance.id"))


def _service(resource: Resource) -> str:
    for pair in resource.attributes:
        if pair.key == "service.name":
            return pair.value.string_value or "unknown_service"
    return "unknown_service"


def _head(row: tuple[object, ...]) -> RunHead:
    from spanbus.local.heads import RunHead

    run_id, workflow, trace_id, span_id, result, error_type, start_ns, end_ns = row
    started, ended = cast("int", start_ns), cast("int", end_ns)
    return RunHead(
        str(run_id or ""), str(workflow or ""), str(trace_id), str(span_id), str(result or ""), str(error_type) if error_type else None, started,
        (ended - started) / 1e9 if ended - started > 1 else 0.0,
    )


def _answers(body: bytes, resource: bytes, tags: object) -> bool:
    """Whether a span, or the resource that sent it, has every one of these attributes."""
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spanbus.local.jaeger import has_tags

    return has_tags(Span.FromString(body), Resource.FromString(resource), cast("dict[str, str]", tags))


def _tree(beneath: Mapping[bytes, Sequence[bytes]], root: bytes) -> set[bytes]:
    found: set[bytes] = set()
    waiting = [root]
    while waiting:
        span_id = waiting.pop()
        if span_id not in found:
            found.add(span_id)
            waiting.extend(beneath.get(span_id, ()))
    return found


def _forget_sources(connection: sqlite3.Connection) -> None:
    """Let go of the resources that nothing refers to any more."""
    connection.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM spans UNION SELECT source FROM logs)")


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0]) - int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return pages * int(connection.execute("PRAGMA page_size").fetchone()[0])
