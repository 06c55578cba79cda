"""The API that the page of Jaeger 2.20 uses, served by `spanbus up`: its recorded requests, and the answers for a stored run."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from command_line import Cli
from embedded import Up, ask
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

WORKFLOW = """
[workflows.nightly]
phases = [
  { name = "build", run = "true" },
  { name = "tests", needs = ["build"], run = "sh -c 'echo 3 failed; exit 1'" },
]
"""
REQUESTS = (
    "/api/services",
    "/api/operations?service={service}&spanKind=server",
    "/api/v3/services",
    "/api/v3/operations?service={service}",
    "/api/services/{service}/operations",
    "/api/v3/trace-summaries?query.serviceName={service}&query.startTimeMin={start}&query.startTimeMax={end}&query.searchDepth=20",
    "/api/v3/trace-summaries?query.startTimeMin={start}&query.startTimeMax={end}&query.searchDepth=20",
    (
        "/api/v3/trace-summaries?query.serviceName={service}&query.operationName={operation}&query.startTimeMin={start}"
        "&query.startTimeMax={end}&query.searchDepth=20&query.durationMin=1us&query.durationMax=1h&query.attributes={attributes}"
    ),
    (  # as a page before 2.20 writes it
        "/api/v3/trace-summaries?query.service_name={service}&query.span_name={operation}&query.start_time_min={start}"
        "&query.start_time_max={end}&query.num_traces=20&query.duration_min=1us&query.duration_max=1h&query.attributes={attributes}"
    ),
    "/api/traces/{trace}",
    "/api/traces/{trace}?raw=true&prettyPrint=true",
    "/api/v3/traces/{trace}",
    "/api/dependencies?endTs={end_ms}&lookback=86400000",
    "/api/dependencies?endTs={end_ms}&lookback=604800000",
)
"""What the page asks while somebody looks at services, searches, opens a trace and the graph of dependencies; compared
with the clients in the page's source (packages/jaeger-ui/src/api: jaeger.ts, v3/client.ts).
"""

OLDER = {
    "serviceName": "service_name",
    "operationName": "operation_name",
    "startTimeMin": "start_time_min",
    "startTimeMax": "start_time_max",
    "searchDepth": "num_traces",
    "durationMin": "duration_min",
    "durationMax": "duration_max",
}
"""Parameters of a search by the names that Jaeger keeps for older clients."""

FAR_TRACE = f"{7:032x}"
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


class Stored:
    """`spanbus up` with a store of one run of `nightly` and a trace of another program."""

    def __init__(self, folder: Path) -> None:
        (folder / "spanbus.toml").write_text(WORKFLOW)
        self.cli = Cli(folder)
        self.started = datetime.now(UTC)
        assert self.cli("run", "nightly").code == 1
        self.ended = datetime.now(UTC)
        self.run: Any = self.cli("show", "last", "--json").json()
        self.up = Up(self.cli)
        request = urllib.request.Request(
            f"{self.up.url}/v1/traces", far_trace(), {"Content-Type": "application/x-protobuf"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def get(self, path: str, **query: object) -> Any:
        status, document = ask(self.up.url + path + (f"?{urlencode(query)}" if query else ""))
        assert status == 200, (path, document)
        return document

    def summaries(self, **query: object) -> list[Any]:
        said = {f"query.{name}": value for name, value in query.items()}
        found: list[Any] = self.get("/api/v3/trace-summaries", **said)["summaries"]
        return found

    def traces(self, **query: object) -> list[str]:
        return [each["traceId"] for each in self.summaries(**query)]


def far_trace() -> bytes:
    """Return a trace of 1.5 s: a checkout that calls a failing payment, and a consumer whose parent is missing."""
    request = ExportTraceServiceRequest()

    def add(
        service: str, number: int, parent: int, name: str, kind: int, start: int, end: int
    ) -> Span:
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = service
        return group.scope_spans.add().spans.add(
            trace_id=(7).to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            parent_span_id=parent.to_bytes(8, "big") if parent else b"",
            name=name,
            kind=kind,  # type: ignore[arg-type]
            start_time_unix_nano=START_NS + start * 1_000_000,
            end_time_unix_nano=START_NS + end * 1_000_000,
        )

    add("checkout", 1, 0, "POST /order", Span.SPAN_KIND_SERVER, 0, 1_500)
    add("checkout", 2, 1, "pay", Span.SPAN_KIND_CLIENT, 100, 900)
    failed = add("payment", 3, 2, "charge", Span.SPAN_KIND_SERVER, 200, 800)
    failed.status.code = Status.STATUS_CODE_ERROR
    failed.attributes.add(key="http.response.status_code").value.int_value = 402
    add("mail", 4, 99, "orders process", Span.SPAN_KIND_CONSUMER, 1_600, 2_250)
    return request.SerializeToString()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    one = Stored(tmp_path_factory.mktemp("page"))
    yield one
    one.up.stop()


def iso(moment: datetime) -> str:
    """Format a time like JavaScript does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def far(ms: int) -> str:
    return iso(datetime.fromtimestamp(START_NS // 10**9, UTC) + timedelta(milliseconds=ms))


@pytest.mark.parametrize("recorded", REQUESTS)
def test_every_recorded_request_is_answered(stored: Stored, recorded: str) -> None:
    path = recorded.format(
        service="spanbus",
        operation=quote("RUN nightly"),
        start=iso(stored.started - timedelta(hours=1)),
        end=iso(stored.ended + timedelta(minutes=1)),
        end_ms=int(time.time() * 1_000),
        attributes=quote('{"cicd.pipeline.result":"failure"}'),
        trace=stored.run["trace_id"],
    )
    document = stored.get(path)
    assert "error" not in document
    assert not document.get("errors")
    if "trace-summaries" in path:
        assert [each["traceId"] for each in document["summaries"]] == [stored.run["trace_id"]]


def test_services_and_their_operations_are_listed(stored: Stored) -> None:
    assert stored.get("/api/v3/services") == {
        "services": ["checkout", "mail", "payment", "spanbus"]
    }
    assert stored.get("/api/v3/operations", service="checkout") == {
        "operations": [
            {"name": "POST /order", "spanKind": "server"},
            {"name": "pay", "spanKind": "client"},
        ]
    }
    servers = stored.get("/api/v3/operations", service="checkout", spanKind="server")["operations"]
    assert servers == [{"name": "POST /order", "spanKind": "server"}]
    assert stored.get("/api/v3/operations", service="nobody") == {"operations": []}
    assert stored.get("/api/services/spanbus/operations")["data"] == [
        "RUN nightly",
        "build",
        "sh",
        "tests",
        "true",
    ]


def test_the_summary_of_a_run_has_its_spans_and_errors(stored: Stored) -> None:
    (summary,) = stored.summaries(serviceName="spanbus")
    started = datetime.fromisoformat(stored.run["started_at"])
    start_ns, end_ns = (
        int(summary.pop(name)) for name in ("minStartTimeUnixNano", "maxEndTimeUnixNano")
    )
    assert abs(start_ns / 1e9 - started.timestamp()) < 1e-5
    assert (end_ns - start_ns) / 1e9 == pytest.approx(stored.run["duration_s"], abs=1e-6)
    assert summary == {
        "traceId": stored.run["trace_id"],
        "rootServiceName": "spanbus",
        "rootOperationName": "RUN nightly",
        "spanCount": 5,  # the run, two phases, two commands
        "errorSpanCount": 3,  # the run, `tests` and its command
        "orphanSpanCount": 0,
        "services": [{"name": "spanbus", "spanCount": 5, "errorSpanCount": 3}],
    }


def test_the_summary_of_several_services_with_an_orphan(stored: Stored) -> None:
    (summary,) = stored.summaries(serviceName="payment")
    assert summary == {
        "traceId": FAR_TRACE,
        "rootServiceName": "checkout",
        "rootOperationName": "POST /order",
        "minStartTimeUnixNano": str(START_NS),
        "maxEndTimeUnixNano": str(START_NS + 2_250_000_000),
        "spanCount": 4,
        "errorSpanCount": 1,
        "orphanSpanCount": 1,
        "services": [
            {"name": "checkout", "spanCount": 2, "errorSpanCount": 0},
            {"name": "mail", "spanCount": 1, "errorSpanCount": 0},
            {"name": "payment", "spanCount": 1, "errorSpanCount": 1},
        ],
    }


def test_a_search_without_a_service_finds_all_newest_first(stored: Stored) -> None:
    assert stored.traces() == [stored.run["trace_id"], FAR_TRACE]
    assert stored.traces(searchDepth=1) == [stored.run["trace_id"]]
    assert stored.traces(serviceName="nobody") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"operationName": "charge"}, True),
        ({"operationName": "refund"}, False),
        ({"serviceName": "mail", "operationName": "charge"}, False),
        ({"durationMin": "1.2s"}, True),
        ({"durationMin": "1.5s", "durationMax": "1.5s"}, True),
        ({"durationMin": "1501ms"}, False),
        ({"serviceName": "payment", "durationMax": "599ms"}, False),
        ({"serviceName": "payment", "durationMin": "600ms", "durationMax": "0.01m"}, True),
        ({"startTimeMin": far(0), "startTimeMax": far(10)}, True),
        ({"startTimeMin": far(1_601)}, False),
        ({"startTimeMin": far(1_600)}, True),
        ({"startTimeMin": "2026-01-01T02:00:00.150000000+02:00", "startTimeMax": far(250)}, True),
        (
            {"startTimeMin": "2025-12-31T23:59:59Z", "startTimeMax": "2025-12-31T23:59:59.999Z"},
            False,
        ),
        ({"attributes": '{"http.response.status_code":"402"}'}, True),
        ({"attributes": '{"error":"true"}'}, True),
        ({"attributes": '{"error":"true"}', "serviceName": "checkout"}, False),
        ({"attributes": '{"http.response.status_code":"402","error":"false"}'}, False),
        ({"attributes": '{"span.kind":"consumer"}', "operationName": "orders process"}, True),
    ],
)
def test_a_search_finds_traces_with_a_span_that_matches_all_filters(
    stored: Stored, query: dict[str, str], found: bool
) -> None:
    before_the_run = {"startTimeMax": far(86_400_000)} | query
    assert stored.traces(**before_the_run) == ([FAR_TRACE] if found else [])
    older = {OLDER.get(name, name): value for name, value in before_the_run.items()}
    assert stored.traces(**older) == ([FAR_TRACE] if found else [])


def test_an_unknown_filter_is_refused(stored: Stored) -> None:
    status, document = ask(f"{stored.up.url}/api/v3/trace-summaries?query.filter=%7B%7D")
    assert status == 501
    assert "query.attributes" in str(document)


def test_failed_phases_are_found_by_their_result(stored: Stored) -> None:
    wanted = '{"cicd.pipeline.task.run.result":"failure"}'
    assert stored.traces(attributes=wanted) == [stored.run["trace_id"]]
    assert stored.traces(attributes=wanted.replace("failure", "timeout")) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"startTimeMin": "yesterday"},
        {"searchDepth": "0"},
        {"searchDepth": "-1"},
        {"durationMin": "long"},
        {"durationMin": "2s", "durationMax": "1s"},
        {"attributes": "error=true"},
        {"attributes": "[]"},
    ],
)
def test_an_invalid_search_is_a_400_with_a_reason(stored: Stored, wrong: dict[str, str]) -> None:
    query = urlencode({f"query.{name}": value for name, value in wrong.items()})
    status, document = ask(f"{stored.up.url}/api/v3/trace-summaries?{query}")
    error: Any = document["error"]
    assert (status, error["httpCode"]) == (400, 400)
    assert next(iter(wrong)) in error["message"]


def test_a_trace_is_served_by_the_v3_api(stored: Stored) -> None:
    """`/api/v3/traces/ID`, which pages after 2.20 request and check field by field."""
    run = stored.get(f"/api/v3/traces/{stored.run['trace_id']}")["result"]
    other = stored.get(f"/api/v3/traces/{FAR_TRACE}")["result"]
    for document in (run, other):
        for group in document["resourceSpans"]:
            values = [each["value"] for each in group["resource"]["attributes"]]
            for scope in group["scopeSpans"]:
                for span in scope["spans"]:
                    values += [each["value"] for each in span.get("attributes", [])]
                    links = span.get("links", [])
                    for holder in (span, *links):
                        assert re.fullmatch(r"(?!0+$)[0-9a-f]{32}", holder["traceId"])
                        assert re.fullmatch(r"(?!0+$)[0-9a-f]{16}", holder["spanId"])
                    assert re.fullmatch(r"(?!0+$)[0-9a-f]{16}", span.get("parentSpanId", "1" * 16))
                    assert isinstance(span["kind"], int)
                    assert isinstance(span["status"].get("code", 0), int)
                    times = [span["startTimeUnixNano"], span["endTimeUnixNano"]]
                    times += [event["timeUnixNano"] for event in span.get("events", [])]
                    assert all(isinstance(each, str) and each.isdigit() for each in times)
            assert all(len(value) == 1 for value in values)
            whole = [value["intValue"] for value in values if "intValue" in value]
            assert all(isinstance(each, str) for each in whole)


def test_a_trace_is_served_by_the_older_api(stored: Stored) -> None:
    trace_id = stored.run["trace_id"]
    (trace,) = stored.get(f"/api/traces/{trace_id}")["data"]
    spans = {each["operationName"]: each for each in trace["spans"]}
    assert trace["traceID"] == trace_id
    assert set(spans) == {"RUN nightly", "build", "true", "tests", "sh"}
    assert spans["tests"]["spanID"] == stored.run["phases"][1]["span_id"]
    assert [
        (each["refType"], each["traceID"], each["spanID"]) for each in spans["tests"]["references"]
    ] == [
        ("CHILD_OF", trace_id, spans["RUN nightly"]["spanID"]),
        ("FOLLOWS_FROM", trace_id, spans["build"]["spanID"]),  # what it needs
    ]
    tags = {each["key"]: each["value"] for each in spans["tests"]["tags"]}
    assert (tags["error"], tags["cicd.pipeline.task.run.result"]) == (True, "failure")
    assert {each["serviceName"] for each in trace["processes"].values()} == {"spanbus"}
    assert ask(f"{stored.up.url}/api/traces/{'9' * 32}")[0] == 404
    assert ask(f"{stored.up.url}/api/traces/nonsense")[0] == 400


def test_the_dependency_graph_is_served(stored: Stored) -> None:
    edges = stored.get(
        "/api/dependencies", endTs=START_NS // 1_000_000 + 3_600_000, lookback=86_400_000
    )["data"]
    assert {"parent": "checkout", "child": "payment", "callCount": 1} in edges
    assert not [each for each in edges if "spanbus" in (each["parent"], each["child"])]


@pytest.mark.parametrize("kind", ["latencies", "calls", "errors", "minstep"])
def test_the_monitor_page_gets_an_answer_without_metrics(stored: Stored, kind: str) -> None:
    status, document = ask(f"{stored.up.url}/api/metrics/{kind}?service=spanbus&quantile=0.95")
    errors: Any = document["errors"]
    assert (status, errors[0]["msg"]) == (501, "metrics querying is currently disabled")


def post(stored: Stored, path: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(
        stored.up.url + path, body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_archiving_is_refused_with_a_reason(stored: Stored) -> None:
    status, document = post(stored, f"/api/archive/{stored.run['trace_id']}", b"")
    assert status == 501
    assert "archive storage is not configured" in document["errors"][0]["msg"]
    assert post(stored, f"/api/archive/{'9' * 32}", b"")[0] == 404


def test_an_uploaded_otlp_json_file_is_transformed(stored: Stored) -> None:
    trace_id = stored.run["trace_id"]
    otlp = stored.get(f"/api/v3/traces/{trace_id}")["result"]
    other = stored.get(f"/api/v3/traces/{FAR_TRACE}")["result"]
    both = {"resourceSpans": otlp["resourceSpans"] + other["resourceSpans"]}
    status, document = post(stored, "/api/transform", json.dumps(both).encode())
    expected = [stored.get(f"/api/traces/{each}")["data"][0] for each in (trace_id, FAR_TRACE)]
    assert (status, document["data"]) == (200, expected)
    for body in (b"", b"{", b"[]", b'{"resourceSpans": 7}'):
        status, document = post(stored, "/api/transform", body)
        assert (status, document["errors"][0]["code"]) == (400, 400)
