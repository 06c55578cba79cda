"""The embedded backend beside the real servers: the same bytes in, the same answers out; the same rules on its numbers."""

from __future__ import annotations

import gzip
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest
import yaml
from command_line import Cli
from embedded import Up, ask
from many import many
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from servers import ROOT, Json, Server, binary, eventually, free_port

pytestmark = pytest.mark.stack

SECOND_NS = 10**9


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    one = Up(Cli(tmp_path_factory.mktemp("up")))
    yield one
    one.stop()


class Jaeger:
    """The real one with the shipped configuration but in memory, where lists stay lists, and OTLP over HTTP in."""

    def __init__(self, folder: Path) -> None:
        config = yaml.safe_load((ROOT / "deploy/jaeger/config.yaml").read_text())
        config["extensions"]["jaeger_storage"]["backends"] = {
            "kept": {"memory": {"max_traces": 50_000}}
        }
        ports = {name: free_port() for name in ("health", "query", "query_grpc", "grpc", "http")}
        config["receivers"]["otlp"]["protocols"]["http"] = {
            "endpoint": f"127.0.0.1:{ports['http']}"
        }
        (folder / "jaeger.yaml").write_text(yaml.safe_dump(config))
        self.url, self.otlp = (
            f"http://127.0.0.1:{ports['query']}",
            f"http://127.0.0.1:{ports['http']}",
        )
        self.server = Server(
            "jaeger",
            [binary("jaeger"), "--config", str(folder / "jaeger.yaml")],
            folder,
            f"http://127.0.0.1:{ports['health']}/status",
            {
                "JAEGER_HEALTH_ADDRESS": f"127.0.0.1:{ports['health']}",
                "JAEGER_QUERY_ADDRESS": f"127.0.0.1:{ports['query']}",
                "JAEGER_QUERY_GRPC_ADDRESS": f"127.0.0.1:{ports['query_grpc']}",
                "JAEGER_OTLP_ADDRESS": f"127.0.0.1:{ports['grpc']}",
            },
        )


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Generator[Jaeger]:
    one = Jaeger(tmp_path_factory.mktemp("jaeger"))
    one.server.start()
    yield one
    one.server.stop()


def send(
    url: str, body: bytes, media_type: str = "application/x-protobuf", signal_name: str = "traces"
) -> None:
    headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/{signal_name}", gzip.compress(body), headers), timeout=10
    ) as answer:
        assert answer.status == 200


def span_id(number: int) -> bytes:
    return (0xABCD0000 + number).to_bytes(8, "big")


def traces(base_ns: int) -> ExportTraceServiceRequest:
    """Everything that a span can have, in four traces of two services."""
    request = ExportTraceServiceRequest()
    shop = request.resource_spans.add()
    for key, text in {
        "service.name": "shop",
        "host.name": "one",
        "spanbus.lifetime": "run",
    }.items():
        shop.resource.attributes.add(key=key).value.string_value = text
    scope = shop.scope_spans.add()
    scope.scope.name, scope.scope.version = "checkout", "1.2"
    for number in range(1, 4):
        start_ns = base_ns + number * 10 * SECOND_NS
        top = scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=span_id(number * 10),
            name="GET /cart",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=start_ns + 1_234_567,
            end_time_unix_nano=start_ns + number * SECOND_NS + 7_654_321,
            trace_state="a=1,b=2",
            flags=257,
        )
        top.attributes.add(key="http.status_code").value.int_value = 200 + number
        top.attributes.add(key="ratio").value.double_value = 0.5
        top.attributes.add(key="cached").value.bool_value = number == 2
        top.attributes.add(key="user").value.string_value = f"ann{number} ü"
        top.attributes.add(key="empty").value.string_value = ""
        for word in ("x", "y"):
            (
                top.attributes[5] if len(top.attributes) > 5 else top.attributes.add(key="list")
            ).value.array_value.values.add().string_value = word
        event = top.events.add(time_unix_nano=start_ns + 5_000_000, name="hooks.strategy.started")
        event.attributes.add(key="strategy").value.string_value = "fast"
        top.events.add(time_unix_nano=start_ns + 6_000_000, name="bare")
        child = scope.spans.add(
            trace_id=top.trace_id,
            span_id=span_id(number * 10 + 1),
            parent_span_id=top.span_id,
            name="price list",
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=start_ns + 100_000_000,
            end_time_unix_nano=start_ns + 400_000_000,
        )
        if number == 3:
            child.status.code, child.status.message = Status.STATUS_CODE_ERROR, "no such price"
            child.attributes.add(key="error.type").value.string_value = "KeyError"
            link = child.links.add(trace_id=(1).to_bytes(16, "big"), span_id=span_id(10))
            link.attributes.add(key="spanbus.link.type").value.string_value = "retry_of"
        elif number == 2:
            child.status.code = Status.STATUS_CODE_OK
    bank = request.resource_spans.add()
    bank.resource.attributes.add(key="service.name").value.string_value = "bank/eu west"
    bank.resource.attributes.add(key="replicas").value.int_value = 3
    spans = bank.scope_spans.add().spans
    spans.add(
        trace_id=(2).to_bytes(16, "big"),
        span_id=span_id(50),
        parent_span_id=span_id(21),
        name="POST /pay?x=1&y=%2F",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=base_ns + 20 * SECOND_NS + 150_000_000,
        end_time_unix_nano=base_ns + 20 * SECOND_NS + 150_001_000,
    )
    for kind in (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER, Span.SPAN_KIND_UNSPECIFIED):
        spans.add(
            trace_id=(4).to_bytes(16, "big"),
            span_id=span_id(60 + kind),
            name="queue",
            kind=kind,
            start_time_unix_nano=base_ns + kind * 1_000,
            end_time_unix_nano=base_ns + kind * 1_000 + 2_000_000,
        )
    return request


@pytest.fixture(scope="module")
def base_ns(up: Up, jaeger: Jaeger) -> int:
    """When the traces that both have were made."""
    at_ns = (int(time.time()) - 600) * SECOND_NS
    body = traces(at_ns).SerializeToString()
    send(up.url, body)
    send(jaeger.otlp, body)
    eventually(
        lambda: (
            len(cast("list[object]", ask(f"{jaeger.url}/api/v3/services")[1].get("services") or []))
            == 2
        )
    )
    eventually(
        lambda: all(
            ask(f"{jaeger.url}/api/traces/{number:032x}")[0] == 200 for number in range(1, 5)
        )
    )
    return at_ns


def ordered(value: object) -> object:
    """Lists of objects in an order of their own: neither side promises one."""
    if isinstance(value, dict):
        return {key: ordered(member) for key, member in cast("Json", value).items()}
    if isinstance(value, list):
        return sorted(
            (ordered(each) for each in cast("list[object]", value)),
            key=lambda each: json.dumps(each, sort_keys=True),
        )
    return value


def without_process_keys(document: object) -> object:
    """p1, p2, … replaced by what the process is."""
    if isinstance(document, dict):
        document = cast("Json", document)
        if "processes" in document and "spans" in document:
            processes = cast("Json", document["processes"])
            for span in cast("list[Json]", document["spans"]):
                span["processID"] = json.dumps(
                    ordered(processes[str(span["processID"])]), sort_keys=True
                )
            document["processes"] = list(processes.values())
        return {key: without_process_keys(member) for key, member in document.items()}
    if isinstance(document, list):
        return [without_process_keys(each) for each in cast("list[object]", document)]
    return document


def same(up: Up, jaeger: Jaeger, path: str) -> Json:
    """Both answer the same; what it is."""
    theirs, ours = ask(jaeger.url + path), ask(up.url + path)
    assert (ours[0], ordered(without_process_keys(ours[1]))) == (
        theirs[0],
        ordered(without_process_keys(theirs[1])),
    ), path
    return ours[1]


# --- Jaeger -----------------------------------------------------------------------------------------------------------------


def micros(at_ns: int) -> int:
    return at_ns // 1_000


@pytest.mark.parametrize(
    "path",
    [
        "/api/services",
        "/api/services/shop/operations",
        "/api/services/bank%2Feu%20west/operations",
        "/api/services/nobody/operations",
        "/api/operations?service=shop",
        "/api/operations?service=shop&spanKind=server",
        "/api/v3/services",
        "/api/v3/operations?service=shop",
        "/api/v3/operations?service=shop&span_kind=internal",
        "/api/v3/operations",
    ],
)
def test_services_and_operations_are_the_same(
    up: Up, jaeger: Jaeger, base_ns: int, path: str
) -> None:
    assert same(up, jaeger, path)


@pytest.mark.parametrize("trace_id", ["1", "2", f"{3:032x}", "4", "9", f"{9:032x}"])
@pytest.mark.parametrize("api", ["/api/traces", "/api/v3/traces"])
def test_a_trace_is_the_same_in_both_apis(
    up: Up, jaeger: Jaeger, base_ns: int, api: str, trace_id: str
) -> None:
    same(up, jaeger, f"{api}/{trace_id}")


@pytest.mark.parametrize(("parameters", "found"), [
    ("", {1, 2, 3}), ("&lookback=1h&limit=20&maxDuration&minDuration", {1, 2, 3}), ("&operation=price%20list", {1, 2, 3}), ("&operation=nothing", set()),
    ('&tags={"http.status_code":"202"}', {2}), ('&tags={"cached":"true"}', {2}), ('&tags={"ratio":"0.5","user":"ann1 ü"}', {1}), ("&tag=user:ann3%20%C3%BC", {3}),
    ('&tags={"host.name":"one"}', {1, 2, 3}), ('&tags={"strategy":"fast"}', {1, 2, 3}), ('&tags={"error.type":"KeyError"}', {3}), ('&tags={"user":"bob"}', set()),
    ("&minDuration=2s", {2, 3}), ("&minDuration=1.5s&maxDuration=2500ms", {2}), ("&maxDuration=400ms", {1, 2, 3}), ("&maxDuration=1ms", set()),
    ("&start=15&end=25", {2}), ("&start=25&end=15", set()), ("&start=0&end=99&operation=GET%20/cart&minDuration=3s", {3}),
])  # fmt: skip
def test_a_search_finds_the_same_traces(
    up: Up, jaeger: Jaeger, base_ns: int, parameters: str, found: set[int]
) -> None:
    name, _, _ = parameters.partition("{")
    parameters = name + urllib.parse.quote(parameters[len(name) :])
    for bound in ("start", "end"):
        before, mark, after = parameters.partition(f"&{bound}=")
        seconds, _, rest = after.partition("&")
        if mark:
            parameters = f"{before}{mark}{micros(base_ns) + int(seconds) * 1_000_000}{'&' if rest else ''}{rest}"
    document = same(up, jaeger, f"/api/traces?service=shop{parameters}")
    assert {
        int(str(trace["traceID"]), 16) for trace in cast("list[Json]", document["data"])
    } == found


@pytest.mark.parametrize(
    "parameters",
    [
        "traceID=1&traceID=2",
        "traceID=77",
        "traceID=1&traceID=77",
        "service=shop&traceID=1",
        "service=nobody",
    ],
)
def test_traces_asked_for_by_id_are_the_same(
    up: Up, jaeger: Jaeger, base_ns: int, parameters: str
) -> None:
    same(up, jaeger, f"/api/traces?{parameters}")


def test_a_limit_is_kept(up: Up, jaeger: Jaeger, base_ns: int) -> None:
    for url in (up.url, jaeger.url):  # which ones is left to the storage
        assert (
            len(cast("list[Json]", ask(f"{url}/api/traces?service=shop&limit=2")[1]["data"])) == 2
        )
    newest = cast("list[Json]", ask(f"{up.url}/api/traces?service=shop&limit=2")[1]["data"])
    assert [trace["traceID"] for trace in newest] == [f"{3:016x}", f"{2:016x}"]


@pytest.mark.parametrize("more", [
    "", "&query.operation_name=price%20list&query.duration_min=100ms&query.duration_max=1s", "&query.duration_min=2s", "&query.service_name=nobody",
])  # fmt: skip
def test_a_search_in_otlp_finds_the_same_traces(
    up: Up, jaeger: Jaeger, base_ns: int, more: str
) -> None:
    first = "" if "service_name" in more else "&query.service_name=shop"
    same(
        up,
        jaeger,
        f"/api/v3/traces?query.start_time_min={iso(base_ns)}&query.start_time_max={iso(base_ns + 100 * SECOND_NS)}&query.num_traces=20{first}{more}",
    )


def test_a_search_in_otlp_is_within_its_times(up: Up, jaeger: Jaeger, base_ns: int) -> None:
    times = f"query.start_time_min={iso(base_ns + 15 * SECOND_NS)}&query.start_time_max={iso(base_ns + 25 * SECOND_NS)}"
    document = same(
        up, jaeger, f"/api/v3/traces?query.service_name=shop&query.num_traces=20&{times}"
    )
    found = {
        span["traceId"]
        for group in document["result"]["resourceSpans"]  # pyright: ignore[reportIndexIssue]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    }  # type: ignore[index]
    assert found == {f"{2:032x}"}


def test_a_search_in_otlp_by_attributes_finds_those_that_have_them(up: Up, base_ns: int) -> None:
    """This Jaeger leaves the parameter out of account; its interface definition has it."""
    times = (
        f"query.start_time_min={iso(base_ns)}&query.start_time_max={iso(base_ns + 100 * SECOND_NS)}"
    )
    tags = urllib.parse.quote('{"error.type":"KeyError"}')
    status, document = ask(
        f"{up.url}/api/v3/traces?query.service_name=shop&{times}&query.attributes={tags}"
    )
    found = {
        span["traceId"]
        for group in document["result"]["resourceSpans"]  # pyright: ignore[reportIndexIssue]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    }  # type: ignore[index]
    assert (status, found) == (200, {f"{3:032x}"})


def iso(at_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(at_ns // SECOND_NS))


@pytest.mark.parametrize("path", [
    "/api/traces", "/api/operations", "/api/traces?service=shop&minDuration=bad", "/api/traces?service=shop&minDuration=5s&maxDuration=1s",
    "/api/traces?service=shop&limit=x", "/api/traces?service=shop&start=x", "/api/traces?service=shop&tags=notjson", "/api/traces?service=shop&tags=%7B%22a%22%3A1%7D",
    "/api/traces?service=shop&tag=nocolon", "/api/traces?traceID=zz", "/api/traces/zz", f"/api/traces/{'a' * 33}", "/api/traces/9", "/api/v3/traces/zz", "/api/v3/traces/9",
    "/api/v3/traces", "/api/v3/traces?query.service_name=shop", "/api/v3/traces?query.service_name=shop&query.start_time_min=x&query.start_time_max=y",
    "/api/metrics/calls?service=shop&quantile=0.95",
])  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_the_same_code_in_the_same_shape(
    up: Up, jaeger: Jaeger, base_ns: int, path: str
) -> None:
    (their_status, theirs), (our_status, ours) = ask(jaeger.url + path), ask(up.url + path)
    assert our_status == their_status
    assert set(ours) == set(theirs)
    inner = "errors" if "errors" in theirs else "error"
    first, second = (document[inner] for document in (theirs, ours))
    first, second = (
        cast("list[Json]", each)[0] if isinstance(each, list) else cast("Json", each)
        for each in (first, second)
    )
    assert set(second) == set(first)
    assert second.get("code") == first.get("code")
    assert second.get("httpCode") == first.get("httpCode")


def test_dependencies_between_services_are_counted_the_same(
    up: Up, jaeger: Jaeger, base_ns: int
) -> None:
    document = same(
        up, jaeger, f"/api/dependencies?endTs={base_ns // 1_000_000 + 100_000}&lookback=200000"
    )
    assert {"parent": "shop", "child": "bank/eu west", "callCount": 1} in cast(
        "list[Json]", document["data"]
    )
    assert (
        same(up, jaeger, f"/api/dependencies?endTs={base_ns // 1_000_000 - 1}&lookback=1000")[
            "data"
        ]
        == []
    )


# What Grafana's Jaeger data source and Jaeger's own page ask, word for word; {…} are times of the query.
RECORDED = [
    "/api/services",
    "/api/services/shop/operations",
    "/api/traces?service=shop&operation=GET%20%2Fcart&tags=%7B%22cached%22%3A%22true%22%7D&minDuration=1ms&maxDuration=10s&limit=20&start={start_us}&end={end_us}&lookback=custom",
    "/api/traces?end={end_us}&limit=20&lookback=1h&maxDuration&minDuration&service=shop&start={start_us}",
    "/api/traces?end={end_us}&limit=20&lookback=2d&maxDuration=&minDuration=&operation=price%20list&service=shop&start={start_us}",
    "/api/traces/00000000000000000000000000000002?start={start_us}&end={end_us}",
    "/api/traces/00000000000000000000000000000002?prettyPrint=true",
    "/api/dependencies?endTs={end_ms}&lookback=604800000",
    "/api/operations?service=shop&spanKind=server",
]


@pytest.mark.parametrize("request_line", RECORDED)
def test_requests_of_grafana_and_of_jaegers_page_are_answered_the_same(
    up: Up, jaeger: Jaeger, base_ns: int, request_line: str
) -> None:
    path = request_line.format(
        start_us=micros(base_ns),
        end_us=micros(base_ns) + 100_000_000,
        end_ms=base_ns // 1_000_000 + 100_000,
    )
    assert same(up, jaeger, path).get("data")


# --- Prometheus -------------------------------------------------------------------------------------------------------------


class Prometheus:
    """The real one with the shipped rules, scraping the embedded backend."""

    def __init__(self, folder: Path, target: str) -> None:
        shipped = ROOT / "deploy/prometheus/prometheus.yml"
        config = yaml.safe_load(shipped.read_text())
        config["rule_files"] = [str(shipped.parent / name) for name in config["rule_files"]]
        del config["alerting"]
        config["global"].update(
            scrape_interval="500ms", scrape_timeout="400ms", evaluation_interval="500ms"
        )
        config["scrape_configs"] = [  # as docs/backend.md has it
            {
                "job_name": "spanbus",
                "honor_labels": True,
                "static_configs": [{"targets": [target]}],
            }
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.server = Server(
            "prometheus",
            [
                binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={self.url.removeprefix('http://')}", "--enable-feature=exemplar-storage", "--log.level=warn",
            ],
            folder, f"{self.url}/-/ready",
        )  # fmt: skip

    def values(self, expression: str) -> list[float]:
        _, document = ask(f"{self.url}/api/v1/query?query={urllib.parse.quote(expression)}")
        return [float(each["value"][1]) for each in document["data"]["result"]]  # type: ignore[index]


@pytest.mark.parametrize("way", ["the same store", "over OTLP", "the same store and over OTLP"])
def test_37_processes_with_one_failure_each_count_37_by_the_same_rules(
    tmp_path: Path, way: str
) -> None:
    backend = Up(Cli(tmp_path))
    prometheus = Prometheus(tmp_path, backend.url.removeprefix("http://"))
    prometheus.server.start()
    try:
        (tmp_path / "other").mkdir()
        env = (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.url, "SPANBUS_EXIT_TIMEOUT_S": "5"}
            if "OTLP" in way
            else {}
        )
        runs = Cli(tmp_path / "other" if way == "over OTLP" else tmp_path, env)
        many(runs, 37, "burst", at_once=6)
        eventually(lambda: runs("flush").code == 0)
        eventually(
            lambda: (
                prometheus.values('spanbus_phase_failures_total{cicd_pipeline_name="burst"}')
                == [37]
            )
        )
        eventually(
            lambda: (
                prometheus.values('spanbus:phase_failures:15m{cicd_pipeline_name="burst"}') == [37]
            )
        )
        assert prometheus.values(
            'spanbus_phase_duration_seconds_count{cicd_pipeline_name="burst"}'
        ) == [37]
        assert prometheus.values('cicd_pipeline_run_errors_total{cicd_pipeline_name="burst"}') == [
            37
        ]
        eventually(
            lambda: (
                prometheus.values(
                    'ALERTS{alertname="WorkflowPhaseFailed",alertstate="firing",cicd_pipeline_name="burst"}'
                )
                == [1]
            )
        )
        eventually(
            lambda: (
                prometheus.values(
                    'ALERTS{alertname="WorkflowPhaseFailing",alertstate="firing",cicd_pipeline_name="burst"}'
                )
                == [1]
            )
        )
        url = f"{prometheus.url}/api/v1/query_exemplars?query=spanbus_phase_duration_seconds_bucket&start={time.time() - 600}&end={time.time() + 60}"
        [series] = [
            each
            for each in cast("list[Json]", ask(url)[1]["data"])
            if each["seriesLabels"]["cicd_pipeline_name"] == "burst"  # pyright: ignore[reportIndexIssue]
        ][:1]  # type: ignore[index]
        trace_id = cast("list[Json]", series["exemplars"])[0]["labels"]["trace_id"]  # type: ignore[index]
        assert ask(f"{backend.url}/api/traces/{trace_id}")[0] == 200
    finally:
        prometheus.server.stop()
        backend.stop()
