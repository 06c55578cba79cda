"""OTLP over gRPC: the same bytes on a generic call.

Retries follow https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-response. This module imports grpc; it is imported only if the
protocol is ``grpc``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from spanbus._delivery.answers import partial_success, retry_delay_s, shown
from spanbus._delivery.endpoints import Endpoint
from spanbus._delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge
from spanbus._delivery.transport import ATTEMPTS_AT_SERVER_ERRORS, USER_AGENT
from spanbus._otlp.signals import Signal
from spanbus.errors import SettingsError

# The documented default. If it is unset, gRPC writes a line to stderr for every failed handshake. It is read during the import.
_OURS: Final = "GRPC_VERBOSITY" not in os.environ
if _OURS:
    os.environ["GRPC_VERBOSITY"] = "ERROR"
import grpc  # noqa: E402

if _OURS:
    os.environ.pop("GRPC_VERBOSITY", None)  # not for child processes

_METHODS: Final = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_RETRYABLE = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNAUTHENTICATED,  # these two beyond OTLP: a wrong key can be corrected
        grpc.StatusCode.PERMISSION_DENIED,
    )
)
_DENIED = frozenset((grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))
_RETRYABLE_FEW_TIMES = frozenset(
    (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
)
# The sender has its own back-off; the channel's (up to two minutes) would hide a recovered collector.
# An answer is a few bytes; the limits keep a server or proxy from filling the memory of this process.
_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class GrpcTransport:
    """Transport with a persistent channel. One thread sends, another may interrupt."""

    def __init__(self, endpoint: Endpoint, signal: Signal) -> None:
        self._endpoint = endpoint
        self._method = _METHODS[signal]
        self._channel: grpc.Channel | None = None
        self._pid = os.getpid()
        self._interrupted = False
        self._under_way: grpc.Future[bytes] | None = None

    def warm_up(self) -> None:
        self._connected()

    def send(self, body: bytes, timeout_s: float) -> Outcome:
        call = cast("Any", self._connected().unary_unary(self._method))
        try:
            self._under_way = future = call.future(
                body, timeout=timeout_s, metadata=self._endpoint.headers, wait_for_ready=False
            )
            if self._interrupted:  # between the call and the assignment
                future.cancel()
            answer: bytes = future.result()
        except grpc.FutureCancelledError:
            return Retry("interrupted")
        except grpc.RpcError as error:
            return _outcome(error, body)
        except ValueError as error:  # the channel was closed from outside
            return Retry(str(error))
        finally:
            self._under_way = None
        return Delivered(*partial_success(answer)) if answer else Delivered()

    def interrupt(self) -> None:
        self._interrupted = True
        future = self._under_way
        if future is not None:
            future.cancel()

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and self._pid == os.getpid():
            channel.close()

    def _connected(self) -> grpc.Channel:
        if self._channel is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._channel = self._new_channel()
        return self._channel

    def _new_channel(self) -> grpc.Channel:
        endpoint = self._endpoint
        target = endpoint.url if endpoint.url.startswith("unix:") else urlsplit(endpoint.url).netloc
        options = [*_OPTIONS, ("grpc.primary_user_agent", USER_AGENT.replace(" ", "_"))]
        compression = _COMPRESSION[endpoint.compression]
        if endpoint.insecure:
            return grpc.insecure_channel(target, options=options, compression=compression)
        credentials = grpc.ssl_channel_credentials(
            _content(endpoint.ca, "CERTIFICATE"),
            _content(endpoint.client_key, "CLIENT_KEY"),
            _content(endpoint.client_certificate, "CLIENT_CERTIFICATE"),
        )
        return grpc.secure_channel(target, credentials, options=options, compression=compression)


def _content(path: Path | None, name: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_{name}: {path} cannot be read ({error.strerror}); name a PEM file"
        ) from error


def _outcome(error: grpc.RpcError, body: bytes) -> Outcome:
    if not isinstance(error, grpc.Call):
        return Retry(str(error))
    code, details = error.code(), shown(error.details() or "")[:300]
    reason = f"gRPC {code.name}{f': {details}' if details else ''}"
    trailing = {str(one.key): one.value for one in error.trailing_metadata() or ()}
    status = trailing.get("grpc-status-details-bin")
    delay_s = retry_delay_s(status) if isinstance(status, bytes) else None
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        if "CLIENT:" in details:  # the answer is too large, not the request
            return Retry(reason, delay_s, ATTEMPTS_AT_SERVER_ERRORS, body, heard=True)
        return TooLarge(reason, body)
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay_s is not None):
        return Retry(reason, delay_s, heard=delay_s is not None or code in _DENIED)
    if code in _RETRYABLE_FEW_TIMES:
        return Retry(reason, delay_s, ATTEMPTS_AT_SERVER_ERRORS, body, heard=True)
    return Refused(reason, body)
