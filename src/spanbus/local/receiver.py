"""OTLP over HTTP, from any client into a sink.

Protobuf or JSON, plain, gzip or deflate; traces, metrics and logs. A request is answered with 200 only after the sink has
it. What cannot be stored of an otherwise good request is a partial success; a request that can never be stored is a 400,
413 or 415, and one that came at a bad moment is a 429 or 503 with ``Retry-After``
(https://opentelemetry.io/docs/specs/otlp/#otlphttp-response).
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from spanbus.errors import StoreError
from spanbus.local import otlp_json

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


class Sink(Protocol):
    """Where requests go: protobuf bytes of the three OTLP export requests. Called in worker threads, one at a time.

    What is returned, where it is a number, is how many records were left out.
    """

    def ingest_traces(self, body: bytes) -> object: ...

    def ingest_metrics(self, body: bytes) -> object: ...

    def ingest_logs(self, body: bytes) -> object: ...


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """What one client may ask for, and all of them together."""

    body_bytes: int = 32 << 20
    """The largest body as sent."""
    unpacked_bytes: int = 64 << 20
    """The largest body after decompression."""
    in_flight_bytes: int = 160 << 20
    """Bodies of all requests that wait or are being stored; above it the answer is 429."""
    body_time_s: float = 30.0
    """How long a client may take to send a body."""
    retry_after_s: int = 1


class ReceiverStatistics(NamedTuple):
    """Counts since the start."""

    requests: int
    records: int
    rejected: int
    refused: int
    busy: int
    failed: int
    in_flight_bytes: int


class _Refused(Exception):
    """The request is answered with ``status``."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s


class _Checked(NamedTuple):
    body: bytes
    records: int
    rejected: int
    why: str


def _traces(body: bytes, is_json: bool) -> _Checked:
    request = _decode(body, is_json, ExportTraceServiceRequest())
    good = bad = 0
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            wrong = [
                at for at, span in enumerate(scope.spans)
                if len(span.trace_id) != 16 or len(span.span_id) != 8 or not any(span.trace_id) or not any(span.span_id)
            ]
            good += len(scope.spans) - len(wrong)
            bad += len(wrong)
            for at in reversed(wrong):
                del scope.spans[at]
    return _Checked(request.SerializeToString() if is_json or bad else body, good, bad, "a span needs a trace id of 16 bytes and a span id of 8" if bad else "")


def _metrics(body: bytes, is_json: bool) -> _Checked:
    request = _decode(body, is_json, ExportMetricsServiceRequest())
    good = bad = 0
    whys: set[str] = set()
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                points = _points(metric)
                wrong = [(at, why) for at, point in enumerate(points) if (why := _unfit(metric, kind, point))]
                good += len(points) - len(wrong)
                bad += len(wrong)
                for at, why in reversed(wrong):
                    del points[at]
                    whys.add(why)
    return _Checked(request.SerializeToString() if is_json or bad else body, good, bad, "; ".join(sorted(whys)))


_Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint


def _points(metric: Metric) -> MutableSequence[_Point]:
    kind = metric.WhichOneof("data")
    return cast("MutableSequence[_Point]", getattr(metric, kind).data_points) if kind else []


def _unfit(metric: Metric, kind: str | None, point: _Point) -> str | None:
    """Why a point cannot be one of a series that a scraper may read."""
    if not metric.name:
        return "a metric needs a name"
    if isinstance(point, SummaryDataPoint):
        return "summaries are not stored"
    if isinstance(point, NumberDataPoint):
        if math.isnan(point.as_double):
            return "a value that is no number is not stored"
        if kind == "sum" and metric.sum.is_monotonic and not (0 <= point.as_double < math.inf and point.as_int >= 0):
            return "a counter is neither negative nor infinite"
        return None
    if isinstance(point, HistogramDataPoint):
        bounds, counts = point.explicit_bounds, point.bucket_counts
        if not all(low < high for low, high in pairwise((-math.inf, *bounds, math.inf))):
            return "the bounds of a histogram ascend and are finite"
        if (counts or bounds) and len(counts) != len(bounds) + 1:
            return "a histogram has one bucket more than bounds"
        if counts and sum(counts) != point.count:
            return "the buckets of a histogram add up to its count"
    if not math.isfinite(point.sum):
        return "the sum of a histogram is finite"
    if point.count >= 2**53:
        return "a count is at most 2^53"
    return None


def _logs(body: bytes, is_json: bool) -> _Checked:
    request = _decode(body, is_json, ExportLogsServiceRequest())
    good = sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
    return _Checked(request.SerializeToString() if is_json else body, good, 0, "")


def _decode(body: bytes, is_json: bool, message: M) -> M:
    if is_json:
        return otlp_json.read(body, message)
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise ValueError(f"the body is not an {message.DESCRIPTOR.name} in protobuf; JSON needs Content-Type: {JSON}, and each signal has its own path") from None
    return message


class _Signal(NamedTuple):
    path: str
    check: Callable[[bytes, bool], _Checked]
    response: Callable[[int, str], Message]
    ingest: Callable[[Sink], Callable[[bytes], object]]


def _trace_response(rejected: int, why: str) -> Message:
    answer = ExportTraceServiceResponse()
    if rejected:
        answer.partial_success.rejected_spans, answer.partial_success.error_message = rejected, why
    return answer


def _metric_response(rejected: int, why: str) -> Message:
    answer = ExportMetricsServiceResponse()
    if rejected:
        answer.partial_success.rejected_data_points, answer.partial_success.error_message = rejected, why
    return answer


def _log_response(rejected: int, why: str) -> Message:
    answer = ExportLogsServiceResponse()
    if rejected:
        answer.partial_success.rejected_log_records, answer.partial_success.error_message = rejected, why
    return answer


def _traces_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_traces


def _metrics_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_metrics


def _logs_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_logs


_SIGNALS = (
    _Signal("/v1/traces", _traces, _trace_response, _traces_of),
    _Signal("/v1/metrics", _metrics, _metric_response, _metrics_of),
    _Signal("/v1/logs", _logs, _log_response, _logs_of),
)

# The codes of google.rpc.Status, which an OTLP error body is.
_RPC_CODES = {400: 3, 408: 4, 413: 8, 415: 3, 429: 8, 500: 13, 503: 14}


class Receiver:
    """The three OTLP endpoints in front of a sink. :meth:`routes` gives what a Starlette application mounts."""

    def __init__(self, sink: Sink, limits: ReceiverLimits | None = None) -> None:
        self._sink = sink
        self._limits = limits or ReceiverLimits()
        # One writer at a time: the sink is one SQLite file, and waiting here costs no lock time-outs there.
        self._writer = anyio.CapacityLimiter(1)
        self._in_flight_bytes = 0
        self._requests = self._records = self._rejected = self._refused = self._busy = self._failed = 0
        self._trouble = ""
        """Why the store took nothing the last time."""

    def statistics(self) -> ReceiverStatistics:
        return ReceiverStatistics(
            self._requests, self._records, self._rejected, self._refused, self._busy, self._failed, self._in_flight_bytes
        )

    def routes(self) -> list[BaseRoute]:
        return [Route(signal.path, self._endpoint(signal), methods=["POST"]) for signal in _SIGNALS]

    def _endpoint(self, signal: _Signal) -> Callable[[Request], object]:
        async def receive(request: Request) -> Response:
            return await self._receive(signal, request)

        return receive

    async def _receive(self, signal: _Signal, request: Request) -> Response:
        self._requests += 1
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_json = media_type == JSON
        held = _Held(self)
        try:
            if media_type not in (PROTOBUF, JSON):
                raise _Refused(415, f"Content-Type must be {PROTOBUF} or {JSON}")
            body = await self._body(request, held)
            checked = await anyio.to_thread.run_sync(self._store, signal, body, is_json, limiter=self._writer)
        except _Refused as refused:
            self._count(refused.status)
            return _error(refused.status, str(refused), is_json, refused.retry_after_s)
        except ClientDisconnect:
            self._refused += 1
            return Response(status_code=400)
        finally:
            held.release()
        self._records += checked.records
        self._rejected += checked.rejected
        return _answer(signal.response(checked.rejected, checked.why), 200, is_json)

    def _store(self, signal: _Signal, body: bytes, is_json: bool) -> _Checked:
        try:
            checked = signal.check(body, is_json)
        except ValueError as error:
            raise _Refused(400, str(error)[:500]) from None
        if not checked.records:
            return checked
        try:
            left_out = signal.ingest(self._sink)(checked.body)
        except StoreError as error:
            if self._trouble != str(error):  # once, not for every request of every client that tries again
                self._trouble = str(error)
                logger.warning("spanbus: what is sent here is not stored: %s", error)
            raise _Refused(503, "the store cannot take it now", self._limits.retry_after_s) from None
        except Exception:  # the wall around a web client
            logger.exception("%s: not stored", signal.path)
            raise _Refused(503, "the store cannot take it now", self._limits.retry_after_s) from None
        if self._trouble:
            self._trouble = ""
            logger.warning("spanbus: what is sent here is stored again")
        if isinstance(left_out, int) and left_out:
            return checked._replace(records=checked.records - left_out, rejected=checked.rejected + left_out, why="there are too many series in this store")
        return checked

    def _count(self, status: int) -> None:
        if status == 429:
            self._busy += 1
        elif status == 503:
            self._failed += 1
        else:
            self._refused += 1

    async def _body(self, request: Request, held: _Held) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise _Refused(415, "Content-Encoding must be gzip, deflate or none")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.body_bytes:
            raise _Refused(413, f"the body is larger than {self._limits.body_bytes} bytes")
        chunks: list[bytes] = []
        size = 0
        unpack = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as the data say
        try:
            with anyio.fail_after(self._limits.body_time_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._limits.body_bytes:
                        raise _Refused(413, f"the body is larger than {self._limits.body_bytes} bytes")
                    if unpack is None:
                        held.take(len(chunk))
                        chunks.append(chunk)
                        continue
                    while chunk:
                        piece = unpack.decompress(chunk, 1 << 20)
                        held.take(len(piece))
                        chunks.append(piece)
                        chunk = unpack.unconsumed_tail
                        if unpack.eof:
                            if unpack.unused_data or chunk:
                                raise _Refused(400, "there are bytes behind the end of the compressed body")
                            break
        except TimeoutError:
            raise _Refused(408, f"the body took longer than {self._limits.body_time_s:g} s") from None
        except zlib.error:
            raise _Refused(400, f"the body is not {encoding}") from None
        if unpack is not None and not unpack.eof and size:
            raise _Refused(400, "the compressed body is cut off")
        return b"".join(chunks)

    def hold(self, size_bytes: int) -> None:
        """Count bytes that are in memory; refuse with 429 what would be too much for all clients together."""
        if self._in_flight_bytes + size_bytes > self._limits.in_flight_bytes:
            raise _Refused(429, "too much is being received at once", self._limits.retry_after_s)
        self._in_flight_bytes += size_bytes

    def let_go(self, size_bytes: int) -> None:
        self._in_flight_bytes -= size_bytes

    @property
    def limits(self) -> ReceiverLimits:
        return self._limits


class _Held:
    """The bytes that one request holds in memory."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._size = 0

    def take(self, size_bytes: int) -> None:
        if self._size + size_bytes > self._receiver.limits.unpacked_bytes:
            raise _Refused(413, f"the body is larger than {self._receiver.limits.unpacked_bytes} bytes when unpacked")
        self._receiver.hold(size_bytes)
        self._size += size_bytes

    def release(self) -> None:
        self._receiver.let_go(self._size)
        self._size = 0


def _answer(message: Message, status: int, is_json: bool, headers: dict[str, str] | None = None) -> Response:
    if is_json:
        return Response(json_format.MessageToJson(message, indent=None), status, headers, JSON)
    return Response(message.SerializeToString(), status, headers, PROTOBUF)


def _error(status: int, message: str, is_json: bool, retry_after_s: int | None) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    if status in (408, 413):
        headers = {**(headers or {}), "Connection": "close"}  # the rest of the body is not read
    return _answer(Status(code=_RPC_CODES.get(status, 2), message=message), status, is_json, headers)
