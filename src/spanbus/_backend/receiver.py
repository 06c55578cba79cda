"""Receiver of OTLP over HTTP.

Traces, metrics and logs in protobuf or JSON, uncompressed, gzip or deflate. A request is answered with 200 only after the sink
has stored it. If some records cannot be stored the answer is a partial success; a request that can never be stored gets 400,
413 or 415, and a request to be retried gets 429 or 503 with ``Retry-After``
(https://opentelemetry.io/docs/specs/otlp/#otlphttp-response).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
    """Destination of the three OTLP export requests in protobuf bytes. Called in worker threads, one at a time.

    A returned number counts the records that were left out.
    """

    def ingest_traces(self, body: bytes) -> object: ...

    def ingest_metrics(self, body: bytes) -> object: ...

    def ingest_logs(self, body: bytes) -> object: ...


@runtime_checkable
class DecodedSink(Protocol):
    """A sink that also takes the decoded request, so that it is decoded only once. ``signal`` is traces, metrics or logs."""

    def ingest_decoded(self, signal: str, body: bytes, request: Message) -> object: ...


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Limits on the requests of one client, and of all of them together."""

    body_bytes: int = 16 << 20
    """Largest body as sent."""
    unpacked_bytes: int = 16 << 20
    """Largest body after decompression."""
    expansion: int = 100
    """Highest ratio of a compressed body's unpacked size to its own, above 4 MiB."""
    elements: int = 600_000
    """Strings and lists plus three times the messages in one request; counted before it is decoded."""
    records: int = 50_000
    """Spans, points or log records in one request."""
    in_flight_bytes: int = MOST_BYTES
    """Bodies of all requests that are being received or stored; above it the answer is 429."""
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


def _response(message: Callable[[], Any], rejected_field: str) -> Callable[[int, str], Message]:
    def make(rejected: int, why: str) -> Message:
        answer = message()
        if rejected:
            setattr(answer.partial_success, rejected_field, rejected)
            answer.partial_success.error_message = why
        return answer

    return make


_SIGNALS = (
    _Signal(
        "/v1/traces",
        decoding.traces,
        _response(ExportTraceServiceResponse, "rejected_spans"),
    ),
    _Signal(
        "/v1/metrics",
        decoding.metrics,
        _response(ExportMetricsServiceResponse, "rejected_data_points"),
    ),
    _Signal(
        "/v1/logs",
        decoding.logs,
        _response(ExportLogsServiceResponse, "rejected_log_records"),
    ),
)

# The codes of google.rpc.Status, the body of an OTLP error.
_RPC_CODES = {400: 3, 408: 4, 413: 8, 415: 3, 429: 8, 500: 13, 503: 14}


class Receiver:
    """The three OTLP endpoints in front of a sink, as :meth:`routes` for a Starlette application."""

    def __init__(self, sink: Sink, limits: ReceiverLimits | None = None) -> None:
        self._sink = sink
        self._ingest: dict[str, Callable[[bytes], object]] = {
            "/v1/traces": sink.ingest_traces,
            "/v1/metrics": sink.ingest_metrics,
            "/v1/logs": sink.ingest_logs,
        }
        self._limits = limits or ReceiverLimits()
        # One writer at a time: the sink is one SQLite file, and waiting here avoids lock timeouts there.
        self._writer = anyio.CapacityLimiter(1)
        self.in_flight = InFlight(self._limits.in_flight_bytes)
        """Memory for the bodies of all requests, also those of other endpoints."""
        self._requests = self._records = self._rejected = self._refused = self._busy = (
            self._failed
        ) = 0
        self._trouble = ""
        """Last error of the store; empty while it works."""

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
            # One request at a time is unpacked, decoded and stored, in a thread, which bounds the memory.
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
            held.release()
        self._records += checked.records
        self._rejected += checked.rejected
        return _answer(signal.response(checked.rejected, checked.why), 200, is_json)

    def _store(
        self, signal: _Signal, body: bytes, packed: bool, is_json: bool
    ) -> Checked | _Refused:
        """Store a body; return what was stored, or the refusal. A raised exception would keep the body alive in a cycle."""
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
                else self._ingest[signal.path](checked.body)
            )
        except StoreError as error:
            if self._trouble != str(error):  # logged once, not for every retry of every client
                self._trouble = str(error)
                logger.warning("spanbus: what is sent here is not stored: %s", error)
            return _Refused(503, "the store cannot take it now", self._limits.retry_after_s)
        except Exception:  # answered with 503, not raised into the server
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
