"""Writes to the local store: OTLP export requests of the three signals."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spanbus._hash import blake2b
from spanbus._otlp.decode import service_of
from spanbus._otlp.messages import NotCovered, read
from spanbus._semantics import Level, names
from spanbus._store import blocks
from spanbus._store.database import Database
from spanbus._store.lists import Names
from spanbus._store.retention import Retention
from spanbus._store.schema import LARGEST

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

_COLUMNS = {
    names.LEVEL: 0,
    names.PIPELINE_RUN_ID: 1,
    names.PIPELINE_NAME: 2,
    names.TASK_NAME: 3,
    names.PIPELINE_RESULT: 4,
    names.TASK_RESULT: 4,
    names.HOOK_RESULT: 4,
    names.ERROR_TYPE: 5,
}
"""Attributes that are also columns, by index in a row; :data:`_ATTEMPTS` is another."""
_ATTEMPTS = names.PHASE_ATTEMPTS
_WORKFLOW_LEVELS = (Level.RUN, Level.PHASE)
_COLUMN_COUNT = 18
_ROW = f"({','.join('?' * _COLUMN_COUNT)}, x'')"
_INSERT = (
    "INSERT OR IGNORE INTO spans (id, trace_id, span_id, parent_id, source, service, name, kind, start_ns, end_ns, level, run_id, workflow, phase, "
    f"result, error_type, attempts, stored_at_s, body) VALUES {_ROW}"
)
_BATCH_ROWS = 50
_INSERT_BATCH = f"{_INSERT}{f', {_ROW}' * (_BATCH_ROWS - 1)}"
"""One statement for several rows opens the indexes only once; its values are below SQLite's oldest limit of 999."""
_SPANS_OF = (
    "INSERT INTO sources_used (source, span, log) VALUES (?, coalesce((SELECT max(id) FROM spans), 0), 0) "
    "ON CONFLICT (source) DO UPDATE SET span = excluded.span"
)
_LOGS_OF = (
    "INSERT INTO sources_used (source, span, log) VALUES (?, 0, coalesce((SELECT max(id) FROM logs), 0)) "
    "ON CONFLICT (source) DO UPDATE SET log = excluded.log"
)
_TRANSACTION_SPANS = 2_000
"""Spans per transaction. A larger request takes several, so that the WAL stays small and other writers get their turn."""


class Writes(Database):
    """Writing side of the store."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        super().__init__(path, retention)
        self._lists = Names()

    def ingest(self, signal: str, body: bytes) -> None:
        """Store one OTLP export request in protobuf bytes; ``signal`` is traces, metrics or logs."""
        {"traces": self.ingest_traces, "metrics": self.ingest_metrics, "logs": self.ingest_logs}[
            signal
        ](body)

    def ingest_decoded(self, signal: str, body: bytes, request: Message) -> object:
        """Store a decoded request; ``body`` are its bytes."""
        match signal:
            case "traces":
                return self.ingest_traces(body, cast("ExportTraceServiceRequest", request))
            case "metrics":
                return self.ingest_metrics(body, cast("ExportMetricsServiceRequest", request))
            case _:
                return self.ingest_logs(body, cast("ExportLogsServiceRequest", request))

    def ingest_traces(self, body: bytes, request: ExportTraceServiceRequest | None = None) -> None:
        """Store the spans of an ``ExportTraceServiceRequest``; spans that are stored already stay unchanged.

        ``request`` is the decoded body, if there is one.
        """
        if request is None:
            request = _traces(body)
        for group in _groups(request, _TRANSACTION_SPANS):
            now_s = int(time.time())
            packed = blocks.packed(
                [span.SerializeToString() for _, _, spans in group for span in spans]
            )
            names: set[tuple[object, ...]] = set()
            values: list[object] = []
            sources: set[int] = set()
            with self._writing() as connection:
                first_id = row_id = blocks.next_id(connection)
                for resource_spans, scope_spans, spans in group:
                    service = service_of(resource_spans.resource)
                    names.add(("service", service))
                    source = self._source(
                        connection,
                        resource_spans.resource.SerializeToString(),
                        scope_spans.scope.SerializeToString(),
                        resource_spans.schema_url,
                        scope_spans.schema_url,
                    )
                    sources.add(source)
                    for span in spans:
                        values += _row(row_id, span, source, service, now_s, names)
                        row_id += 1
                blocks.write(connection, first_id, packed, are_new=_insert(connection, values))
                connection.executemany(_SPANS_OF, [(source,) for source in sources])
                new = self._lists.write(connection, names, now_s)
            self._lists.written(new, now_s)
        self._wrote(len(body))

    def ingest_metrics(
        self, body: bytes, request: ExportMetricsServiceRequest | None = None
    ) -> int:
        """Add the points of an ``ExportMetricsServiceRequest``: deltas are accumulated, cumulative series and gauges replaced.

        Returns the number of points that were left out at the limit of series.
        """
        from spanbus._store.metrics import add

        if request is None:
            request = _metrics(body)
        with self._writing() as connection:
            left_out = add(connection, request, int(time.time()))
        self._wrote(len(body))
        return left_out

    def ingest_logs(self, body: bytes, request: ExportLogsServiceRequest | None = None) -> None:
        """Store the records of an ``ExportLogsServiceRequest``."""
        from spanbus._store.metrics import first_time

        if request is None:
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

            request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
        now_s = int(time.time())
        with self._writing() as connection:
            for resource_logs in request.resource_logs:
                resource = resource_logs.resource.SerializeToString()
                once = _is_one_shot(resource_logs.resource)
                for scope_logs in resource_logs.scope_logs:
                    source = self._source(
                        connection,
                        resource,
                        scope_logs.scope.SerializeToString(),
                        resource_logs.schema_url,
                        scope_logs.schema_url,
                    )
                    connection.executemany(
                        "INSERT INTO logs (trace_id, span_id, at_ns, source, stored_at_s, body) VALUES (?,?,?,?,?,?)",
                        [
                            (
                                record.trace_id,
                                record.span_id,
                                min(
                                    LARGEST, record.time_unix_nano or record.observed_time_unix_nano
                                ),
                                source,
                                now_s,
                                record.SerializeToString(),
                            )
                            for record in scope_logs.log_records
                            if not once
                            or first_time(
                                connection,
                                now_s,
                                resource,
                                record.SerializeToString(deterministic=True),
                            )
                        ],
                    )
                    connection.execute(_LOGS_OF, (source,))
        self._wrote(len(body))

    def _source(
        self,
        connection: sqlite3.Connection,
        resource: bytes,
        scope: bytes,
        resource_schema: str,
        scope_schema: str,
    ) -> int:
        """Return the id of a resource and scope, adding them if they are new."""
        # Not cached: another process may have deleted the source.
        digest = blake2b(
            b"\0".join((resource, scope, resource_schema.encode(), scope_schema.encode())),
            digest_size=16,
        ).digest()
        known = connection.execute("SELECT id FROM sources WHERE digest = ?", (digest,)).fetchone()
        if known is not None:
            return int(known[0])
        made = connection.execute(
            "INSERT INTO sources (digest, resource, scope, resource_schema, scope_schema) VALUES (?,?,?,?,?)",
            (digest, resource, scope, resource_schema, scope_schema),
        )
        return int(made.lastrowid or 0)


def _traces(body: bytes) -> ExportTraceServiceRequest:
    """Decode a request; a small one without the generated classes."""
    with suppress(NotCovered):
        return cast("ExportTraceServiceRequest", read("ExportTraceServiceRequest", body))
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    return trace_service_pb2.ExportTraceServiceRequest.FromString(body)


def _metrics(body: bytes) -> ExportMetricsServiceRequest:
    with suppress(NotCovered):
        return cast("ExportMetricsServiceRequest", read("ExportMetricsServiceRequest", body))
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    return metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)


def _groups(
    request: ExportTraceServiceRequest, most: int
) -> Iterator[list[tuple[ResourceSpans, ScopeSpans, Sequence[Span]]]]:
    """Yield the spans of a request by resource and scope, in groups of at most ``most``."""
    group: list[tuple[ResourceSpans, ScopeSpans, Sequence[Span]]] = []
    room = most
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            spans, at = scope_spans.spans, 0
            while at < len(spans):
                taken = spans[at : at + room]
                group.append((resource_spans, scope_spans, taken))
                at, room = at + len(taken), room - len(taken)
                if not room:
                    yield group
                    group, room = [], most
    if group:
        yield group


def _row(
    row_id: int,
    span: Span,
    source: int,
    service: str,
    now_s: int,
    names_seen: set[tuple[object, ...]],
) -> tuple[object, ...]:
    columns: list[str | None] = [None] * 6
    attempts = None
    for pair in span.attributes:
        key = pair.key
        place = _COLUMNS.get(key)
        if place is not None:
            columns[place] = pair.value.string_value
        elif key == _ATTEMPTS and pair.value.int_value > 1:
            attempts = min(LARGEST, pair.value.int_value)
    level, run_id, workflow, phase, result, error_type = columns
    name, kind = span.name, span.kind
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    names_seen.add(("operation", service, name, kind))
    if level in _WORKFLOW_LEVELS and workflow is not None:
        names_seen.add(("workflow", workflow))
    if level == Level.RUN:
        names_seen.add(("project", service))
    return (
        row_id,
        span.trace_id,
        span.span_id,
        span.parent_span_id or None,
        source,
        service,
        name,
        kind,
        start_ns if start_ns < LARGEST else LARGEST,  # noqa: FURB136 (avoids a call per span)
        end_ns if end_ns < LARGEST else LARGEST,  # noqa: FURB136
        level,
        run_id,
        workflow,
        phase,
        result,
        error_type,
        attempts,
        now_s,
    )


def _insert(connection: sqlite3.Connection, values: Sequence[object]) -> bool:
    """Insert rows of spans from their concatenated values; True when every span was new."""
    at, step = 0, _BATCH_ROWS * _COLUMN_COUNT
    new = 0
    while at + step <= len(values):
        new += connection.execute(_INSERT_BATCH, values[at : at + step]).rowcount
        at += step
    while at < len(values):
        new += connection.execute(_INSERT, values[at : at + _COLUMN_COUNT]).rowcount
        at += _COLUMN_COUNT
    return new * _COLUMN_COUNT == len(values)


def _is_one_shot(resource: Resource) -> bool:
    attributes = {pair.key: pair.value.string_value for pair in resource.attributes}
    return attributes.get(names.LIFETIME) == "run" and bool(attributes.get("service.instance.id"))
