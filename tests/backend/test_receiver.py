"""The OTLP/HTTP receiver: every answer of the protocol, and arbitrary bytes."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from thorough import examples

from spanbus._backend.receiver import Receiver, ReceiverLimits
from spanbus.errors import StoreError

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


class Kept:
    """A sink that records requests, and can fail or block."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.refuse: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def _keep(self, signal: str, body: bytes) -> None:
        self.entered.set()
        self.gate.wait(20)
        if self.refuse is not None:
            raise self.refuse
        self.bodies.append((signal, body))

    def ingest_traces(self, body: bytes) -> None:
        self._keep("traces", body)

    def ingest_metrics(self, body: bytes) -> None:
        self._keep("metrics", body)

    def ingest_logs(self, body: bytes) -> None:
        self._keep("logs", body)


class Served:
    """A receiver on a real socket."""

    def __init__(self, port: int, sink: Kept, receiver: Receiver) -> None:
        self.port, self.sink, self.receiver = port, sink, receiver

    def post(
        self, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@contextmanager
def serving(limits: ReceiverLimits | None = None, sink: Kept | None = None) -> Generator[Served]:
    sink = sink or Kept()
    receiver = Receiver(sink, limits)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=receiver.routes()), log_config=None, http="h11", lifespan="off"
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Served(listener.getsockname()[1], sink, receiver)
    finally:
        sink.gate.set()
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.sink.bodies.clear()
    shared.sink.refuse = None
    return shared


def request_of(*spans: tuple[bytes, bytes]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for trace_id, span_id in spans:
        scope.spans.add(
            trace_id=trace_id,
            span_id=span_id,
            name="work",
            start_time_unix_nano=1,
            end_time_unix_nano=2,
        )
    return request


GOOD = (b"\x01" * 16, b"\x02" * 8)


def test_protobuf_reaches_the_sink_unchanged(served: Served) -> None:
    body = request_of(GOOD).SerializeToString()
    status, headers, answer = served.post("/v1/traces", body, PROTOBUF)
    assert (status, headers["Content-Type"]) == (200, "application/x-protobuf")
    assert not ExportTraceServiceResponse.FromString(answer).HasField("partial_success")
    assert served.sink.bodies == [("traces", body)]


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies_are_unpacked(served: Served, encoding: str, packed: object) -> None:
    body = request_of(GOOD).SerializeToString()
    assert callable(packed)
    assert (
        served.post("/v1/traces", packed(body), {**PROTOBUF, "Content-Encoding": encoding})[0]
        == 200
    )
    assert served.sink.bodies == [("traces", body)]


def test_json_with_hexadecimal_ids_becomes_the_same_spans(served: Served) -> None:
    link = {"traceId": "aa" * 16, "spanId": "bb" * 8}
    span = {
        "traceId": "01" * 16,
        "spanId": "02" * 8,
        "parentSpanId": "03" * 8,
        "name": "työ",
        "kind": 2,
        "startTimeUnixNano": "17",
        "endTimeUnixNano": 18,
        "links": [link],
        "status": {"code": 2},
        "fieldOfTheFuture": [1],
        "attributes": [{"key": "n", "value": {"intValue": "9007199254740993"}}],
    }
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    status, headers, answer = served.post(
        "/v1/traces",
        json.dumps(document).encode(),
        {"Content-Type": "application/json; charset=utf-8"},
    )
    assert (status, headers["Content-Type"], json.loads(answer)) == (200, "application/json", {})
    stored = (
        ExportTraceServiceRequest.FromString(served.sink.bodies[0][1])
        .resource_spans[0]
        .scope_spans[0]
        .spans[0]
    )
    assert (stored.trace_id, stored.span_id, stored.parent_span_id) == (
        b"\x01" * 16,
        b"\x02" * 8,
        b"\x03" * 8,
    )
    assert (stored.links[0].trace_id, stored.name, stored.kind, stored.status.code) == (
        b"\xaa" * 16,
        "työ",
        2,
        2,
    )
    assert stored.attributes[0].value.int_value == 9007199254740993


def test_spans_without_valid_ids_are_a_partial_success(served: Served) -> None:
    body = request_of(
        (b"short", b"\x02" * 8), GOOD, (bytes(16), b"\x02" * 8), (b"\x01" * 16, b"")
    ).SerializeToString()
    status, _, answer = served.post("/v1/traces", body, PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert (status, partial.rejected_spans) == (200, 3)
    assert "trace id" in partial.error_message
    assert ExportTraceServiceRequest.FromString(served.sink.bodies[0][1]) == request_of(GOOD)


def test_a_partial_success_in_json_is_json(served: Served) -> None:
    document = {
        "resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "01", "spanId": "02" * 8}]}]}]
    }
    status, _, answer = served.post("/v1/traces", json.dumps(document).encode(), JSON)
    assert status == 200
    assert json.loads(answer)["partialSuccess"]["rejectedSpans"] == "1"


def test_summaries_are_a_partial_success(served: Served) -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="old").summary.data_points.add(count=1)
    metrics.add(name="new").gauge.data_points.add(as_int=1)
    status, _, answer = served.post("/v1/metrics", request.SerializeToString(), PROTOBUF)
    assert status == 200
    assert b"summaries" in answer


def test_an_empty_request_is_a_success(served: Served) -> None:
    for path in ("/v1/traces", "/v1/metrics", "/v1/logs"):
        assert served.post(path, b"", PROTOBUF)[0] == 200
    assert served.sink.bodies == []


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 415),
        ({"Content-Type": "text/plain"}, b"", 415),
        ({**PROTOBUF, "Content-Encoding": "br"}, b"x", 415),
        ({**PROTOBUF, "Content-Encoding": "gzip"}, b"not gzip", 400),
        ({**PROTOBUF, "Content-Encoding": "gzip"}, gzip.compress(b"abc" * 1000, mtime=0)[:-9], 400),
        ({**PROTOBUF, "Content-Encoding": "gzip"}, gzip.compress(b"", mtime=0) + b"more", 400),
        (PROTOBUF, b"\xff\xff\xff\xff", 400),
        (JSON, b"{", 400),
        (JSON, b"[]", 400),
        (JSON, b'"resourceSpans"', 400),
        (JSON, b'{"resourceSpans": 5}', 400),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}', 400),
        (JSON, b"[" * 100_000, 400),
        (JSON, b'{"resourceSpans":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
        (
            JSON,
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":1e400}]}]}]}',
            400,
        ),
        (JSON, b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":-1}]}]}]}', 400),
        (JSON, b"\xff\xfe", 400),
    ],
)
def test_requests_that_can_never_be_stored_are_refused(
    served: Served, headers: dict[str, str], body: bytes, status: int
) -> None:
    found, answered, text = served.post("/v1/traces", body, headers)
    assert found == status
    assert answered["Retry-After"] is None
    if answered["Content-Type"] == "application/x-protobuf":
        assert Status.FromString(text).message
    else:
        assert json.loads(text)["message"]
    assert served.sink.bodies == []


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        (
            JSON,
            b"",
            "the body is empty; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf",
        ),
        (
            JSON,
            b'{"a":\n }',
            "the body is not JSON from line 2, column 2 on; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf",
        ),
        (
            JSON,
            b"\xff\xfe\x00",
            "the body is not UTF-8; send OTLP as JSON, or as protobuf with Content-Type: application/x-protobuf",
        ),
        (
            JSON,
            b'{"a":' + b"1" * 5_000 + b"}",
            "a number in the JSON document has too many digits; send a string for a 64-bit integer",
        ),
        (JSON, b"[]", "the JSON document is not an object; send an ExportTraceServiceRequest"),
        (
            JSON,
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"Failed to parse x field: soon"}]}]}]}',
            (
                "resourceSpans.scopeSpans.spans.startTimeUnixNano has a value that OTLP does not have there; "
                "compare it with the encoding at https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding"
            ),
        ),
        (
            PROTOBUF,
            b'{"resourceSpans":[]}',
            "the body is not an ExportTraceServiceRequest in protobuf; JSON needs Content-Type: application/json, and each signal has its own path",
        ),
    ],
)
def test_a_refusal_has_a_message_for_the_sender(
    served: Served, headers: dict[str, str], body: bytes, said: str
) -> None:
    status, _, answer = served.post("/v1/traces", body, headers)
    assert status == 400
    assert (
        json.loads(answer)["message"] if headers is JSON else Status.FromString(answer).message
    ) == said


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 104857600\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_large_chunked_body_is_refused_while_it_is_read() -> None:
    with (
        serving(ReceiverLimits(body_bytes=100_000)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as client,
    ):
        client.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
        client.sendall(chunk * 4)
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_compression_bomb_is_refused_within_bounded_memory() -> None:
    limits = ReceiverLimits(unpacked_bytes=1 << 20)
    with serving(limits) as served:
        bomb = gzip.compress(bytes(50 << 20))
        assert served.post("/v1/traces", bomb, {**PROTOBUF, "Content-Encoding": "gzip"})[0] == 413
        assert served.receiver.statistics().in_flight_bytes == 0


def test_too_many_bytes_in_flight_are_a_503_with_retry_after() -> None:
    body = request_of(*[(b"\x01" * 16, bytes([n + 1] * 8)) for n in range(200)]).SerializeToString()
    with serving(ReceiverLimits(in_flight_bytes=len(body) + 10)) as served:
        served.sink.gate.clear()
        first = threading.Thread(target=served.post, args=("/v1/traces", body, PROTOBUF))
        first.start()
        assert served.sink.entered.wait(20)
        status, headers, _ = served.post("/v1/traces", body, PROTOBUF)
        assert (status, headers["Retry-After"]) == (429, "1")
        served.sink.gate.set()
        first.join(20)
        assert served.post("/v1/traces", body, PROTOBUF)[0] == 200
        assert served.receiver.statistics().busy == 1


def test_a_body_that_never_arrives_is_a_408() -> None:
    with (
        serving(ReceiverLimits(body_time_s=0.2)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as client,
    ):
        client.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 10\r\n\r\nabc"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("error", [StoreError("the disk is full"), RuntimeError("surprise")])
def test_a_store_that_fails_is_a_503_with_retry_after(served: Served, error: Exception) -> None:
    served.sink.refuse = error
    status, headers, answer = served.post(
        "/v1/traces", request_of(GOOD).SerializeToString(), PROTOBUF
    )
    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"surprise" not in answer


def test_a_failing_store_and_its_recovery_are_logged_once(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    body = request_of(GOOD).SerializeToString()
    assert served.post("/v1/traces", body, PROTOBUF)[0] == 200
    caplog.clear()
    with caplog.at_level("WARNING"):
        served.sink.refuse = StoreError("the disk is full")
        assert [served.post("/v1/traces", body, PROTOBUF)[0] for _ in range(5)] == [503] * 5
        served.sink.refuse = None
        assert [served.post("/v1/traces", body, PROTOBUF)[0] for _ in range(2)] == [200, 200]
    assert [record.message for record in caplog.records] == [
        "spanbus: what is sent here is not stored: the disk is full", "spanbus: what is sent here is stored again",
    ]  # fmt: skip


def test_other_methods_are_not_allowed(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", "/v1/traces")
    assert connection.getresponse().status == 405
    connection.close()


def test_requests_of_concurrent_clients_are_all_stored(served: Served) -> None:
    def client(number: int) -> None:
        for at in range(20):
            served.post(
                "/v1/traces",
                request_of((bytes([number + 1] * 16), bytes([at + 1] * 8))).SerializeToString(),
                PROTOBUF,
            )

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({body for _, body in served.sink.bodies}) == 160


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.binary(max_size=400),
    path=st.sampled_from(["/v1/traces", "/v1/metrics", "/v1/logs"]),
    as_json=st.booleans(),
    encoding=st.sampled_from(["", "gzip", "deflate", "identity"]),
)
def test_any_bytes_get_an_answer_below_500(
    served: Served, body: bytes, path: str, as_json: bool, encoding: str
) -> None:
    headers = dict(JSON if as_json else PROTOBUF)
    if encoding:
        headers["Content-Encoding"] = encoding
    assert served.post(path, body, headers)[0] < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "resourceSpans",
                    "scopeSpans",
                    "spans",
                    "traceId",
                    "spanId",
                    "attributes",
                    "key",
                    "value",
                    "stringValue",
                    "intValue",
                    "events",
                    "kind",
                    "status",
                    "code",
                    "resource",
                    "startTimeUnixNano",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    document=st.dictionaries(
        st.sampled_from(["resourceSpans", "resourceMetrics", "resourceLogs"]), json_values
    )
)
def test_any_json_gets_an_answer_below_500(served: Served, document: dict[str, object]) -> None:
    assert served.post("/v1/traces", json.dumps(document).encode(), JSON)[0] < 500


class Decoded(Kept):
    """A sink that takes decoded requests."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, bytes, object]] = []

    def ingest_decoded(self, signal: str, body: bytes, request: object) -> object:
        self.taken.append((signal, body, request))
        return None


def test_a_request_is_decoded_once() -> None:
    sink = Decoded()
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="good")
    span.trace_id, span.span_id = b"t" * 16, b"s" * 8
    whole = request.SerializeToString()
    request.resource_spans[0].scope_spans[0].spans.add(name="bad")
    with serving(sink=sink) as served:
        assert served.post("/v1/traces", whole, PROTOBUF)[0] == 200
        assert served.post("/v1/traces", request.SerializeToString(), PROTOBUF)[0] == 200
        assert served.post("/v1/metrics", b"\n\0", PROTOBUF)[0] == 200
    assert sink.bodies == []
    assert [signal for signal, _, _ in sink.taken] == ["traces", "traces"]
    for (
        _,
        body,
        taken,
    ) in sink.taken:  # what is decoded and the bytes are the same, without what is no span
        assert isinstance(taken, ExportTraceServiceRequest)
        assert body == whole == taken.SerializeToString()
