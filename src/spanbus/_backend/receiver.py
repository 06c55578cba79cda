"""OTLP over HTTP, from any client into a sink.

Protobuf or JSON, plain, gzip or deflate; traces, metrics and logs. A request is answered with 200 only after the sink has
it. What cannot be stored of an otherwise good request is a partial success; a request that can never be stored is a 400,
413 or 415, and one that came at a bad moment is a 429 or 503 with ``Retry-After``
(https://opentelemetry.io/docs/specs/otlp/#otlphttp-response).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import anyio
import anyio.to_thread
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from spanbus._backend import decoding
from spanbus._backend.decoding import JSON, Bounds, Checked, TooLarge
from spanbus._backend.in_flight import MOST_BYTES, Body, BodyTooLarge, Full, InFlight, TooSlow
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.bounds import TooMany
from spanbus.errors import StoreError

logger = logging.getLogger(__name__)

PROTOBUF = "application/x-protobuf"
_FREE_EXPANSION_BYTES = 4 << 20


class Sink(Protocol):
    """Destination of requests: protobuf bytes of the three OTLP export requests. Called in worker threads, one at a time.

    What is returned, where it is a number, is how many records were left out.
    """

    def ingest_traces(self, body: bytes) -> object: ...

    def ingest_metrics(self, body: bytes) -> object: ...

    def ingest_logs(self, body: bytes) -> object: ...


@runtime_checkable
class DecodedSink(Protocol):
    """A sink that takes a request as it was decoded too, so that it is decoded once. ``signal`` is traces, metrics or logs."""

    def ingest_decoded(self, signal: str, body: bytes, request: Message) -> object: ...


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Limits on the requests of one client, and of all of them together."""

    body_bytes: int = 16 << 20
    """The largest body as sent."""
    unpacked_bytes: int = 16 << 20
    """The largest body after decompression."""
    expansion: int = 100
    """Highest ratio of a compressed body's unpacked size to its own, above 4 MiB."""
    elements: int = 600_000
    """Texts and lists, and three times the messages, in one request; counted before it is decoded."""
    records: int = 50_000
    """Spans, points or log records in one request."""
    in_flight_bytes: int = MOST_BYTES
    """Bodies of all requests that are being received or wait; above it the answer is 429."""
    body_time_s: float = 30.0
    """Seconds for a client to send a body."""
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


class _Signal(NamedTuple):
    path: str
    check: Callable[[bytes, bool, Bounds], Checked]
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
        answer.partial_success.rejected_data_points, answer.partial_success.error_message = (
            rejected,
            why,
        )
    return answer


def _log_response(rejected: int, why: str) -> Message:
    answer = ExportLogsServiceResponse()
    if rejected:
        answer.partial_success.rejected_log_records, answer.partial_success.error_message = (
            rejected,
            why,
        )
    return answer


def _traces_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_traces


def _metrics_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_metrics


def _logs_of(sink: Sink) -> Callable[[bytes], object]:
    return sink.ingest_logs


_SIGNALS = (
    _Signal("/v1/traces", decoding.traces, _trace_response, _traces_of),
    _Signal("/v1/metrics", decoding.metrics, _metric_response, _metrics_of),
    _Signal("/v1/logs", decoding.logs, _log_response, _logs_of),
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
        self.in_flight = InFlight(self._limits.in_flight_bytes)
        """Room for the bodies of requests of every kind."""
        self._requests = self._records = self._rejected = self._refused = self._busy = (
            self._failed
        ) = 0
        self._trouble = ""
        """Reason of the store's last refusal."""

    def statistics(self) -> ReceiverStatistics:
        return ReceiverStatistics(
            self._requests,
            self._records,
            self._rejected,
            self._refused,
            self._busy,
            self._failed,
            self.in_flight.size_bytes,
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
        held = self.in_flight.body()
        try:
            if media_type not in (PROTOBUF, JSON):
                raise _Refused(415, f"Content-Type must be {PROTOBUF} or {JSON}")
            body, packed = await self._body(request, held)
            # One request at a time is unpacked, decoded and stored, in a thread: that bounds the memory of all of them together.
            checked = await anyio.to_thread.run_sync(
                self._store, signal, body, packed, is_json, limiter=self._writer
            )
            if isinstance(checked, _Refused):
                self._count(checked.status)
                return _error(checked.status, checked.message, is_json, checked.retry_after_s)
        except _Refused as refused:
            self._count(refused.status)
            return _error(refused.status, str(refused), is_json, refused.retry_after_s)
        except ClientDisconnect:
            self._refused += 1
            return Response(status_code=400)
        finally:
            held.give_back()
        self._records += checked.records
        self._rejected += checked.rejected
        return _answer(signal.response(checked.rejected, checked.why), 200, is_json)

    def _store(
        self, signal: _Signal, body: bytes, packed: bool, is_json: bool
    ) -> Checked | _Refused:
        """Store a body and return what was stored, or the refusal: returned, because a raised exception would keep
        the body alive in a cycle.
        """
        limits = self._limits
        try:
            if packed:
                body = decoding.unpacked(
                    body, limits.unpacked_bytes, limits.expansion, _FREE_EXPANSION_BYTES
                )
            checked = signal.check(body, is_json, Bounds(limits.elements, limits.records))
        except (TooLarge, TooMany) as error:
            return _Refused(413, str(error))
        except ValueError as error:
            return _Refused(400, str(error)[:500])
        if not checked.records:
            return checked
        try:
            left_out = (
                self._sink.ingest_decoded(signal.path[4:], checked.body, checked.request)
                if isinstance(self._sink, DecodedSink)
                else signal.ingest(self._sink)(checked.body)
            )
        except StoreError as error:
            if self._trouble != str(
                error
            ):  # once, not for every request of every client that tries again
                self._trouble = str(error)
                logger.warning("spanbus: what is sent here is not stored: %s", error)
            return _Refused(503, "the store cannot take it now", self._limits.retry_after_s)
        except Exception:  # an error is answered, not raised into the server
            logger.exception("%s: not stored", signal.path)
            return _Refused(503, "the store cannot take it now", self._limits.retry_after_s)
        if self._trouble:
            self._trouble = ""
            logger.warning("spanbus: what is sent here is stored again")
        if isinstance(left_out, int) and left_out:
            checked = checked._replace(
                records=checked.records - left_out,
                rejected=checked.rejected + left_out,
                why="there are too many series in this store",
            )
        return checked

    def _count(self, status: int) -> None:
        if status == 429:
            self._busy += 1
        elif status == 503:
            self._failed += 1
        else:
            self._refused += 1

    async def _body(self, request: Request, held: Body) -> tuple[bytes, bool]:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise _Refused(415, "Content-Encoding must be gzip, deflate or none")
        try:
            body = await held.read(request, self._limits.body_bytes, self._limits.body_time_s)
        except BodyTooLarge as error:
            raise _Refused(413, str(error)) from None
        except TooSlow:
            raise _Refused(
                408, f"the body took longer than {self._limits.body_time_s:g} s, or others waited"
            ) from None
        except Full:
            raise _Refused(
                429, "too much is being received at once", self._limits.retry_after_s
            ) from None
        return body, encoding != "identity"


def _answer(
    message: Message, status: int, is_json: bool, headers: dict[str, str] | None = None
) -> Response:
    if is_json:
        return Response(json_format.MessageToJson(message, indent=None), status, headers, JSON)
    return Response(message.SerializeToString(), status, headers, PROTOBUF)


def _error(status: int, message: str, is_json: bool, retry_after_s: int | None) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    if status in (408, 413):
        headers = {**(headers or {}), "Connection": "close"}  # the rest of the body is not read
    return _answer(
        Status(code=_RPC_CODES.get(status, 2), message=message), status, is_json, headers
    )
