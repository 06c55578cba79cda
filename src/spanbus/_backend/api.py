"""The query API, shaped like Jaeger's, so that its page and Grafana's data source can be put on top.

``/api/…`` is what Jaeger's page and Grafana ask (https://www.jaegertracing.io/docs/2.0/apis/), ``/api/v3/…`` gives OTLP
JSON. Parameters that Jaeger knows and that make no difference here are ignored, as it does with unknown ones.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol, cast

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from spanbus._backend.publish import bounded_body
from spanbus._otlp import json as otlp_json
from spanbus._otlp.bounds import check_json
from spanbus._runs import jaeger
from spanbus._runs.jaeger import Document
from spanbus._store.query import Partial, TraceQuery
from spanbus.errors import SpanbusError

logger = logging.getLogger(__name__)

_LIMIT_DEFAULT, _LIMIT_MOST = 100, 1_500
_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}", re.ASCII)
_NO_TIME = 2**63 - 1
_DAY_MS = 86_400_000
_BODY_LIMIT_BYTES = 16 << 20
_MOST_ELEMENTS = 600_000

InThread = Callable[[Callable[[], object]], Awaitable[object]]


class TraceSource(Protocol):
    """Source of traces: the store. ``trace_ids`` are 32 hexadecimal digits, the newest trace first."""

    def services(self) -> Sequence[str]: ...

    def operations(self, service: str) -> Sequence[tuple[str, int]]:
        """Name and OTLP kind of every operation."""
        ...

    def trace_ids(self, query: TraceQuery) -> Sequence[str]: ...

    def trace(self, trace_id: str) -> Sequence[ResourceSpans]: ...

    def dependencies(self, start_ns: int, end_ns: int) -> Sequence[tuple[str, str, int]]:
        """Calls between services, with their number, among spans that began in that time."""
        ...


class _Bad(Exception):
    """The request cannot be served: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class QueryApi:
    """The routes; every query runs in a worker thread."""

    def __init__(self, source: TraceSource, in_thread: InThread) -> None:
        self._source = source
        self._in_thread = in_thread

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/services", self._older(self._services)),
            Route("/api/services/{service:path}/operations", self._older(self._operation_names)),
            Route("/api/operations", self._older(self._operations)),
            Route("/api/traces", self._older(self._traces)),
            Route("/api/traces/{trace_id}", self._older(self._trace)),
            Route("/api/dependencies", self._older(self._dependencies)),
            Route("/api/metrics/{name}", self._older(self._no_metrics)),
            Route("/api/archive/{trace_id}", self._older(self._no_archive), methods=["POST"]),
            Route("/api/transform", self._transform, methods=["POST"]),
            Route("/api/v3/services", self._newer(self._v3_services)),
            Route("/api/v3/operations", self._newer(self._v3_operations)),
            Route("/api/v3/trace-summaries", self._newer(self._v3_summaries)),
            Route("/api/v3/traces", self._newer(self._v3_traces)),
            Route("/api/v3/traces/{trace_id}", self._newer(self._v3_trace)),
        ]

    # --- /api -------------------------------------------------------------------------------------------------------------

    def _services(self, request: Request) -> Document:
        del request
        found = sorted(self._source.services())
        return jaeger.envelope(found, total=len(found))

    def _operation_names(self, request: Request) -> Document:
        found = sorted(
            {name for name, _ in self._source.operations(request.path_params["service"])}
        )
        return jaeger.envelope(found or None, total=len(found))

    def _operations(self, request: Request) -> Document:
        service, kind = request.query_params.get("service"), request.query_params.get("spanKind")
        if not service:
            raise _Bad(400, "parameter 'service' is required")
        found = [
            each for each in self._named_operations(service) if not kind or each["spanKind"] == kind
        ]
        return jaeger.envelope(found, total=len(found))

    def _named_operations(self, service: str) -> list[Document]:
        kinds: dict[int, str] = {int(kind): name for kind, name in jaeger.KINDS.items()}
        pairs = sorted(
            {(name, kinds.get(kind, "")) for name, kind in self._source.operations(service)}
        )
        return [{"name": name, "spanKind": kind} for name, kind in pairs]

    def _traces(self, request: Request) -> Document:
        query = request.query_params
        ids = query.getlist("traceID")
        wanted = [_trace_id(each) for each in ids] if ids else self._source.trace_ids(_query(query))
        found: list[Document] = []
        missing: list[Document] = [{"msg": wanted.why}] if isinstance(wanted, Partial) else []
        for each in wanted:
            groups = self._source.trace(each)
            if groups:
                found.append(jaeger.trace(each, groups))
            elif ids:
                missing.append({"msg": "trace not found", "traceID": jaeger.short(each)})
        return jaeger.envelope(found, errors=missing or None)

    def _trace(self, request: Request) -> Document:
        trace_id = _trace_id(request.path_params["trace_id"])
        groups = self._source.trace(trace_id)
        if not groups:
            raise _Bad(404, "trace not found")
        return jaeger.envelope([jaeger.trace(trace_id, groups)])

    def _dependencies(self, request: Request) -> Document:
        query = request.query_params
        end_ms = _whole(query, "endTs", time.time_ns() // 1_000_000)
        start_ms = max(0, end_ms - _whole(query, "lookback", _DAY_MS))
        found = self._source.dependencies(start_ms * 1_000_000, min(end_ms * 1_000_000, _NO_TIME))
        return jaeger.envelope(
            [
                {"parent": parent, "child": child, "callCount": count}
                for parent, child, count in found
            ]
        )

    def _no_metrics(self, request: Request) -> Document:
        del request
        raise _Bad(501, "metrics querying is currently disabled")

    def _no_archive(self, request: Request) -> Document:
        if not self._source.trace(_trace_id(request.path_params["trace_id"])):
            raise _Bad(404, "trace not found")
        raise _Bad(501, "archive storage is not configured: traces are kept by age and size")

    async def _transform(self, request: Request) -> Response:
        """OTLP JSON of a file that somebody opens, as the older API writes traces."""

        def transformed(body: bytes) -> Document:
            check_json(body, _MOST_ELEMENTS)
            groups = jaeger.by_trace(otlp_json.read(body, TracesData()).resource_spans)
            return jaeger.envelope([jaeger.trace(each, groups[each]) for each in groups])

        try:
            body = await bounded_body(request, _BODY_LIMIT_BYTES)
        except ValueError as error:
            return _json(jaeger.failure(413, str(error)), 413)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            return _json(await self._in_thread(lambda: transformed(body)))
        except (ValueError, RecursionError) as error:
            return _json(jaeger.failure(400, f"cannot read OTLP JSON: {str(error)[:200]}"), 400)

    # --- /api/v3 ----------------------------------------------------------------------------------------------------------

    def _v3_services(self, request: Request) -> Document:
        del request
        return {"services": sorted(self._source.services())}

    def _v3_operations(self, request: Request) -> Document:
        query = request.query_params
        service, kind = query.get("service"), query.get("span_kind") or query.get("spanKind")
        if not service:
            return {"operations": []}
        return {
            "operations": [
                each
                for each in self._named_operations(service)
                if not kind or each["spanKind"] == kind
            ]
        }

    def _v3_summaries(self, request: Request) -> Document:
        wanted = self._source.trace_ids(_summaries_query(request.query_params))
        found = [
            jaeger.summary(each, groups) for each in wanted if (groups := self._source.trace(each))
        ]
        return {"summaries": found, **_partial(wanted)}

    def _v3_traces(self, request: Request) -> Document:
        wanted = self._source.trace_ids(_v3_query(request.query_params))
        groups = [group for each in wanted for group in self._source.trace(each)]
        return {**_result(groups), **_partial(wanted)}

    def _v3_trace(self, request: Request) -> Document:
        return _result(self._source.trace(_trace_id(request.path_params["trace_id"])))

    # --- answers ----------------------------------------------------------------------------------------------------------

    def _older(
        self, work: Callable[[Request], Document]
    ) -> Callable[[Request], Awaitable[Response]]:
        return self._answer(work, jaeger.failure)

    def _newer(
        self, work: Callable[[Request], Document]
    ) -> Callable[[Request], Awaitable[Response]]:
        return self._answer(
            work, lambda status, reason: {"error": {"httpCode": status, "message": reason}}
        )

    def _answer(
        self, work: Callable[[Request], Document], failure: Callable[[int, str], Document]
    ) -> Callable[[Request], Awaitable[Response]]:
        def build(request: Request) -> bytes:
            return json.dumps(work(request), separators=(",", ":")).encode()

        async def answer(request: Request) -> Response:
            try:
                body, status = cast("bytes", await self._in_thread(lambda: build(request))), 200
            except _Bad as bad:
                body, status = json.dumps(failure(bad.status, str(bad))).encode(), bad.status
            except SpanbusError as error:
                logger.warning("%s: %s", request.url.path, error)
                body, status = (
                    json.dumps(failure(503, "the store cannot be read now")).encode(),
                    503,
                )
            return Response(body, status, {"Cache-Control": "no-store"}, "application/json")

        return answer


def _partial(found: Sequence[str]) -> Document:
    """Why the answer is not all of it; nothing where it is."""
    return {"partial": found.why} if isinstance(found, Partial) else {}


def _result(groups: Sequence[ResourceSpans]) -> Document:
    if not groups:
        raise _Bad(404, "No traces found")
    for group in groups:  # there, even when empty, as Jaeger has them
        for scope in group.scope_spans:
            scope.scope.SetInParent()
            for span in scope.spans:
                span.status.SetInParent()
    return {"result": otlp_json.write(TracesData(resource_spans=groups))}


def _trace_id(text: str) -> str:
    if _TRACE_ID.fullmatch(text) is None:
        raise _Bad(400, f"cannot parse trace ID {text[:64]!r}")
    return text.lower().rjust(32, "0")


def _query(query: QueryParams) -> TraceQuery:
    service = query.get("service")
    if not service:
        raise _Bad(400, "parameter 'service' is required")
    tags: dict[str, str] = {}
    for text in query.getlist("tag"):
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise _Bad(
                400, f"malformed 'tag' parameter, expecting key:value, received: {text[:100]}"
            )
        tags[key] = value
    for text in query.getlist("tags"):
        tags.update(_tags(text, "tags"))
    shortest, longest = (
        _length("minDuration", query.get("minDuration"), 0),
        _length("maxDuration", query.get("maxDuration"), _NO_TIME),
    )
    if longest < shortest:
        raise _Bad(400, "'maxDuration' should be greater than 'minDuration'")
    return TraceQuery(
        service,
        query.get("operation") or None,
        tags,
        _micros(query, "start", 0),
        _micros(query, "end", _NO_TIME),
        shortest,
        longest,
        _limit("limit", query.get("limit")),
    )


def _v3_query(query: QueryParams) -> TraceQuery:
    if not (_v3(query, "startTimeMin")[1] and _v3(query, "startTimeMax")[1]):
        raise _Bad(400, "query.start_time_min and query.start_time_max are required")
    if not _v3(query, "serviceName")[1]:
        raise _Bad(400, "malformed parameter query.service_name: it is required")
    return _summaries_query(query)


def _summaries_query(query: QueryParams) -> TraceQuery:
    if query.get("query.filter"):
        raise _Bad(501, "query.filter is not understood here: search with query.attributes")
    text = query.get("query.attributes")
    shortest = _length(*_v3(query, "durationMin"), 0)
    longest = _length(*_v3(query, "durationMax"), _NO_TIME)
    if longest < shortest:
        raise _Bad(400, "query.durationMax should be greater than query.durationMin")
    return TraceQuery(
        _v3(query, "serviceName")[1] or None,
        _v3(query, "operationName")[1] or None,
        _tags(text, "query.attributes") if text else {},
        _moment(*_v3(query, "startTimeMin"), 0),
        _moment(*_v3(query, "startTimeMax"), _NO_TIME),
        shortest,
        longest,
        _limit(*_v3(query, "searchDepth")),
    )


_OLDER_NAMES = {
    "serviceName": ("service_name",),
    "operationName": ("operation_name", "span_name"),
    "startTimeMin": ("start_time_min",),
    "startTimeMax": ("start_time_max",),
    "durationMin": ("duration_min",),
    "durationMax": ("duration_max",),
    "searchDepth": ("search_depth", "num_traces"),
}
"""Parameters of a search as Jaeger 2.20 names them, with the names that pages and clients before it use."""


def _v3(query: QueryParams, name: str) -> tuple[str, str | None]:
    """The name under which a parameter of a search is said, and its value."""
    names = [f"query.{each}" for each in (name, *_OLDER_NAMES[name])]
    return next(((each, query[each]) for each in names if query.get(each)), (names[0], None))


def _json(document: object, status: int = 200) -> Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def _tags(text: str, name: str) -> dict[str, str]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _Bad(400, f"malformed '{name}' parameter, cannot unmarshal JSON") from None
    if not isinstance(found, dict):
        raise _Bad(400, f"malformed '{name}' parameter, expecting an object")
    tags = cast("dict[str, object]", found)
    if not all(isinstance(value, str) for value in tags.values()):
        raise _Bad(400, f"malformed '{name}' parameter, expecting strings")
    return cast("dict[str, str]", tags)


def _limit(name: str, text: str | None) -> int:
    if not text:
        return _LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _Bad(400, f"unable to parse param '{name}': {text[:40]!r}")
    if not int(text):
        raise _Bad(400, f"'{name}' must be greater than 0")
    return min(int(text), _LIMIT_MOST)


def _whole(query: QueryParams, name: str, default: int) -> int:
    text = query.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _Bad(400, f"unable to parse param '{name}': {text[:40]!r}")
    return int(text)


def _micros(query: QueryParams, name: str, default: int) -> int:
    return (
        min(_whole(query, name, default) * 1_000 + (999 if name == "end" else 0), _NO_TIME)
        if query.get(name)
        else default
    )


def _moment(name: str, text: str | None, default: int) -> int:
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return (
            int(moment.timestamp()) * 10**9 + moment.microsecond * 1_000 + (999 if default else 0)
        )
    except (ValueError, OverflowError):
        raise _Bad(
            400,
            f"malformed parameter {name}: {text[:40]!r} is no time such as 2026-01-01T00:00:00Z",
        ) from None


def _length(name: str, text: str | None, default: int) -> int:
    if not text:
        return default
    try:
        return jaeger.duration_ns(text)
    except ValueError as error:
        raise _Bad(400, f"cannot parse {name}: {error}") from None
