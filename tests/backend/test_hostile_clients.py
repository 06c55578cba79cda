"""`spanbus up` with its real store, and clients that send arbitrary or malicious data."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest
from command_line import Cli
from embedded import Up
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from thorough import examples
from websockets.sync.client import connect

TOKEN = "the-token"
MANY = settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))

PATHS = (
    "/", "/login", "/page/app.js", "/page/..%2f..%2fapp.py", "/health", "/metrics", "/live", "/live/publish", "/view/runs", "/view/runs/last", "/view/runs/x/spans/y",
    "/view/phases", "/view/traces", "/view/traces/1", "/view/traces/1/spans/2", "/api/services", "/api/services/x/operations", "/api/operations", "/api/traces",
    "/api/traces/1", "/api/dependencies", "/api/metrics/calls", "/api/v3/services", "/api/v3/operations", "/api/v3/traces", "/api/v3/traces/1", "/v1/traces",
    "/v1/metrics", "/v1/logs", "/nothing",
)  # fmt: skip
NAMES = (
    "service", "operation", "spanKind", "limit", "offset", "since", "start", "end", "endTs", "lookback", "minDuration", "maxDuration", "tag", "tags", "traceID", "q", "workflow",
    "result", "after", "epoch", "query.service_name", "query.start_time_min", "query.start_time_max", "query.num_traces", "query.duration_min", "query.attributes",
)  # fmt: skip


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(Cli(tmp_path_factory.mktemp("up")), "--token", TOKEN)
    memory = psutil.Process(one.process.pid)
    before = memory.memory_info().rss
    yield one
    assert one.process.poll() is None
    assert memory.memory_info().rss - before < 300 * 2**20
    one.stop()


def port(up: Up) -> int:
    return int(up.url.rpartition(":")[2])


def ask(
    up: Up,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port(up), timeout=20)
    try:
        connection.request(
            method, path, body, {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def alive(up: Up) -> None:
    assert ask(up, "/health")[0] == 200


# --- bytes ------------------------------------------------------------------------------------------------------------------

heads = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda method, path, name, value: f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{name}: ".encode() + value + b"\r\n\r\n",
        st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "HEAD", "CONNECT", "X"]), st.sampled_from(PATHS),
        st.sampled_from(["Cookie", "Origin", "Authorization", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Upgrade", "Range", "X"]), st.binary(max_size=60),
    ),
)  # fmt: skip


@MANY
@given(sent=heads)
def test_any_bytes_on_the_port_are_answered_below_500_or_not_at_all(up: Up, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port(up)), timeout=20) as client:
        with suppress(OSError):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        said = b""
        with suppress(OSError):
            while chunk := client.recv(65_536):
                said += chunk
    assert not said.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")) or said.startswith(
        b"HTTP/1.1 501"
    ), said[:200]
    alive(up)


@MANY
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]), path=st.sampled_from(PATHS), tail=st.text(max_size=20),
    query=st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), st.one_of(st.text(max_size=40), st.integers().map(str), st.just('{"a":"b"}')), max_size=4),
    body=st.binary(max_size=200),
)  # fmt: skip
def test_any_request_on_any_path_is_answered_below_500(
    up: Up, method: str, path: str, tail: str, query: dict[str, str], body: bytes
) -> None:
    asked = path + urllib.parse.quote(tail.encode("utf-8", "surrogatepass"))
    if query:
        asked += "?" + urllib.parse.urlencode(
            {
                key.encode("utf-8", "surrogatepass"): value.encode("utf-8", "surrogatepass")
                for key, value in query.items()
            }
        )
    status, _ = ask(up, asked, method, body if method in ("POST", "PUT", "PATCH") else None)
    assert status < 500 or status == 501, asked


# --- OTLP -------------------------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "spanbus.level",
            "run",
            "service.name",
            "cicd.pipeline.run.id",
            "le",
            "job",
            "\x00",
            "é\u202e",
            "a" * 5_000,
        ]
    ),
)
unsigned = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1]))
doubles = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 1e308]))


@st.composite
def attributes(draw: st.DrawFn, into: Message) -> None:
    for _ in range(draw(st.integers(0, 3))):
        pair = KeyValue(key=draw(texts))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            pair.value.string_value = draw(texts)
        elif kind == 1:
            pair.value.int_value = draw(st.integers(-(2**63), 2**63 - 1))
        elif kind == 2:
            pair.value.double_value = draw(doubles)
        elif kind == 3:
            pair.value.bytes_value = draw(st.binary(max_size=8))
        elif kind == 4:
            pair.value.kvlist_value.values.add(key=draw(texts)).value.bool_value = True
        elif kind == 5:
            pair.value.array_value.values.add().double_value = draw(doubles)
        into.attributes.append(pair)  # type: ignore[attr-defined]


@st.composite
def trace_requests(draw: st.DrawFn) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(schema_url=draw(texts))
    draw(attributes(group.resource))
    scope = group.scope_spans.add()
    scope.scope.name = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        span = scope.spans.add(
            trace_id=draw(st.sampled_from([b"", b"\0" * 16, b"t" * 16, b"u" * 16, b"x"])), span_id=draw(st.sampled_from([b"", b"a" * 8, b"b" * 8, b"\0" * 8])),
            parent_span_id=draw(st.sampled_from([b"", b"a" * 8, b"b" * 8, b"odd"])), name=draw(texts), kind=draw(st.integers(0, 9)),  # type: ignore[arg-type]
            start_time_unix_nano=draw(unsigned), end_time_unix_nano=draw(unsigned), trace_state=draw(texts),
        )  # fmt: skip
        draw(attributes(span))
        draw(attributes(span.events.add(time_unix_nano=draw(unsigned), name=draw(texts))))
        draw(attributes(span.links.add(trace_id=draw(st.binary(max_size=20)))))
        span.status.message, span.status.code = draw(texts), draw(st.integers(0, 5))  # type: ignore[assignment]
    return request.SerializeToString()


@st.composite
def metric_requests(draw: st.DrawFn) -> bytes:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    draw(attributes(group.resource))
    scope = group.scope_metrics.add()
    for _ in range(draw(st.integers(0, 3))):
        metric = scope.metrics.add(name=draw(texts), unit=draw(texts), description=draw(texts))
        kind = draw(
            st.sampled_from(["sum", "gauge", "histogram", "exponential_histogram", "summary"])
        )
        points = getattr(metric, kind)
        if kind in ("sum", "histogram", "exponential_histogram"):
            points.aggregation_temporality = draw(st.integers(0, 3))
        if kind == "sum":
            points.is_monotonic = draw(st.booleans())
        point = points.data_points.add(time_unix_nano=draw(unsigned))
        draw(attributes(point))
        if kind in ("sum", "gauge"):
            if draw(st.booleans()):
                point.as_double = draw(doubles)
            else:
                point.as_int = draw(st.integers(-(2**63), 2**63 - 1))
            point.exemplars.add(
                as_double=draw(doubles),
                trace_id=draw(st.binary(max_size=16)),
                time_unix_nano=draw(unsigned),
            )
        else:
            point.count, point.sum = draw(unsigned), draw(doubles)
        if kind == "histogram":
            point.explicit_bounds.extend(draw(st.lists(doubles, max_size=3)))
            point.bucket_counts.extend(draw(st.lists(unsigned, max_size=4)))
    return request.SerializeToString()


@st.composite
def log_requests(draw: st.DrawFn) -> bytes:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    draw(attributes(group.resource))
    record = group.scope_logs.add().log_records.add(
        time_unix_nano=draw(unsigned),
        trace_id=draw(st.binary(max_size=20)),
        severity_number=draw(st.integers(0, 99)),
    )  # type: ignore[arg-type]
    record.body.string_value = draw(texts)
    return request.SerializeToString()


@MANY
@given(
    sent=st.one_of(
        trace_requests().map(lambda body: ("traces", body)),
        metric_requests().map(lambda body: ("metrics", body)),
        log_requests().map(lambda body: ("logs", body)),
    )
)
def test_any_otlp_request_is_stored_or_refused_and_can_be_read(
    up: Up, sent: tuple[str, bytes]
) -> None:
    signal, body = sent
    status, said = ask(
        up, f"/v1/{signal}", "POST", body, {"Content-Type": "application/x-protobuf"}
    )
    assert status in (200, 400), said
    for path in (
        "/view/runs",
        "/view/traces",
        "/view/phases",
        "/api/services",
        f"/api/traces/{b't'.hex() * 16}",
        f"/api/v3/traces/{b'u'.hex() * 16}",
        f"/view/traces/{b't'.hex() * 16}",
    ):
        status, said = ask(up, path)
        assert status in (200, 404), (path, said)
        json.loads(said, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    if signal == "metrics":
        status, said = ask(up, "/metrics")
        assert status == 200
        assert list(prometheus(said.decode()))
        status, said = ask(
            up, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert status == 200
        assert list(openmetrics.text_string_to_metric_families(said.decode()))


# --- too much, too slow -----------------------------------------------------------------------------------------------------


def head_of(path: str, more: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\nAuthorization: Bearer {TOKEN}\r\n{more}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "path", ["/v1/traces", "/v1/metrics", "/v1/logs", "/live/publish", "/login"]
)
def test_a_body_of_100_megabytes_is_refused_before_it_is_sent(up: Up, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port(up)), timeout=5) as client:
        client.sendall(head_of(path, f"Content-Length: {100 << 20}") + b"x" * 1_000)
        said = client.recv(4_096)
    assert said.split()[1] in (b"413", b"400")


def test_a_body_without_an_announced_size_is_cut_off(up: Up) -> None:
    sent = 0
    chunk = b"100000\r\n" + b"\0" * (1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", port(up)), timeout=5) as client, suppress(OSError):
        client.sendall(head_of("/v1/traces", "Transfer-Encoding: chunked"))
        while sent < 200:
            client.sendall(chunk)
            sent += 1
    assert sent < 100
    alive(up)


def test_a_compression_bomb_costs_little_memory(up: Up) -> None:
    packer = zlib.compressobj(9, wbits=31)
    first, again = (
        packer.compress(b"\0" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    bomb = first + again * 1_999  # after a full flush a block can stand behind any other
    assert len(bomb) < 3 << 20
    assert len(zlib.decompressobj(wbits=31).decompress(first + again * 9)) == 10 << 20
    process = psutil.Process(up.process.pid)
    before = process.memory_info().rss
    status, _ = ask(
        up,
        "/v1/traces",
        "POST",
        bomb,
        {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
    )
    assert status == 413
    assert process.memory_info().rss - before < 150 * 2**20


def test_a_json_document_of_brackets_is_refused(up: Up) -> None:
    for body in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"resourceSpans":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ):
        assert ask(up, "/v1/traces", "POST", body, {"Content-Type": "application/json"})[0] == 400
        assert ask(up, "/live/publish", "POST", body)[0] == 400


@pytest.mark.slow
def test_clients_with_endless_requests_are_closed_and_others_are_served(up: Up) -> None:
    with ExitStack() as open_ones:
        silent = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", port(up)), timeout=30))
            for _ in range(150)
        ]
        half = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", port(up)), timeout=30))
            for _ in range(150)
        ]
        again = open_ones.enter_context(
            socket.create_connection(("127.0.0.1", port(up)), timeout=30)
        )
        again.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200" in again.recv(4_096)
        began = time.monotonic()
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.5):
                for client in (*half, again):
                    with suppress(OSError):
                        client.sendall(b"G" if time.monotonic() - began < 1 else b"E")

        dripping = threading.Thread(target=drip)
        dripping.start()
        alive(up)
        try:
            for client in (*silent, *half, again):
                with suppress(ConnectionError):
                    while client.recv(4_096):  # it fails where the connection stays open
                        pass
        finally:
            stop.set()
            dripping.join()
    alive(up)


@pytest.mark.slow
def test_an_idle_websocket_stays_open(up: Up) -> None:
    with connect(
        f"ws://127.0.0.1:{port(up)}/live", additional_headers={"Authorization": f"Bearer {TOKEN}"}
    ) as socket_:
        assert json.loads(socket_.recv(timeout=5))["type"] == "hello"
        with pytest.raises(TimeoutError):
            socket_.recv(timeout=12)
        body = {"v": 1, "source": "test", "messages": [{
            "type": "opened", "run_id": "r", "workflow": "w", "level": "run", "name": "w", "trace_id": "0" * 31 + "1", "span_id": "0" * 15 + "1", "parent_span_id": "",
            "attempt": 1, "attempts": 1, "started_at_us": 1,
        }]}  # fmt: skip
        assert ask(up, "/live/publish", "POST", json.dumps(body).encode())[0] == 204
        assert json.loads(socket_.recv(timeout=5))["type"] == "messages"


# --- strangers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}, {"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"},
    {"Origin": "http://evil.example", "Authorization": f"Bearer {TOKEN}"}, {"Origin": "null", "Authorization": f"Bearer {TOKEN}"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Authorization": f"Bearer {TOKEN}"},
], ids=["wrong token", "wrong password", "wrong host", "other origin", "null origin", "other site"])  # fmt: skip
def test_requests_without_a_token_get_no_data(up: Up, headers: dict[str, str]) -> None:
    def answer(asked: tuple[str, str]) -> tuple[int, bytes]:
        method, path = asked
        return ask(up, path, method, b"{}" if method == "POST" else None, headers)

    requests = [(method, path) for path in PATHS for method in ("GET", "POST")]
    with ThreadPoolExecutor(16) as several:  # whoever guesses waits a second for each answer
        answers = dict(zip(requests, several.map(answer, requests), strict=True))
    for (method, path), (status, body) in answers.items():
        if path == "/login" and headers["Authorization"] != f"Bearer {TOKEN}":
            assert status in (200, 401), (method, path)  # the form, to try again
            continue
        assert status in (401, 403), (method, path)
        assert len(body) < 200, (method, path)


def test_a_websocket_without_a_token_is_refused(up: Up) -> None:
    from websockets.exceptions import InvalidStatus

    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"},
        {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"},
    ):
        host = headers.pop("Host", None)
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(
                f"ws://{host or '127.0.0.1'}:{port(up)}/live",
                sock=socket.create_connection(("127.0.0.1", port(up))),
                additional_headers=headers,
            ),
        ):
            pass
        assert refused.value.response.status_code in (401, 403)


def test_a_gzip_request_is_accepted(up: Up) -> None:
    body = gzip.compress(ExportTraceServiceRequest().SerializeToString())
    assert (
        ask(
            up,
            "/v1/traces",
            "POST",
            body,
            {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
        )[0]
        == 200
    )
