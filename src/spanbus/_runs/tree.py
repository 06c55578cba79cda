"""A trace as rows in tree order, for the page and the report.

Works on any OTLP spans. Spans of spanbus have level, result and attempts; others have kind, status and name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.decode import attributes, service_of
from spanbus._semantics import Level, Result, names

MARKS_LIMIT = 60
_LEVELS = frozenset(Level)
_KINDS = {
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_PRODUCER: "producer",
    Span.SPAN_KIND_CONSUMER: "consumer",
}


class Stored(NamedTuple):
    """A stored span and its resource."""

    resource: Resource
    span: Span


class Row(TypedDict):
    """A row of the waterfall. Times are in microseconds, ``start`` relative to the first row; ``size`` counts descendants."""

    id: str
    parent: str
    depth: int
    level: str
    name: str
    service: str
    result: str
    error_type: str
    error: str
    start: int
    length: int
    attempt: int
    attempts: int
    events: int
    marks: list[tuple[int, str]]
    flags: list[str]
    output: str
    skipped: str
    size: int


class Waterfall(TypedDict):
    """All rows of a run or trace."""

    start_us: int
    length_us: int
    rows: list[Row]


class EventDetail(TypedDict):
    """An event of a span."""

    name: str
    at_us: int
    attributes: dict[str, object]


class SpanDetail(TypedDict):
    """Details of a selected span."""

    attributes: dict[str, object]
    events: list[EventDetail]
    links: list[dict[str, str]]


def stored(resource_spans: Iterable[ResourceSpans]) -> Iterator[Stored]:
    """Yield every span with its resource."""
    for group in resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Stored(group.resource, span)


def waterfall(spans: Iterable[Stored], *, root: str | None = None) -> Waterfall:
    """Return the rows of ``spans``, parents before children, siblings by start.

    With ``root``, a hexadecimal span id, only that span and its descendants. A span with a missing parent is a root. Cycles,
    which a broken client can send, are cut.
    """
    nodes: dict[bytes, Stored] = {}
    for each in spans:
        nodes.setdefault(each.span.span_id, each)
    beneath: dict[bytes, list[bytes]] = {}
    tops: list[bytes] = []
    times: dict[bytes, tuple[int, int]] = {}
    for key, (_, span) in nodes.items():
        parent = span.parent_span_id
        times[key] = span.start_time_unix_nano, -span.end_time_unix_nano
        if parent and parent in nodes and parent != key:
            beneath.setdefault(parent, []).append(key)
        else:
            tops.append(key)
    started = times.__getitem__

    if root is not None:
        wanted = bytes.fromhex(root)
        tops = [wanted] if wanted in nodes else []
    tops.sort(key=started)
    for children in beneath.values():
        children.sort(key=started)
    order: list[tuple[bytes, int]] = []
    seen: set[bytes] = set()
    for top in [*tops, *(() if root is not None else nodes)]:
        stack = [(top, 0)]
        while stack:
            key, depth = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            order.append((key, depth))
            stack.extend(
                (child, depth + 1) for child in reversed(beneath.get(key, ())) if child not in seen
            )
    if not order:
        return {"start_us": 0, "length_us": 0, "rows": []}
    start_ns = min(times[key][0] for key, _ in order)
    end_ns = max(max(times[key][0], -times[key][1]) for key, _ in order)
    services: dict[int, str] = {}
    rows: list[Row] = []
    for key, depth in order:
        resource, span = nodes[key]
        service = services.get(id(resource))
        if service is None:
            service = services[id(resource)] = service_of(resource)
        rows.append(_row(span, service, depth, start_ns))
    _count(rows)
    return {"start_us": start_ns // 1_000, "length_us": (end_ns - start_ns) // 1_000, "rows": rows}


def _count(rows: list[Row]) -> None:
    """Set ``size`` of each row, the number of its descendants."""
    open_at: list[int] = []
    for at, row in enumerate(rows):
        while open_at and rows[open_at[-1]]["depth"] >= row["depth"]:
            top = open_at.pop()
            rows[top]["size"] = at - top - 1
        open_at.append(at)
    for top in open_at:
        rows[top]["size"] = len(rows) - top - 1


def _row(span: Span, service: str, depth: int, start_ns: int) -> Row:
    found: dict[str, str | int | None] = {}
    for pair in span.attributes:
        value = pair.value
        found[pair.key] = value.string_value or (
            value.int_value if value.HasField("int_value") else None
        )

    def text(name: str) -> str:
        value = found.get(name)
        return value if isinstance(value, str) else ""

    def number(name: str, default: int) -> int:
        value = found.get(name)
        return value if isinstance(value, int) else default

    level = text(names.LEVEL)
    ours = level in _LEVELS
    failed = span.status.code == Status.STATUS_CODE_ERROR
    result = (
        text(names.PIPELINE_RESULT)
        if level == Level.RUN
        else text(names.TASK_RESULT) or text(names.HOOK_RESULT)
    )
    if not result:
        result = str(Result.FAILURE) if failed else str(Result.SUCCESS)
    flags = [
        flag
        for flag, there in (
            ("ambiguous", text(names.MATCH) == "ambiguous"),
            ("inferred", text(names.MATCH) == "inferred"),
            ("orphan_end", names.ORPHAN in found),
            ("clock", names.CLOCK in found),
            (
                "abandoned",
                text(names.ERROR_TYPE) == "abandoned" or names.ABANDONED in found,
            ),
        )
        if there
    ]
    return {
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "depth": depth,
        "level": level if ours else _KINDS.get(span.kind, "span"),
        "name": _name(span, level, text),
        "service": service,
        "result": result,
        "error_type": text(names.ERROR_TYPE),
        "error": span.status.message if failed else "",
        "start": (span.start_time_unix_nano - start_ns) // 1_000,
        "length": max(0, span.end_time_unix_nano - span.start_time_unix_nano) // 1_000,
        "attempt": number(names.PHASE_ATTEMPT, 1),
        "attempts": number(names.PHASE_ATTEMPTS, 1),
        "events": number(names.EVENTS_TOTAL, len(span.events)),
        "marks": [
            ((event.time_unix_nano - start_ns) // 1_000, event.name) for event in _kept(span)
        ],
        "flags": flags,
        "output": text(names.OUTPUT_TAIL),
        "skipped": text(names.SKIP_REASON),
        "size": 0,
    }


def _kept(span: Span) -> list[Span.Event]:
    events = list(span.events)
    if len(events) <= MARKS_LIMIT:
        return events
    return events[: MARKS_LIMIT // 2] + events[-MARKS_LIMIT // 2 :]


def _name(span: Span, level: str, text: Callable[[str], str]) -> str:
    if level == Level.RUN:
        return text(names.PIPELINE_NAME) or span.name
    if level == Level.PHASE:
        return text(names.TASK_NAME) or span.name
    if level == Level.HOOK:
        return text(names.HOOK_NAME) or span.name
    return span.name


def detail(span: Span) -> SpanDetail:
    """Return attributes, events and links of a span."""
    return {
        "attributes": attributes(span.attributes),
        "events": [
            {
                "name": event.name,
                "at_us": event.time_unix_nano // 1_000,
                "attributes": attributes(event.attributes),
            }
            for event in span.events
        ],
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "type": str(attributes(link.attributes).get(names.LINK_TYPE, "")),
            }
            for link in span.links
        ],
    }
