"""The way to the collector: one real request for each signal, and what stands in its way.

Requests go through the transports that delivery uses, so that headers, certificates, proxies and compression are tried as
they will be used. A failure is looked into: does the port speak the other protocol, is the path missing, does another
program answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from spanbus.delivery.endpoints import Endpoint
from spanbus.delivery.outcomes import Delivered, Outcome, Retry
from spanbus.delivery.signals import Signal
from spanbus.delivery.transport import HttpTransport, Transport
from spanbus.errors import SettingsError
from spanbus.examine.asking import Answer, on_loopback, skew_s
from spanbus.examine.findings import Finding, ok, warning, wrong

DEFAULT_URL = "http://127.0.0.1:4318"

_LOOK_S = 2.0
_RESPONSES: Mapping[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceResponse, Signal.METRICS: ExportMetricsServiceResponse, Signal.LOGS: ExportLogsServiceResponse,
}
_WHAT = {Signal.TRACES: "a test trace", Signal.METRICS: "test points", Signal.LOGS: "a test log record"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one request. ``answer`` is None over gRPC, and where there was none."""

    outcome: Outcome
    answer: Answer | None
    took_s: float

    @property
    def otlp(self) -> bool:
        """It was taken, by something that speaks OTLP."""
        return isinstance(self.outcome, Delivered) and (self.answer is None or self.answer.status != 200 or speaks_otlp(self.answer))


def send(endpoint: Endpoint, signal: Signal, body: bytes, env: Mapping[str, str], timeout_s: float) -> Sent:
    """One attempt. Raises :class:`~spanbus.errors.SettingsError` for certificates or proxies that cannot be used."""
    heard: list[Answer] = []
    began, clock = time.monotonic(), time.time()

    def hear(status: int, headers: Mapping[str, str], said: bytes) -> None:
        lower = {name.lower(): value for name, value in headers.items()}
        heard.append(Answer(status, lower, said, skew_s=skew_s(lower.get("date"), (clock + time.time()) / 2)))

    transport: Transport
    if endpoint.protocol == "grpc":
        from spanbus.delivery.grpc_transport import GrpcTransport

        transport = GrpcTransport(endpoint, signal)
    else:
        transport = HttpTransport(endpoint, env, heard=hear)
    try:
        outcome = transport.send(body, min(timeout_s, endpoint.timeout_s))
    finally:
        transport.close()
    return Sent(outcome, heard[0] if heard else None, time.monotonic() - began)


def speaks_otlp(answer: Answer) -> bool:
    """Whether a 200 is the answer of an OTLP receiver: its media type, and a body that is one of its messages."""
    kind = answer.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        return isinstance(answer.json(), dict)
    if kind not in ("application/x-protobuf", "application/protobuf", ""):
        return False
    try:
        for response in _RESPONSES.values():
            response().ParseFromString(answer.body)
    except DecodeError:
        return False
    return bool(kind) or not answer.body


def judge(signal: Signal, endpoint: Endpoint, sent: Sent | SettingsError | None, env: Mapping[str, str]) -> Finding:
    """``sent`` is None when it took too long."""
    check = f"collector.{signal}"
    if isinstance(sent, SettingsError):
        return wrong(check, str(sent), "until then everything waits in the spool")
    if sent is None:
        return wrong(check, f"{endpoint.shown}: no answer in time", _waits("see whether the collector is well and the way to it is free"))
    outcome = sent.outcome
    if isinstance(outcome, Delivered):
        if sent.answer is not None and not speaks_otlp(sent.answer):
            return wrong(
                check, f"{endpoint.shown} is no OTLP receiver: another program answers ({sent.answer.described})",
                "stop that program, or set OTEL_EXPORTER_OTLP_ENDPOINT to the collector: what is sent there is lost",
            )
        if outcome.rejected:
            return wrong(check, f"{endpoint.shown} rejected {_WHAT[signal]}: {outcome.message or 'it does not say why'}", "change the collector so that it takes it")
        said = f"{endpoint.shown} ({endpoint.protocol}) took {_WHAT[signal]} in {sent.took_s * 1e3:.0f} ms"
        if outcome.message:
            return warning(check, f"{said}, and says: {outcome.message}", "see what the collector wants")
        return ok(check, said)
    described = f" ({sent.answer.described})" if sent.answer is not None and not outcome.reason.startswith("gRPC") else ""
    said = f"{endpoint.shown}: {outcome.reason}{described if sent.answer is not None and sent.answer.status != 200 and 'server' in sent.answer.headers else ''}"
    return wrong(check, said, _todo(signal, endpoint, outcome, sent.answer, env))


def _todo(signal: Signal, endpoint: Endpoint, outcome: Outcome, answer: Answer | None, env: Mapping[str, str]) -> str:
    assert not isinstance(outcome, Delivered)
    reason = outcome.reason.lower()
    status = answer.status if answer is not None else 0
    if "refused" in reason and status == 0:
        start = "start the collector (`spanbus stack up`, or `spanbus up`)" if on_loopback(_as_url(endpoint)) else "start the collector"
        return _waits(f"{start}, or set OTEL_EXPORTER_OTLP_ENDPOINT to where it listens")
    if status in (401, 403) or "unauthenticated" in reason or "permission_denied" in reason:
        return "set OTEL_EXPORTER_OTLP_HEADERS to what it wants, such as authorization=Bearer%20TOKEN"
    if "certificate" in reason:
        return "set OTEL_EXPORTER_OTLP_CERTIFICATE to a PEM file with the CA that signed it"
    other = _other_protocol(signal, endpoint, env) if status == 0 or status >= 400 else None
    if other is not None:
        return other
    if endpoint.protocol != "grpc" and status in (404, 405):
        path = f"/v1/{signal}"
        longer = _longer(endpoint, path)
        if longer is not None and _takes(longer, signal, env):
            return f"it answers at {longer.shown}: OTEL_EXPORTER_OTLP_ENDPOINT is the part before {path}, OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT the whole"
        return "another program may have this port, or the path is wrong: OTEL_EXPORTER_OTLP_ENDPOINT is the part before /v1/traces"
    if 300 <= status < 400:
        return "set OTEL_EXPORTER_OTLP_ENDPOINT to where it leads"
    if any(word in reason for word in ("name or service", "name resolution", "nodename", "no address", "resolution failed")):
        return _waits("see whether the host name in OTEL_EXPORTER_OTLP_ENDPOINT is right")
    if any(word in reason for word in ("wrong version number", "ssl", "tls", "record layer")):
        return "the port may not speak TLS: try http:// in OTEL_EXPORTER_OTLP_ENDPOINT"
    if isinstance(outcome, Retry):
        return _waits("see the collector's log")
    return "see the collector's log; what it refuses is kept in the state directory, folder refused"


def _waits(text: str) -> str:
    return f"{text}; until then everything waits in the spool"


def _as_url(endpoint: Endpoint) -> str:
    return endpoint.url


def _other_protocol(signal: Signal, endpoint: Endpoint, env: Mapping[str, str]) -> str | None:
    """What to set when the same port speaks gRPC instead of HTTP, or the other way round."""
    if endpoint.url.startswith("unix:"):
        return None
    parts = urlsplit(endpoint.url)
    if endpoint.protocol == "grpc":
        if _takes(replace(endpoint, protocol="http/protobuf", url=urlunsplit((parts.scheme, parts.netloc, f"/v1/{signal}", "", "")), compression="none"), signal, env):
            return "this port speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or take the port for gRPC (4317)"
        return None
    if parts.port is not None and _takes(replace(endpoint, protocol="grpc", url=urlunsplit((parts.scheme, parts.netloc, "", "", "")), compression="none"), signal, env):
        return "this port speaks gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or take the port for HTTP (4318)"
    return None


def _longer(endpoint: Endpoint, path: str) -> Endpoint | None:
    parts = urlsplit(endpoint.url)
    if not parts.path.endswith(path):
        return replace(endpoint, url=urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, parts.query, "")))
    short = parts.path.removesuffix(path)
    if short.endswith(path):  # somebody gave the whole where the part before was wanted
        return replace(endpoint, url=urlunsplit((parts.scheme, parts.netloc, short, parts.query, "")))
    return None


def _takes(endpoint: Endpoint, signal: Signal, env: Mapping[str, str]) -> bool:
    """Whether it takes an empty request."""
    try:
        return send(endpoint, signal, b"", env, _LOOK_S).otlp
    except SettingsError:
        return False


def who_has_the_port(url: str, env: Mapping[str, str]) -> Sent:
    """What answers an empty request at a place that nobody configured."""
    return send(Endpoint(f"{url}/v1/traces"), Signal.TRACES, b"", {} if on_loopback(url) else env, _LOOK_S)
