"""Queries of the local store for traces of any client."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from string import hexdigits
from typing import TYPE_CHECKING, cast

from spanbus._store.blocks import Bodies
from spanbus._store.database import Database
from spanbus._store.query import SEARCH_S, Partial, deadline, newest_first
from spanbus._store.schema import LARGEST
from spanbus._timestamps import iso

if TYPE_CHECKING:
    import sqlite3

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

    from spanbus._runs.listing import TraceHead
    from spanbus._store.query import TraceQuery


class Traces(Database):
    """Queries for traces by service, operation, attributes, duration and time."""

    search_s = SEARCH_S
    """Seconds for one search."""

    def services(self) -> Sequence[str]:
        with self.reading() as connection:
            return [
                str(name)
                for (name,) in connection.execute("SELECT name FROM services ORDER BY name")
            ]

    def operations(self, service: str) -> Sequence[tuple[str, int]]:
        """Name and OTLP kind of every operation."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT name, kind FROM operations WHERE service = ? ORDER BY name, kind",
                (service,),
            ).fetchall()
        return [(str(name), int(kind)) for name, kind in rows]

    def trace_ids(self, query: TraceQuery) -> Sequence[str]:
        """Ids (32 hexadecimal digits) of traces with a matching span, newest first.

        A search takes a second at most, and then returns the newest matches as :class:`~spanbus._store.query.Partial`.
        """
        if (
            query.service is not None
            and query.operation is not None
            and all(name != query.operation for name, _ in self.operations(query.service))
        ):
            return []
        services = [query.service] if query.service is not None else self.services()
        where, values = _conditions(query)
        question = TRACE_IDS.format(
            more=", id, body, (SELECT resource FROM sources WHERE sources.id = spans.source)"
            if query.tags
            else "",
            where=where,
        )
        found: dict[bytes, None] = {}
        reached_ns = 0
        looked_at = 0
        with self.reading() as connection, deadline(connection, self.search_s) as left:
            matches = _HasTags(query.tags, Bodies(connection))
            for row in newest_first(connection, question, services, values):
                whole = cast("tuple[int, bytes, int, bytes, bytes]", row)
                start_ns, trace_id = whole[:2]
                looked_at += 1
                if trace_id not in found and (not query.tags or matches(*whole[2:])):
                    found[trace_id] = None
                    if len(found) >= query.limit:
                        break
                reached_ns = start_ns
                if not looked_at % 64 and left.is_over():
                    break
        ids = [trace_id.hex() for trace_id in found]
        if not left.passed:
            return ids
        reached = iso(reached_ns) if reached_ns else "now"
        return Partial(
            ids,
            f"the search was ended after a second; spans from {reached} on were looked at. Ask for a service, an operation or a shorter time",
        )

    def trace_heads(
        self,
        *,
        service: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
    ) -> Sequence[TraceHead]:
        """Traces of other clients, newest first; ``text`` is a part of the name or the beginning of a trace id."""
        from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

        from spanbus._runs.listing import TraceHead

        # Written as in the index.
        where, values = "level IS NULL AND (parent_id IS NULL OR kind IN (2, 5))", list[object]()
        if service is not None:
            where += " AND service = ?"
            values.append(service)
        if text:
            by_id = self._trace_ids_with_prefix(text)
            where += f" AND (instr(lower(name), ?) > 0{_OR_TRACE.format(','.join('?' * len(by_id))) if by_id else ''})"
            values.extend((text.lower(), *by_id))
        if since_ns is not None:
            where += " AND start_ns >= ?"
            values.append(since_ns)
        found: dict[str, TraceHead] = {}
        with self.reading() as connection, deadline(connection, self.search_s):
            cursor = connection.execute(
                f"SELECT id, trace_id, service, name, start_ns, end_ns, body, parent_id IS NULL FROM spans WHERE {where} ORDER BY start_ns DESC, id DESC",
                values,
            )
            bodies = Bodies(connection)
            for row_id, trace_id, of, name, start_ns, end_ns, body, is_top in cursor:
                key = trace_id.hex()
                if key in found and not is_top:
                    continue
                if key not in found and len(found) >= limit:
                    break
                failed = (
                    Span.FromString(bodies.of(row_id, body)).status.code == Status.STATUS_CODE_ERROR
                )
                found[key] = TraceHead(
                    key, str(of), str(name), failed, start_ns, max(0, end_ns - start_ns) / 1e9
                )
        return list(found.values())

    def _trace_ids_with_prefix(self, text: str) -> list[bytes]:
        """Up to 100 traces whose id begins with ``text``."""
        if len(text) > 32 or not text.isascii() or not all(char in hexdigits for char in text):
            return []
        first, last = (bytes.fromhex(text.ljust(32, digit)) for digit in "0f")
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT trace_id FROM spans WHERE trace_id BETWEEN ? AND ? LIMIT 100",
                (first, last),
            ).fetchall()
        return [trace_id for (trace_id,) in rows]

    def trace(self, trace_id: str) -> Sequence[ResourceSpans]:
        """Spans of one trace with their resources; empty for an unknown trace."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT id, body, source FROM spans WHERE trace_id = ? ORDER BY start_ns, id",
                (bytes.fromhex(trace_id.zfill(32)),),
            )
            bodies = Bodies(connection)
            made: dict[int, ResourceSpans] = {}
            for row_id, body, source in rows:
                _add_span(connection, made, source, bodies.of(row_id, body))
        return list(made.values())

    def trace_pieces(
        self, trace_id: str, piece_bytes: int = 256 << 10
    ) -> Iterator[Sequence[ResourceSpans]]:
        """Yield :meth:`trace` in pieces of about ``piece_bytes``, in the same order.

        Each piece is read on demand, so that a slow reader keeps no transaction open.
        """
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM spans WHERE trace_id = ? ORDER BY start_ns, id",
                (bytes.fromhex(trace_id.zfill(32)),),
            )
            ids = array("q", (row_id for (row_id,) in rows))
        at = 0
        while at < len(ids):
            made: dict[int, ResourceSpans] = {}
            size = 0
            with self.reading() as connection:
                bodies = Bodies(connection)
                while at < len(ids) and size < piece_bytes:
                    row = connection.execute(_SPAN, (ids[at],)).fetchone()
                    at += 1
                    if row is None:  # deleted meanwhile
                        continue
                    row_id, body, source = row
                    size += _add_span(connection, made, source, bodies.of(row_id, body))
            if made:
                yield list(made.values())

    def dependencies(self, start_ns: int, end_ns: int) -> Sequence[tuple[str, str, int]]:
        """Calls between services with their number, among spans that began in that time. After a second it counts only the
        newest.
        """
        times = max(0, start_ns), min(LARGEST, end_ns)
        counts: dict[tuple[str, str], int] = {}
        with self.reading() as connection, deadline(connection, self.search_s):
            for _, parent, child in newest_first(connection, CALLS, self.services(), times):
                call = str(parent), str(child)
                counts[call] = counts.get(call, 0) + 1
        return [(*call, counts[call]) for call in sorted(counts)]


_SPAN = "SELECT id, body, source FROM spans WHERE id = ?"
SOURCE = "SELECT resource, scope, resource_schema, scope_schema FROM sources WHERE id = ?"


def resource_spans(source: tuple[bytes, bytes, str, str]) -> ResourceSpans:
    """Create the empty group of one source, with its scope."""
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

    resource, scope, resource_schema, scope_schema = source
    group = ResourceSpans(schema_url=resource_schema)
    group.resource.ParseFromString(resource)
    inner = group.scope_spans.add(schema_url=scope_schema)
    if scope:
        inner.scope.ParseFromString(scope)
    return group


def _add_span(
    connection: sqlite3.Connection, groups: dict[int, ResourceSpans], source: int, body: bytes
) -> int:
    """Add a span to the group of its source; return the bytes added, 0 if the source was deleted meanwhile."""
    size = len(body)
    group = groups.get(source)
    if group is None:
        found = connection.execute(SOURCE, (source,)).fetchone()
        if found is None:
            return 0
        group = groups[source] = resource_spans(found)
        size += len(found[0])
    group.scope_spans[0].spans.add().ParseFromString(body)
    return size


_OR_TRACE = " OR trace_id IN ({})"
TRACE_IDS = "SELECT start_ns, trace_id{more} FROM spans WHERE service = ? AND start_ns BETWEEN ? AND ?{where} ORDER BY start_ns DESC"
CALLS = (
    "SELECT child.start_ns, parent.service, child.service FROM spans AS child CROSS JOIN spans AS parent ON parent.trace_id = child.trace_id "
    "AND parent.span_id = child.parent_id WHERE child.service = ? AND child.start_ns BETWEEN ? AND ? ORDER BY child.start_ns DESC"
)


def _conditions(query: TraceQuery) -> tuple[str, tuple[object, ...]]:
    where, values = "", (max(0, query.start_ns), min(LARGEST, query.end_ns))
    more: list[object] = []
    if query.operation is not None:
        where += " AND name = ?"
        more.append(query.operation)
    if query.min_ns > 0 or query.max_ns < LARGEST:
        where += " AND end_ns - start_ns BETWEEN ? AND ?"
        more.extend((query.min_ns, min(LARGEST, query.max_ns)))
    return where, (*values, *more)


class _HasTags:
    """Predicate: a span or its resource has all these attributes."""

    def __init__(self, tags: Mapping[str, str], bodies: Bodies) -> None:
        from spanbus._runs.jaeger import MADE_TAGS

        self._bodies = bodies
        self._tags = dict(tags)
        self._keys = [key.encode("utf-8", "replace") for key in tags if key not in MADE_TAGS]

    def __call__(self, row_id: int, body: bytes, resource: bytes) -> bool:
        body = self._bodies.of(row_id, body)
        if not all(key in body or key in resource for key in self._keys):
            return False
        from opentelemetry.proto.resource.v1.resource_pb2 import Resource
        from opentelemetry.proto.trace.v1.trace_pb2 import Span

        from spanbus._runs.jaeger import has_tags

        return has_tags(Span.FromString(body), Resource.FromString(resource), self._tags)
