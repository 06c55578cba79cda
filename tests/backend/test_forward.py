"""`spanbus up --forward`: received telemetry is sent to a collector, at once or when it is reachable again."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Cli
from embedded import Up, ask
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from servers import free_port


def cli(folder: Path, **env: str) -> Cli:
    folder.mkdir(exist_ok=True)
    return Cli(folder, dict(env))


def send(up: Up, number: int) -> None:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "laptop"
    group.scope_spans.add().spans.add(
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        name="work",
        start_time_unix_nano=time.time_ns(),
        end_time_unix_nano=time.time_ns(),
    )
    post(up, "traces", request.SerializeToString())


def post(up: Up, signal: str, body: bytes) -> None:
    urllib.request.urlopen(
        urllib.request.Request(
            f"{up.url}/v1/{signal}", body, {"Content-Type": "application/x-protobuf"}
        )
    ).close()


def has(up: Up, number: int) -> bool:
    return ask(f"{up.url}/api/traces/{number:032x}")[0] == 200


def eventually(what: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_received_telemetry_is_forwarded(tmp_path: Path) -> None:
    team = Up(cli(tmp_path / "team"))
    laptop = Up(cli(tmp_path / "laptop"), "--forward", team.url)
    metrics, logs = ExportMetricsServiceRequest(), ExportLogsServiceRequest()
    metric = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="orders")
    metric.sum.is_monotonic, metric.sum.aggregation_temporality = (
        True,
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    metric.sum.data_points.add(as_int=7, time_unix_nano=time.time_ns())
    logs.resource_logs.add().scope_logs.add().log_records.add(
        time_unix_nano=1
    ).body.string_value = "hello"
    try:
        for number in range(1, 31):
            send(laptop, number)
        post(laptop, "metrics", metrics.SerializeToString())
        post(laptop, "logs", logs.SerializeToString())
        eventually(lambda: all(has(team, number) for number in range(1, 31)))
        assert has(laptop, 30)
        eventually(lambda: "orders_total" in str(ask(f"{team.url}/metrics")[1]))
        eventually(lambda: ask(f"{team.url}/health")[1]["receiver"]["records"] == 32)  # type: ignore[index]
    finally:
        laptop.stop()
        team.stop()


def test_telemetry_waiting_for_a_collector_survives_a_restart_of_the_backend(
    tmp_path: Path,
) -> None:
    port = free_port()
    laptop = Up(cli(tmp_path / "laptop"), "--forward", f"http://127.0.0.1:{port}")
    for number in range(1, 11):
        send(laptop, number)
    assert cli(tmp_path / "laptop")("status", "--json").json()["waiting"] == [
        {"destination": "forward", "signal": "traces", "records": 10}
    ]
    laptop.process.kill()
    laptop.process.wait()
    laptop.stop()
    laptop = Up(cli(tmp_path / "laptop"), "--forward", f"http://127.0.0.1:{port}")
    send(laptop, 11)
    laptop.stop()
    team = Up(cli(tmp_path / "team"), "--token", "team-token", "--port", str(port))
    laptop = Up(cli(tmp_path / "laptop"), "--forward", team.url)
    try:
        eventually(lambda: all(has(team, number) for number in range(1, 12)))
    finally:
        laptop.stop()
        team.stop()


def test_headers_from_the_environment_are_sent(tmp_path: Path) -> None:
    team = Up(cli(tmp_path / "team"), "--listen", "127.0.0.1", "--token", "a-long-secret")
    laptop = Up(
        cli(tmp_path / "laptop", OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer a-long-secret"),
        "--forward",
        team.url,
    )
    try:
        send(laptop, 1)
        eventually(
            lambda: asked_with(f"{team.url}/health", "a-long-secret")["receiver"]["records"] == 1  # type: ignore[index]
        )
    finally:
        laptop.stop()
        team.stop()


def asked_with(url: str, token: str) -> dict[str, object]:
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10
    ) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "no address"),
        ("ftp://x", "no address"),
        ("http://127.0.0.1:{port}", "itself"),
        ("http://h:port", "no address"),
    ],
)
def test_an_invalid_forward_address_is_one_line(tmp_path: Path, url: str, said: str) -> None:
    port = free_port()
    done = cli(tmp_path)(
        "up", "--port", str(port), "--forward", url.format(port=port) if "{" in url else url
    )
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
