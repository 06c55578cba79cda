"""OTLP spans as JSON of Jaeger's query API, for Jaeger's page and Grafana's Jaeger data source.

Ids are hexadecimal, times in microseconds, attributes are typed tags and span events are logs, as in Jaeger's own translation
from OTLP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.decode import plain, service_of

KINDS = {
    Span.SPAN_KIND_UNSPECIFIED: "",
    Span.SPAN_KIND_INTERNAL: "internal",
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_PRODUCER: "producer",
    Span.SPAN_KIND_CONSUMER: "consumer",
}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}

Document = dict[str, object]


def envelope(data: object, *, total: int = 0, errors: list[Document] | None = None) -> Document:
    """Wrap a response of the legacy API."""
    return {"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors}


def failure(code: int, message: str) -> Document:
    """Return an error response."""
    return envelope(None, errors=[{"code": code, "msg": message}])


def duration_ns(text: str) -> int:
    """Parse a duration in Go's format (``1.5s``, ``200ms``, ``1h2m``). Raises ValueError."""
    at, total = 0, 0.0
    while at < len(text):
        match = _DURATION.match(text, at)
        if match is None:
            raise ValueError(f"{text[:50]!r} is no duration such as 1.5s or 200ms")
        total += float(match[1]) * _UNITS_NS[match[2]]
        at = match.end()
    if not text or total > 2**62:
        raise ValueError(f"{text[:50]!r} is no duration such as 1.5s or 200ms")
    return int(total)


def short(trace_id: str) -> str:
    """Format a trace id for the legacy API: 16 digits if the upper half is zero."""
    return trace_id[16:] if len(trace_id) == 32 and trace_id.startswith("0" * 16) else trace_id


def process(resource: Resource) -> Document:
    """Return the document of a process, the sender of spans."""
    tags = [tag(pair) for pair in resource.attributes if pair.key != "service.name"]
    return {"serviceName": service_of(resource), "tags": tags}


def spans(group: ResourceSpans, process: str) -> Iterator[Document]:
    """Yield the documents of spans; ``process`` is the key of their process."""
    for scope in group.scope_spans:
        extra: list[Document] = []
        if scope.scope.name:
            extra.append({"key": "otel.scope.name", "type": "string", "value": scope.scope.name})
        if scope.scope.version:
            extra.append(
                {"key": "otel.scope.version", "type": "string", "value": scope.scope.version}
            )
        for span in scope.spans:
            yield _span(span, process, extra)


class _RootCandidate(NamedTuple):
    """The fields of a span that a summary uses."""

    service: str
    name: str
    parent: bytes
    start_ns: int


def summary(trace_id: str, groups: Iterable[ResourceSpans]) -> Document:
    """Return the summary of a trace for a list. The root is the earliest span without a parent, otherwise the earliest with
    a missing parent.
    """
    span_ids: set[bytes] = set()
    parents: dict[bytes, int] = {}
    earliest: dict[bytes, _RootCandidate] = {}
    counts: dict[str, list[int]] = {}
    start_ns, end_ns = 2**64, 0
    for group in groups:
        service = service_of(group.resource)
        count = counts.setdefault(service, [0, 0])
        for scope in group.scope_spans:
            for span in scope.spans:
                span_ids.add(span.span_id)
                parent = span.parent_span_id
                parents[parent] = parents.get(parent, 0) + 1
                first = earliest.get(parent)
                if first is None or span.start_time_unix_nano < first.start_ns:
                    earliest[parent] = _RootCandidate(
                        service, span.name, parent, span.start_time_unix_nano
                    )
                count[0] += 1
                count[1] += span.status.code == Status.STATUS_CODE_ERROR
                start_ns = min(start_ns, span.start_time_unix_nano)
                end_ns = max(end_ns, span.start_time_unix_nano, span.end_time_unix_nano)
    orphans = [parent for parent in parents if parent and parent not in span_ids]
    roots = [b""] if b"" in parents else orphans or list(parents)
    root = min((earliest[parent] for parent in roots), key=lambda each: each.start_ns)
    return {
        "traceId": trace_id,
        "rootServiceName": root.service,
        "rootOperationName": root.name,
        "minStartTimeUnixNano": str(start_ns),
        "maxEndTimeUnixNano": str(end_ns),
        "spanCount": sum(spans for spans, _ in counts.values()),
        "errorSpanCount": sum(errors for _, errors in counts.values()),
        "orphanSpanCount": sum(parents[parent] for parent in orphans),
        "services": [
            {"name": of, "spanCount": count, "errorSpanCount": errors}
            for of, (count, errors) in sorted(counts.items())
        ],
    }


def by_trace(groups: Iterable[ResourceSpans]) -> dict[str, list[ResourceSpans]]:
    """Group spans by trace, in the order of the first span of each."""
    found: dict[str, list[ResourceSpans]] = {}
    for group in groups:
        of_group: dict[bytes, ResourceSpans] = {}
        for scope in group.scope_spans:
            of_scope: dict[bytes, ScopeSpans] = {}
            for span in scope.spans:
                if span.trace_id not in of_group:
                    of_group[span.trace_id] = ResourceSpans(
                        resource=group.resource, schema_url=group.schema_url
                    )
                    found.setdefault(span.trace_id.hex(), []).append(of_group[span.trace_id])
                if span.trace_id not in of_scope:
                    of_scope[span.trace_id] = of_group[span.trace_id].scope_spans.add(
                        scope=scope.scope, schema_url=scope.schema_url
                    )
                of_scope[span.trace_id].spans.append(span)
    return found


MADE_TAGS = frozenset(
    {"span.kind", "otel.status_code", "otel.status_description", "error", "w3c.tracestate", "event"}
)
"""Tags derived from fields of a span, not from its attributes."""


def has_tags(span: Span, resource: Resource, wanted: Mapping[str, str]) -> bool:
    """Whether the span, its events and its process together have every wanted tag. Values are compared as strings."""
    document = _span(span, "", [])
    found = [
        *cast("list[Document]", document["tags"]),
        *(tag(pair) for pair in resource.attributes),
    ]
    for log in cast("list[Document]", document["logs"]):
        found.extend(cast("list[Document]", log["fields"]))
    tags = {(str(each["key"]), _as_text(each["value"])) for each in found}
    return tags.issuperset(wanted.items())


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _span(span: Span, process: str, extra: list[Document]) -> Document:
    trace_id, span_id = short(span.trace_id.hex()), span.span_id.hex()
    references: list[Document] = []
    if span.parent_span_id:
        references.append(
            {"refType": "CHILD_OF", "traceID": trace_id, "spanID": span.parent_span_id.hex()}
        )
    for link in span.links:
        kind = next(
            (
                pair.value.string_value
                for pair in link.attributes
                if pair.key == "opentracing.ref_type"
            ),
            "",
        )
        references.append(
            {
                "refType": "CHILD_OF" if kind == "child_of" else "FOLLOWS_FROM",
                "traceID": short(link.trace_id.hex()),
                "spanID": link.span_id.hex(),
            }
        )
    tags = [*extra, *(tag(pair) for pair in span.attributes)]
    kind = KINDS.get(span.kind, "")
    if kind:
        tags.append({"key": "span.kind", "type": "string", "value": kind})
    if span.status.code == Status.STATUS_CODE_ERROR:
        tags.append({"key": "otel.status_code", "type": "string", "value": "ERROR"})
        tags.append({"key": "error", "type": "bool", "value": True})
    elif span.status.code == Status.STATUS_CODE_OK:
        tags.append({"key": "otel.status_code", "type": "string", "value": "OK"})
    if span.status.message:
        tags.append(
            {"key": "otel.status_description", "type": "string", "value": span.status.message}
        )
    if span.trace_state:
        tags.append({"key": "w3c.tracestate", "type": "string", "value": span.trace_state})
    logs: list[Document] = []
    for event in span.events:
        fields = [tag(pair) for pair in event.attributes]
        if event.name and not any(pair.key == "event" for pair in event.attributes):
            fields.insert(0, {"key": "event", "type": "string", "value": event.name})
        logs.append({"timestamp": event.time_unix_nano // 1_000, "fields": fields})
    return {
        "traceID": trace_id,
        "spanID": span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_time_unix_nano // 1_000,
        "duration": max(0, span.end_time_unix_nano - span.start_time_unix_nano) // 1_000,
        "tags": tags,
        "logs": logs,
        "processID": process,
        "warnings": None,
    }


_TAG_TYPES = {
    "bool_value": "bool",
    "int_value": "int64",
    "double_value": "float64",
    "bytes_value": "binary",
    "string_value": "string",
}


def tag(pair: KeyValue) -> Document:
    """Return an attribute as a typed tag; lists and mappings become JSON strings."""
    found, kind = plain(pair.value), _TAG_TYPES.get(pair.value.WhichOneof("value") or "")
    if kind is not None:
        return {"key": pair.key, "type": kind, "value": found}
    return {
        "key": pair.key,
        "type": "string",
        "value": "" if found is None else json.dumps(found, separators=(",", ":")),
    }
