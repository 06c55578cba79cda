"""Large answers: traces are sent in pieces, concurrent scrapes share an answer."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from command_line import Cli
from embedded import Up
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from spanbus._backend import trace_answers
from spanbus._backend.app import Backend
from spanbus._runs import jaeger
from spanbus._store.series import Series, SeriesSource
from spanbus._store.store import Store

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def spans(count: int, chars: int = 10, services: int = 1) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for service in range(services):
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = f"s{service}"
        scope = group.scope_spans.add()
        for at in range(service, count, services):
            span = scope.spans.add(
                trace_id=b"\2" * 16,
                span_id=(at + 1).to_bytes(8, "big"),
                parent_span_id=at.to_bytes(8, "big") if at else b"",
                name=f"n{at}",
                start_time_unix_nano=10**18 + at,
                end_time_unix_nano=10**18 + 10**9,
            )
            span.attributes.add(key="text").value.string_value = "x" * chars
    return request


def jaeger_trace(trace_id: str, groups: Iterable[ResourceSpans]) -> jaeger.Document:
    """Document of a whole trace with its processes."""
    processes: dict[str, jaeger.Document] = {}
    keys: dict[bytes, str] = {}
    found: list[jaeger.Document] = []
    for group in groups:
        identity = group.resource.SerializeToString(deterministic=True)
        key = keys.get(identity)
        if key is None:
            key = keys[identity] = f"p{len(keys) + 1}"
            processes[key] = jaeger.process(group.resource)
        found.extend(jaeger.spans(group, key))
    return {
        "traceID": jaeger.short(trace_id),
        "spans": found,
        "processes": processes,
        "warnings": None,
    }


def test_the_pieces_of_a_trace_are_the_whole_trace(tmp_path: Path) -> None:
    trace_id = "02" * 16
    with Store.open(tmp_path / "store.sqlite3") as store:
        store.ingest_traces(spans(300, 100, services=3).SerializeToString())
        whole = store.trace(trace_id)
        pieces = list(store.trace_pieces(trace_id, 4_096))
        assert len(pieces) > 5
        read = [
            span for groups in pieces for group in groups for span in group.scope_spans[0].spans
        ]
        assert sorted(span.span_id for span in read) == sorted(
            span.span_id for group in whole for span in group.scope_spans[0].spans
        )
        starts = [span.start_time_unix_nano for span in read]
        assert max(starts[:100]) < min(starts[-100:])
        text = "".join(
            trace_answers.older([(trace_id, store.trace_pieces(trace_id))], lambda: None)
        )
        assert json.loads(text) == jaeger.envelope([jaeger_trace(trace_id, whole)])
        assert list(store.trace_pieces("03" * 16)) == []


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(Cli(tmp_path_factory.mktemp("up")))
    yield one
    one.stop()


def ask(
    url: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_a_large_trace_is_sent_in_pieces(up: Up) -> None:
    body = spans(600, 2_000).SerializeToString()
    assert ask(up.url, "/v1/traces", body, PROTOBUF)[0].status == 200
    trace_id = "02" * 16
    for path in (
        f"/api/traces/{trace_id}",
        "/api/traces?service=s0",
        f"/api/traces?traceID={trace_id}",
    ):
        answer, text = ask(up.url, path)
        assert answer.getheader("Transfer-Encoding") == "chunked"  # its length was not known
        document = json.loads(text)
        assert list(document) == ["data", "total", "limit", "offset", "errors"]
        (trace,) = document["data"]
        assert len(trace["spans"]) == 600
        assert trace["processes"]["p1"]["serviceName"] == "s0"
    newer = json.loads(ask(up.url, f"/api/v3/traces/{trace_id}")[1])
    assert (
        sum(
            len(scope["spans"])
            for group in newer["result"]["resourceSpans"]
            for scope in group["scopeSpans"]
        )
        == 600
    )


def test_a_trace_id_repeated_in_a_query_is_answered_once(up: Up) -> None:
    ask(up.url, "/v1/traces", spans(3).SerializeToString(), PROTOBUF)
    query = "&".join([f"traceID={'02' * 16}"] * 300)
    document = json.loads(ask(up.url, f"/api/traces?{query}&traceID=77")[1])
    assert len(document["data"]) == 1
    assert document["errors"] == [{"msg": "trace not found", "traceID": "0" * 14 + "77"}]


def test_a_record_that_is_too_large_is_left_out_with_a_note(up: Up) -> None:
    request = spans(3)
    large = request.resource_spans[0].scope_spans[0].spans[1]
    large.attributes[0].value.string_value = "x" * (3 << 20)
    answer, body = ask(up.url, "/v1/traces", request.SerializeToString(), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(body).partial_success
    assert (answer.status, partial.rejected_spans) == (200, 1)
    assert "2 MiB" in partial.error_message

    logs = ExportLogsServiceRequest()
    scope = logs.resource_logs.add().scope_logs.add()
    scope.log_records.add().body.string_value = "x" * (3 << 20)
    scope.log_records.add().body.string_value = "x"
    answer, body = ask(up.url, "/v1/logs", logs.SerializeToString(), PROTOBUF)
    rejected = ExportLogsServiceResponse.FromString(body).partial_success.rejected_log_records
    assert (answer.status, rejected) == (200, 1)


class Served(Protocol):
    """The served backend of the fixture."""

    backend: Backend

    @property
    def archive(self) -> SeriesSource: ...

    def ask(self, path: str) -> tuple[int, object, bytes]: ...


def test_concurrent_scrapes_share_one_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gate = list[int](), threading.Event()
    before = served.archive.metric_series

    def counted() -> Iterable[Series]:
        asked.append(1)
        assert gate.wait(30)
        return before()

    monkeypatch.setattr(served.archive, "metric_series", counted)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(served.ask("/metrics")[0]))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    while served.backend.scrapes.waiting < 29:
        threading.Event().wait(0.01)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 30
    assert len(asked) <= 2
