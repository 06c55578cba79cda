"""Query API compatible with Jaeger's, for its page and Grafana's data source.

``/api/…`` is the older API, used by Jaeger's page and Grafana (https://www.jaegertracing.io/docs/2.0/apis/); ``/api/v3/…``
returns OTLP JSON. Jaeger's other parameters are ignored, as Jaeger ignores unknown ones.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Protocol, TypeVar, cast

import anyio
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from spanbus._backend import trace_answers
from spanbus._backend.in_flight import Full, InFlight
from spanbus._backend.publish import bounded_body
from spanbus._backend.trace_answers import gathered, text_of
from spanbus._otlp import json as otlp_json
from spanbus._otlp.bounds import check_json
from spanbus._runs import jaeger
from spanbus._runs.jaeger import Document
from spanbus._store.query import Partial, TraceQuery
from spanbus.errors import SpanbusError

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LIMIT_DEFAULT, _LIMIT_MOST = 100, 1_500
_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}", re.ASCII)
_NO_TIME = 2**63 - 1
_DAY_MS = 86_400_000
_BODY_LIMIT_BYTES = 16 << 20
_MOST_ELEMENTS = 600_000

_Work = Callable[[Request], Document] | Callable[[Request], Iterator[str]]


class InThread(Protocol):
    """Run a function in a worker thread, with limited concurrency."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class TraceSource(Protocol):
    """Source of traces: the store. ``trace_ids`` are 32 hexadecimal digits, newest trace first."""

    def services(self) -> Sequence[str]: ...

    def operations(self, service: str) -> Sequence[tuple[str, int]]:
        """Name and OTLP kind of every operation."""
        ...

    def trace_ids(self, query: TraceQuery) -> Sequence[str]: ...

    def trace(self, trace_id: str) -> Sequence[ResourceSpans]: ...

    def trace_pieces(self, trace_id: str) -> Iterator[Sequence[ResourceSpans]]:
        """Yield :meth:`trace` in pieces; the iterator may be advanced in any thread."""
        ...

    def dependencies(self, start_ns: int, end_ns: int) -> Sequence[tuple[str, str, int]]:
        """Calls between services with their number, among spans that began in that time."""
        ...


class _Bad(Exception):
    """The request cannot be served: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class QueryApi:
    """The routes; every query runs in a worker thread."""

    def __init__(self, source: TraceSource, in_thread: InThread, in_flight: InFlight) -> None:
        self._source = source
        self._in_thread = in_thread
        self._in_flight = in_flight
        self._transforming = anyio.Lock()

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

    def _traces(self, request: Request) -> Iterator[str]:
        query = request.query_params
        ids = dict.fromkeys(_trace_id(each) for each in query.getlist("traceID"))
        wanted = list(ids)[:_LIMIT_MOST] if ids else self._source.trace_ids(_query(query))
        missing: list[Document] = [{"msg": wanted.why}] if isinstance(wanted, Partial) else []

        def pieces(trace_id: str) -> Iterator[Sequence[ResourceSpans]]:
            found = False
            for groups in self._source.trace_pieces(trace_id):
                found = True
                yield groups
            if ids and not found:
                missing.append({"msg": "trace not found", "traceID": jaeger.short(trace_id)})

        return trace_answers.older(
            ((each, pieces(each)) for each in wanted), lambda: missing or None
        )

    def _trace(self, request: Request) -> Iterator[str]:
        trace_id = _trace_id(request.path_params["trace_id"])
        pieces = _some(self._source.trace_pieces(trace_id), "trace not found")
        return trace_answers.older([(trace_id, pieces)], lambda: None)

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
        trace_id = _trace_id(request.path_params["trace_id"])
        _some(self._source.trace_pieces(trace_id), "trace not found")
        raise _Bad(501, "archive storage is not configured: traces are kept by age and size")

    async def _transform(self, request: Request) -> Response:
        """Convert uploaded OTLP JSON to traces of the older API."""

        def transformed(body: bytes) -> bytes:
            check_json(body, _MOST_ELEMENTS)
            groups = jaeger.by_trace(otlp_json.read(body, TracesData()).resource_spans)
            traces = ((each, [groups[each]]) for each in groups)
            return b"".join(gathered(trace_answers.older(traces, lambda: None)))

        with self._in_flight.body() as held:
            try:
                body = await bounded_body(request, _BODY_LIMIT_BYTES, held)
            except ValueError as error:
                return _json(jaeger.failure(413, str(error)), 413)
            except Full:
                return _json(jaeger.failure(429, "too much is being received at once"), 429)
            except ClientDisconnect:
                return Response(status_code=400)
            try:
                async with self._transforming:  # one at a time, which bounds the memory of all
                    answer = await self._in_thread(lambda: transformed(body))
                return Response(
                    answer, 200, {"Cache-Control": "no-store"}, media_type="application/json"
                )
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
        found: list[Document] = []
        for each in wanted:
            pieces = self._source.trace_pieces(each)
            first = next(pieces, None)
            if first is not None:
                groups = chain(first, chain.from_iterable(pieces))
                found.append(jaeger.summary(each, groups))
        return {"summaries": found, **_partial(wanted)}

    def _v3_traces(self, request: Request) -> Iterator[str]:
        wanted = self._source.trace_ids(_v3_query(request.query_params))
        pieces = _some(
            chain.from_iterable(map(self._source.trace_pieces, wanted)), "No traces found"
        )
        return trace_answers.newer([pieces], _partial(wanted))

    def _v3_trace(self, request: Request) -> Iterator[str]:
        trace_id = _trace_id(request.path_params["trace_id"])
        pieces = _some(self._source.trace_pieces(trace_id), "No traces found")
        return trace_answers.newer([pieces], {})

    # --- answers ----------------------------------------------------------------------------------------------------------

    def _older(self, work: _Work) -> Callable[[Request], Awaitable[Response]]:
        return self._answer(work, jaeger.failure)

    def _newer(self, work: _Work) -> Callable[[Request], Awaitable[Response]]:
        return self._answer(
            work, lambda status, reason: {"error": {"httpCode": status, "message": reason}}
        )

    def _answer(
        self, work: _Work, failure: Callable[[int, str], Document]
    ) -> Callable[[Request], Awaitable[Response]]:
        def begun(request: Request) -> tuple[bytes, bytes | None, Iterator[bytes]]:
            """Return the first two pieces and the rest, because an answer of one piece gets a Content-Length."""
            found = work(request)
            pieces = gathered([text_of(found)] if isinstance(found, dict) else found)
            return next(pieces, b""), next(pieces, None), pieces

        async def answer(request: Request) -> Response:
            second: bytes | None = None
            rest: Iterator[bytes] = iter(())
            try:
                first, second, rest = await self._in_thread(lambda: begun(request))
                status = 200
            except _Bad as bad:
                first, status = json.dumps(failure(bad.status, str(bad))).encode(), bad.status
            except SpanbusError as error:
                logger.warning("%s: %s", request.url.path, error)
                first = json.dumps(failure(503, "the store cannot be read now")).encode()
                status = 503
            headers = {"Cache-Control": "no-store"}
            if second is None:
                return Response(first, status, headers, "application/json")
            path = request.url.path
            return StreamingResponse(
                self._rest(path, [first, second], rest), status, headers, "application/json"
            )

        return answer

    async def _rest(
        self, path: str, begun: list[bytes], rest: Iterator[bytes]
    ) -> AsyncGenerator[bytes]:
        """Yield the pieces of an answer on demand. An interrupted answer is invalid JSON."""
        while begun:
            yield begun.pop(0)
        try:
            while (piece := await self._in_thread(lambda: next(rest, None))) is not None:
                yield piece
        except SpanbusError as error:
            logger.warning("%s: broken off: %s", path, error)


def _partial(found: Sequence[str]) -> Document:
    """Reason of an incomplete answer; empty for a complete one."""
    return {"partial": found.why} if isinstance(found, Partial) else {}


def _some(pieces: Iterator[Sequence[ResourceSpans]], why_not: str) -> trace_answers.Pieces:
    """Return the pieces, or raise 404 if there is none."""
    first = next(pieces, None)
    if first is None:
        raise _Bad(404, why_not)
    return chain([first], pieces)


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
"""Parameters of a search in Jaeger 2.20, with their names in earlier pages and clients."""


def _v3(query: QueryParams, name: str) -> tuple[str, str | None]:
    """Return the name used for a parameter of a search, and its value."""
    names = [f"query.{each}" for each in (name, *_OLDER_NAMES[name])]
    return next(((each, query[each]) for each in names if query.get(each)), (names[0], None))


def _json(document: object, status: int = 200) -> Response:
    body = text_of(document).encode()
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
