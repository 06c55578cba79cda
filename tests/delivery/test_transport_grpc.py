"""OTLP/gRPC against a real server: the outcome of every status code."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sleeping import slept_s

from spanbus._delivery.endpoints import endpoints
from spanbus._delivery.grpc_transport import GrpcTransport
from spanbus._delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge
from spanbus._otlp.signals import OTLP_SIGNALS, Signal
from spanbus.testing import Answer, GrpcReceiver, Receiver, black_hole


def body(count: int = 1) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(count):
        scope.spans.add(name=f"span {number}", trace_id=bytes(15) + b"\1", span_id=bytes(7) + b"\1")
    return request.SerializeToString()


@contextmanager
def transport_to(
    url: str, signal: Signal = Signal.TRACES, **variables: str
) -> Generator[GrpcTransport]:
    env = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    env.update({f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})
    transport = GrpcTransport(endpoints(env, signal), signal)
    try:
        yield transport
    finally:
        transport.close()


def send_once(answer: Answer) -> Outcome:
    with GrpcReceiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(answer)
        return transport.send(body(), 5.0)


def test_bytes_arrive_unchanged() -> None:
    with (
        GrpcReceiver() as receiver,
        transport_to(receiver.url, HEADERS="x-tenant=a%20b") as transport,
    ):
        assert transport.send(body(3), 5.0) == Delivered()
        (request,) = receiver.requests
        assert (request.body, request.signal, request.headers["x-tenant"]) == (
            body(3),
            "traces",
            "a b",
        )
        assert request.headers["user-agent"].startswith("spanbus/")


@pytest.mark.parametrize("signal", OTLP_SIGNALS)
def test_each_signal_has_its_service(signal: Signal) -> None:
    with GrpcReceiver() as receiver, transport_to(receiver.url, signal) as transport:
        assert transport.send(ExportMetricsServiceRequest().SerializeToString(), 5.0) == Delivered()
        assert receiver.requests[0].signal == signal


def test_compressed() -> None:
    with GrpcReceiver() as receiver, transport_to(receiver.url, COMPRESSION="gzip") as transport:
        assert transport.send(body(100), 5.0) == Delivered()
        assert receiver.requests[0].body == body(100)


def test_partial_success() -> None:
    assert send_once(Answer(rejected=3, message="late")) == Delivered(3, "late")


@pytest.mark.parametrize("code", [7, 16, 1, 4, 10, 11, 14, 15])
def test_codes_that_are_retried_without_limit(code: int) -> None:
    outcome = send_once(Answer(code, "later"))
    assert isinstance(outcome, Retry)
    assert outcome.attempts is None
    assert "later" in outcome.reason


@pytest.mark.parametrize("code", [2, 8, 13])
def test_codes_that_are_retried_a_few_times(code: int) -> None:
    outcome = send_once(Answer(code, "hm"))
    assert isinstance(outcome, Retry)
    assert (outcome.attempts, outcome.body) == (5, body())


@pytest.mark.parametrize("code", [3, 5, 12])
def test_codes_that_are_refusals(code: int) -> None:
    outcome = send_once(Answer(code, "no"))
    assert isinstance(outcome, Refused)
    assert outcome.body == body()
    assert outcome.reason.endswith(": no")


@pytest.mark.parametrize("code", [8, 14])
def test_the_time_to_wait_is_read_from_the_details(code: int) -> None:
    outcome = send_once(Answer(code, "busy", retry_after_s=2.5))
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.attempts) == (2.5, None)


def test_a_message_above_the_servers_limit_is_too_large() -> None:
    with GrpcReceiver() as receiver, transport_to(receiver.url) as transport:
        outcome = transport.send(bytes(5 * 1024 * 1024), 5.0)
        assert isinstance(outcome, TooLarge)


def test_a_closed_port_is_retried_until_it_is_open() -> None:
    with Receiver(listening=False) as closed:
        port = closed.port
    with transport_to(f"http://127.0.0.1:{port}") as transport:
        assert isinstance(transport.send(body(), 5.0), Retry)
        receiver = GrpcReceiver(port=port)
        with receiver:
            deadline = time.monotonic() + 10
            while (outcome := transport.send(body(), 5.0)) != Delivered():
                assert time.monotonic() < deadline, outcome


def test_without_an_answer_the_timeout_is_kept() -> None:
    with GrpcReceiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(Answer.hang())
        start = slept_s()
        assert isinstance(transport.send(body(), 0.3), Retry)
        assert slept_s() - start < 2


def test_at_a_black_hole_the_timeout_is_kept() -> None:
    with black_hole() as url, transport_to(url) as transport:
        start = slept_s()
        assert isinstance(transport.send(body(), 0.3), Retry)
        assert slept_s() - start < 2


def test_interrupt_ends_a_hanging_request() -> None:
    with GrpcReceiver() as receiver, transport_to(receiver.url) as transport:
        receiver.answer(Answer.hang())
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(transport.send(body(), 30.0)))
        thread.start()
        assert receiver.wait_for(requests=1)
        transport.interrupt()
        thread.join(5)
        assert not thread.is_alive()
        assert isinstance(outcomes[0], Retry)


def test_grpc_is_not_imported_unless_chosen() -> None:
    code = "import sys, spanbus._delivery.sender, spanbus._delivery.transport; sys.exit('grpc' in sys.modules or 'urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_handshake_that_fails_writes_nothing_to_stderr_and_children_inherit_nothing(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys\n"
        "from spanbus._delivery.endpoints import Endpoint\nfrom spanbus._delivery.grpc_transport import GrpcTransport\nfrom spanbus._otlp.signals import OTLP_SIGNALS, Signal\n"
        "transport = GrpcTransport(Endpoint(sys.argv[1], 'grpc'), Signal.TRACES)\n"
        "print(type(transport.send(b'', 5.0)).__name__, 'GRPC_VERBOSITY' in os.environ)\ntransport.close()\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    with GrpcReceiver() as receiver:
        url = receiver.url.replace("http:", "https:")
        done = subprocess.run(
            [sys.executable, "-c", code, url],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.stdout, done.stderr) == ("Retry False\n", "")
