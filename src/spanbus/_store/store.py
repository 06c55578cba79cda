"""The local store: spans, log records and metric series in one SQLite file.

Several processes may write at once (WAL); a span id is stored once. A span is stored as received, in a compressed block with its
neighbours, plus the columns that queries need. Retention is by time of storing and by size of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from spanbus._store.blocks import Bodies
from spanbus._store.retention import Retention
from spanbus._store.runs import Runs, descendants
from spanbus._store.traces import SOURCE, Traces, resource_spans
from spanbus._store.writes import Writes

if TYPE_CHECKING:
    import sqlite3

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

    from spanbus._store.series import Series

__all__ = ["Retention", "Store"]


class Store(Writes, Runs, Traces):
    """An open store; thread-safe. Use it as a context manager, or call :meth:`close`."""

    def otlp_json(self, run: str, *, project: str | None = None) -> Iterator[str]:
        """Yield a run's span and all its descendants as OTLP JSON, in pieces. Raises RunNotFound."""
        from spanbus._otlp import json as otlp_json

        head = self.run_head(run, project=project)
        trace_id = bytes.fromhex(head.trace_id)
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT span_id, coalesce(parent_id, x''), source FROM spans WHERE trace_id = ? ORDER BY start_ns, id",
                (trace_id,),
            ).fetchall()
            children: dict[bytes, list[bytes]] = {}
            for span_id, parent_id, _ in rows:
                children.setdefault(parent_id, []).append(span_id)
            wanted = descendants(children, bytes.fromhex(head.span_id))
            sources = dict.fromkeys(source for span_id, _, source in rows if span_id in wanted)
            yield from otlp_json.pieces(_groups(connection, trace_id, wanted, sources))

    def metric_series(self) -> Iterator[Series]:
        """Yield every accumulated series."""
        from spanbus._store.metrics import read

        with self.reading() as connection:
            yield from read(connection)


def _groups(
    connection: sqlite3.Connection, trace_id: bytes, wanted: set[bytes], sources: Iterable[int]
) -> Iterator[tuple[ResourceSpans, Iterator[Span]]]:
    """Yield each source with its wanted spans, which are read one by one."""
    for source in sources:
        row = connection.execute(SOURCE, (source,)).fetchone()
        if row is not None:  # else deleted between the two queries
            yield resource_spans(row), _spans(connection, trace_id, wanted, source)


def _spans(
    connection: sqlite3.Connection, trace_id: bytes, wanted: set[bytes], source: int
) -> Iterator[Span]:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    bodies = Bodies(connection)
    for span_id, row_id, body in connection.execute(
        "SELECT span_id, id, body FROM spans WHERE trace_id = ? AND source = ? ORDER BY start_ns, id",
        (trace_id, source),
    ):
        if span_id in wanted:
            yield Span.FromString(bodies.of(row_id, body))
