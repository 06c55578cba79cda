"""Checks of the collector: one real request for each signal, and a diagnosis of its failure.

Requests use the transports of delivery, so headers, certificates, proxies and compression are tested as they will be
used. The diagnosis tries the other protocol, TLS and plain text, and other paths.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from spanbus._delivery.endpoints import Endpoint, Protocol, shown_url
from spanbus._delivery.outcomes import Delivered, Outcome, Retry
from spanbus._delivery.transport import HttpTransport, Transport, proxy_for
from spanbus._doctor.asking import Answer, on_loopback, skew_s
from spanbus._doctor.findings import Finding, ok, warning, wrong
from spanbus._otlp.signals import OTLP_SIGNALS, Signal
from spanbus._runs.format import duration
from spanbus.errors import SettingsError

DEFAULT_URL = "http://127.0.0.1:4318"

_LOOK_S = 2.0
_RESPONSES: Mapping[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceResponse,
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.LOGS: ExportLogsServiceResponse,
}
_UNRESOLVED = (
    "name or service",
    "name resolution",
    "nodename",
    "no address",
    "resolving",
    "lookup failed",
)
_UNTRUSTED = ("certificate is not trusted", "certificate_verify_failed")
_MISNAMED = (
    "hostname mismatch",
    "ip address mismatch",
    "no match found for server name",
    "hostname verification",
)
_DENIED = ("grpc unauthenticated", "grpc permission_denied")
_WHAT = {
    Signal.TRACES: "a test trace",
    Signal.METRICS: "test points",
    Signal.LOGS: "a test log record",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """Outcome of one request. ``answer`` is None over gRPC, and if there was no answer."""

    outcome: Outcome
    answer: Answer | None
    took_s: float

    @property
    def otlp(self) -> bool:
        """Whether an OTLP receiver accepted the request."""
        return isinstance(self.outcome, Delivered) and (
            self.answer is None or self.answer.status != 200 or speaks_otlp(self.answer)
        )


def send(
    endpoint: Endpoint, signal: Signal, body: bytes, env: Mapping[str, str], timeout_s: float
) -> Sent:
    """Send one request. Raises :class:`~spanbus.errors.SettingsError` for unusable certificates or proxies."""
    answers: list[Answer] = []
    began, clock = time.monotonic(), time.time()

    def record(status: int, headers: Mapping[str, str], body: bytes) -> None:
        lower = {name.lower(): value for name, value in headers.items()}
        answers.append(
            Answer(status, lower, body, skew_s=skew_s(lower.get("date"), (clock + time.time()) / 2))
        )

    transport: Transport
    if endpoint.protocol == "grpc":
        from spanbus._delivery.grpc_transport import GrpcTransport

        transport = GrpcTransport(endpoint, signal)
    else:
        transport = HttpTransport(endpoint, env, heard=record)
    try:
        outcome = transport.send(body, min(timeout_s, endpoint.timeout_s))
    finally:
        transport.close()
    return Sent(outcome, answers[0] if answers else None, time.monotonic() - began)


def speaks_otlp(answer: Answer) -> bool:
    """Whether a 200 answer comes from an OTLP receiver, by media type and body."""
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


def judge(
    signal: Signal, endpoint: Endpoint, sent: Sent | SettingsError | None, env: Mapping[str, str]
) -> Finding:
    """Return the finding for one request; ``sent`` is None after a timeout."""
    check = f"collector.{signal}"
    if isinstance(sent, SettingsError):
        return wrong(check, str(sent), "until then everything waits in the spool")
    if sent is None:
        return wrong(
            check,
            f"{endpoint.shown}{_by_proxy(endpoint, env)}: no answer in time",
            _waits("see whether the collector is well and the way to it is free"),
        )
    outcome = sent.outcome
    if sent.answer is not None and sent.answer.status == 200 and not speaks_otlp(sent.answer):
        return wrong(
            check,
            f"{endpoint.shown} is no OTLP receiver: another program answers ({sent.answer.described})",
            "stop that program, or set OTEL_EXPORTER_OTLP_ENDPOINT to the collector"
            + (": what is sent there is lost" if isinstance(outcome, Delivered) else ""),
        )
    if isinstance(outcome, Delivered):
        if outcome.rejected:
            return wrong(
                check,
                f"{endpoint.shown} rejected {_WHAT[signal]}: {outcome.message or 'it does not say why'}",
                "change the collector so that it takes it",
            )
        text = f"{endpoint.shown} ({endpoint.protocol}) took {_WHAT[signal]} in {duration(sent.took_s)}"
        if outcome.message:
            return warning(
                check, f"{text}, and says: {outcome.message}", "see what the collector wants"
            )
        return ok(check, text)
    program = (
        f", from {sent.answer.program}" if sent.answer is not None and sent.answer.program else ""
    )
    refused = sent.answer is None and "refused" in outcome.reason.lower()
    down = " is down" if refused and not _by_proxy(endpoint, env) else ""
    text = f"{endpoint.shown}{_by_proxy(endpoint, env)}{down}: {outcome.reason}{program}"
    return wrong(check, text, _todo(signal, endpoint, outcome, sent.answer, env))


def _todo(
    signal: Signal,
    endpoint: Endpoint,
    outcome: Outcome,
    answer: Answer | None,
    env: Mapping[str, str],
) -> str:
    assert not isinstance(outcome, Delivered)
    reason = outcome.reason.lower()
    status = answer.status if answer is not None else 0
    if status == 0 and _by_proxy(endpoint, env):
        return _waits(
            f"see that the proxy is well, or set no_proxy={urlsplit(endpoint.url).hostname} to go without it"
        )
    if any(word in reason for word in _UNRESOLVED):
        return _waits("see whether the host name in OTEL_EXPORTER_OTLP_ENDPOINT is right")
    if "refused" in reason and status == 0:
        start = (
            "start the collector (`spanbus stack up`, or `spanbus up`)"
            if on_loopback(endpoint.url)
            else "start the collector"
        )
        return _waits(f"{start}, or set OTEL_EXPORTER_OTLP_ENDPOINT to where it listens")
    twice = _once(endpoint, signal) if endpoint.protocol != "grpc" and status >= 400 else None
    if twice is not None and _takes(twice, signal, env):
        return _answers_at(twice, signal)
    if status in (401, 403) or reason.startswith(_DENIED):
        return (
            "set OTEL_EXPORTER_OTLP_HEADERS to what it wants, such as authorization=Bearer%20TOKEN"
        )
    if any(word in reason for word in _MISNAMED):
        return "set OTEL_EXPORTER_OTLP_ENDPOINT to a name that its certificate has"
    if any(word in reason for word in _UNTRUSTED):
        return "set OTEL_EXPORTER_OTLP_CERTIFICATE to a PEM file with the CA that signed it"
    other = _other_way(signal, endpoint, env) if status == 0 or status >= 400 else None
    if other is not None:
        return other
    if endpoint.protocol != "grpc" and status in (404, 405):
        longer = _longer(endpoint, signal)
        if longer is not None and _takes(longer, signal, env):
            return _answers_at(longer, signal)
        return "another program may have this port, or the path is wrong: OTEL_EXPORTER_OTLP_ENDPOINT is the part before /v1/traces"
    if 300 <= status < 400:
        return "set OTEL_EXPORTER_OTLP_ENDPOINT to where it leads"
    if "wrong_version_number" in reason:
        return _waits(
            "what answers there speaks no TLS: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://, or see what program it is"
        )
    if isinstance(outcome, Retry):
        return _waits("see the collector's log")
    return "see the collector's log; what it refuses is kept in the state directory, folder refused"


def _by_proxy(endpoint: Endpoint, env: Mapping[str, str]) -> str:
    """Return the part of a message that names the proxy, if one is used."""
    proxy = None if endpoint.protocol == "grpc" else proxy_for(endpoint.url, env)
    return f" through the proxy {shown_url(proxy)}" if proxy is not None else ""


def _waits(text: str) -> str:
    return f"{text}; until then everything waits in the spool"


def _other_way(signal: Signal, endpoint: Endpoint, env: Mapping[str, str]) -> str | None:
    """Return advice if the port speaks the other protocol, or needs TLS or no TLS."""
    if endpoint.url.startswith("unix:"):
        return None
    swapped, scheme = ("http", "https") if endpoint.url.startswith("https:") else ("https", "http")
    turned = endpoint._replace(
        url=endpoint.url.replace(f"{scheme}:", f"{swapped}:", 1),
        insecure=swapped == "http",
    )
    protocol: Protocol
    protocol, speaks, here = (
        ("http/protobuf", "HTTP", "gRPC (4317)")
        if endpoint.protocol == "grpc"
        else ("grpc", "gRPC", "HTTP (4318)")
    )
    wants = "TLS" if swapped == "https" else "no TLS"
    tls = f"begin OTEL_EXPORTER_OTLP_ENDPOINT with {swapped}://"
    if _takes(_over(endpoint, protocol, signal), signal, env):
        return f"this port speaks {speaks}: set OTEL_EXPORTER_OTLP_PROTOCOL={protocol}, or take the port for {here}"
    if _takes(turned, signal, env):
        return f"this port wants {wants}: {tls}"
    if _takes(_over(turned, protocol, signal), signal, env):
        return f"this port speaks {speaks} and wants {wants}: set OTEL_EXPORTER_OTLP_PROTOCOL={protocol} and {tls}"
    return None


def _over(endpoint: Endpoint, protocol: Protocol, signal: Signal) -> Endpoint:
    """Return the endpoint with the same host and port and another protocol."""
    parts = urlsplit(endpoint.url)
    return endpoint._replace(
        protocol=protocol,
        url=urlunsplit(
            (parts.scheme, parts.netloc, "" if protocol == "grpc" else f"/v1/{signal}", "", "")
        ),
        compression="none",
    )


def _answers_at(endpoint: Endpoint, signal: Signal) -> str:
    return f"it answers at {endpoint.shown}: OTEL_EXPORTER_OTLP_ENDPOINT is the part before /v1/{signal}, OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT the whole"


def _longer(endpoint: Endpoint, signal: Signal) -> Endpoint | None:
    """Return the endpoint with the signal's path appended, or None if it has one."""
    parts = urlsplit(endpoint.url)
    if parts.path.endswith(f"/v1/{signal}"):
        return None
    return endpoint._replace(
        url=urlunsplit(
            (parts.scheme, parts.netloc, parts.path.rstrip("/") + f"/v1/{signal}", parts.query, "")
        ),
    )


def _once(endpoint: Endpoint, signal: Signal) -> Endpoint | None:
    """Return the endpoint without a duplicated signal path, as in ``/v1/traces/v1/logs``, or None if there is none."""
    parts = urlsplit(endpoint.url)
    before = parts.path.removesuffix(f"/v1/{signal}")
    for each in OTLP_SIGNALS:
        if before != parts.path and before.endswith(f"/v1/{each}"):
            return endpoint._replace(
                url=urlunsplit(
                    (
                        parts.scheme,
                        parts.netloc,
                        before.removesuffix(f"/v1/{each}") + f"/v1/{signal}",
                        parts.query,
                        "",
                    )
                ),
            )
    return None


def _takes(endpoint: Endpoint, signal: Signal, env: Mapping[str, str]) -> bool:
    """Whether the endpoint accepts an empty request, or would if its certificate were trusted."""
    if urlsplit(endpoint.url).port is None and endpoint.protocol == "grpc":
        return False
    try:
        sent = send(endpoint, signal, b"", env, _LOOK_S)
    except SettingsError:
        return False
    return sent.otlp or (
        isinstance(sent.outcome, Retry)
        and any(word in sent.outcome.reason.lower() for word in _UNTRUSTED)
    )


def identify_listener(url: str, env: Mapping[str, str]) -> Sent:
    """Send an empty request to a default address that is not configured."""
    return send(
        Endpoint(f"{url}/v1/traces"), Signal.TRACES, b"", {} if on_loopback(url) else env, _LOOK_S
    )
