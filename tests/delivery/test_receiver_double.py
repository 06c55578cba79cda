"""Tests of ``spanbus.testing.Receiver``, the collector of other tests, also with the SDK's own exporters."""

from __future__ import annotations

import http.client
import socket
import time

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from sleeping import slept_s

from spanbus.testing import Answer, GrpcReceiver, Received, Receiver, black_hole


def body(*names: str) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        scope.spans.add(name=name, trace_id=bytes(15) + b"\1", span_id=bytes(7) + b"\1")
    return request.SerializeToString()


def post(receiver: Receiver, content: bytes, timeout_s: float = 5.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/traces", content)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def names(receiver: Receiver) -> list[str]:
    return [span.name for span in receiver.spans()]


def test_records_what_the_stock_http_exporter_sends() -> None:
    with Receiver() as receiver:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(
            SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces"))
        )
        provider.get_tracer("t").start_span("one").end()
        provider.shutdown()
        assert receiver.wait_for(spans=1)
        assert names(receiver) == ["one"]


def test_records_what_the_stock_grpc_exporter_sends() -> None:
    with GrpcReceiver() as receiver:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(
            SimpleSpanProcessor(GrpcSpanExporter(receiver.url, insecure=True))
        )
        provider.get_tracer("t").start_span("one").end()
        provider.shutdown()
        assert [span.name for span in receiver.spans()] == ["one"]
        assert receiver.requests[0].signal == "traces"


def test_answer_next_is_used_once() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(503), Answer(400, "no"))
        assert [post(receiver, body(name))[0] for name in "abc"] == [503, 400, 200]
        assert names(receiver) == ["c"]


def test_partial_success_is_returned() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(rejected=2, message="too old"))
        _, content = post(receiver, body("a"))
        assert ExportTraceServiceResponse.FromString(content).partial_success.rejected_spans == 2


def test_a_body_above_the_limit_is_too_large() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(largest_bytes=100))
        assert post(receiver, body("a" * 200))[0] == 413
        assert post(receiver, body("a"))[0] == 200


def test_port_is_closed_until_up_then_closed_again() -> None:
    with Receiver(listening=False) as receiver:
        with pytest.raises(ConnectionRefusedError):
            post(receiver, body("a"))
        receiver.up()
        assert post(receiver, body("b"))[0] == 200
        receiver.down()
        with pytest.raises(ConnectionRefusedError):
            post(receiver, body("c"))
        receiver.up()
        assert post(receiver, body("d"))[0] == 200
        assert names(receiver) == ["b", "d"]


def test_reset_is_seen_as_a_reset() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer.reset())
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            post(receiver, body("a"))
        assert names(receiver) == []
        assert len(receiver.requests) == 1


def test_a_request_with_half_an_answer_is_not_taken() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(rejected=1, message="x" * 1000, how="half"))
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            post(receiver, body("a"))
        assert names(receiver) == []


@pytest.mark.parametrize("how", ["hang", "deaf"])
def test_an_answer_that_never_comes(how: str) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(how="hang" if how == "hang" else "deaf"))
        with pytest.raises(TimeoutError):
            post(receiver, body("a"), timeout_s=0.2)
    assert not receiver.spans()


def test_a_delayed_answer_is_delayed() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.2))
        start = time.monotonic()
        post(receiver, body("a"))
        assert time.monotonic() - start >= 0.2


def test_a_body_that_is_not_otlp_is_refused() -> None:
    with Receiver() as receiver:
        assert post(receiver, b"no protobuf")[0] == 400
        assert receiver.taken() == []


def test_keeps_connections_alive() -> None:
    with Receiver() as receiver:
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=5)
        for _ in range(3):
            connection.request("POST", "/v1/traces", body("a"))
            connection.getresponse().read()
        connection.close()
        assert receiver.connections_seen == 1
        assert len(receiver.spans()) == 3


def test_exit_does_not_wait_for_a_hanging_client() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer.hang())
        client = socket.create_connection(("127.0.0.1", receiver.port))
        client.sendall(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert receiver.wait_for(requests=1)
        start = slept_s()
    assert slept_s() - start < 2
    client.close()


def test_a_black_hole_accepts_no_connection() -> None:
    with black_hole() as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=0.3).close()


def test_wait_for_returns_false_after_the_timeout() -> None:
    with Receiver() as receiver:
        assert not receiver.wait_for(spans=1, timeout_s=0.05)


def test_the_signal_of_a_request_is_read_from_a_path_with_a_prefix() -> None:
    assert Received("/otlp/v1/logs?x=1", {}, b"", b"", 200, 0).signal == "logs"
