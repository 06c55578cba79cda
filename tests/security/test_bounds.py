"""Limits for one client, publisher or sender of the backend, and redaction of resources, events and ``doctor``."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path

import anyio
import pytest
from command_line import Cli
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

import spanbus
from spanbus._backend.event_messages import EventMessages
from spanbus._backend.live import EventBusWebSocketBridge, LiveLimits
from spanbus._backend.prometheus import Exposition
from spanbus._store.store import Store
from spanbus._telemetry.redaction import REDACTED, Redactor
from spanbus._workflow.bus import WorkflowEventBus

SECRET = "gh" + "p_" + "a1B2" * 9


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request_of(series: int, label_chars: int, bounds: int = 0) -> bytes:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    for at in range(series):
        metric = scope.metrics.add(name="jobs")
        if bounds:
            metric.histogram.aggregation_temporality = 1  # pyright: ignore[reportAttributeAccessIssue]
            point = metric.histogram.data_points.add(count=1, sum=1.0)
            point.explicit_bounds.extend(float(n) for n in range(bounds))
            point.bucket_counts.extend([1] + [0] * bounds)
        else:
            metric.sum.is_monotonic = True
            metric.sum.aggregation_temporality = 2  # pyright: ignore[reportAttributeAccessIssue]
            point = metric.sum.data_points.add(as_int=1)
        point.attributes.add(key="at").value.string_value = f"{at}-" + "x" * label_chars
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("series", "label_chars", "bounds"),
    [(1_200, 60_000, 0), (1_200, 900, 150), (50, 10, 5_000), (5_000, 1_000, 12)],
)
def test_the_metric_series_of_a_store_are_bounded_in_bytes(
    tmp_path: Path, series: int, label_chars: int, bounds: int
) -> None:
    with Store.open(tmp_path / "store.sqlite3") as store:
        for _ in range(2):
            store.ingest_metrics(request_of(series, label_chars, bounds))
        text, _ = Exposition(store, own=dict[str, float]).render("")
    assert len(text) < 48 << 20
    with Store.open(tmp_path / "ordinary.sqlite3") as store:
        assert store.ingest_metrics(request_of(100, 40, 15)) == 0


def event(at: int) -> dict[str, object]:
    return {"type": "event", "run_id": "r", "name": f"n{at}"}


@pytest.mark.anyio
async def test_the_rate_of_messages_of_one_publisher_is_bounded() -> None:
    now = [0.0]
    limits = LiveLimits(publisher_messages=100, publisher_messages_s=10)
    bridge = EventBusWebSocketBridge(limits, clock=lambda: now[0])
    bridge.announce("loud", None, [event(at) for at in range(1_000)])
    assert (bridge.statistics().messages, bridge.statistics().missed) == (100, 900)
    bridge.announce("quiet", None, [event(0)])
    assert bridge.statistics().messages == 101
    now[0] = 2.0
    bridge.announce("loud", None, [event(at) for at in range(100)])
    assert bridge.statistics().messages == 121


@pytest.mark.anyio
async def test_the_live_runs_of_one_publisher_do_not_displace_others() -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(runs=8, publisher_runs=4))

    def opened(run: str) -> dict[str, object]:
        return {
            "type": "opened",
            "run_id": run,
            "span_id": "1",
            "level": "run",
            "name": "w",
            "started_at_us": 1,
        }

    bridge.announce("other", None, [opened("theirs")])
    bridge.announce("loud", None, [opened(f"run{at}") for at in range(100)])
    assert "theirs" in {run["run_id"] for run in bridge.live_runs()}


@pytest.mark.anyio
async def test_events_of_a_bus_in_this_process_are_redacted() -> None:
    bus = WorkflowEventBus()
    seen: list[object] = []
    bus.subscribe(None, lambda event: seen.append(EventMessages(Redactor()).of(event)))
    payload = {"message": f"use {SECRET}", "password": "hunter2", f"k {SECRET}": 1, "phase": SECRET}
    await bus.publish("workflow.phase.started", payload)
    with anyio.fail_after(20):
        while not seen:
            await anyio.sleep(0.01)
    text = json.dumps(seen)
    assert SECRET not in text and "hunter2" not in text and REDACTED in text


def test_resource_attributes_are_redacted(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    env = {"OTEL_RESOURCE_ATTRIBUTES": f"deployment.token=hunter2hunter2,host.note={SECRET},team=a"}
    cli("exec", "--", "true", env=env)
    shown = cli("show", "--otlp").out
    assert '"team"' in shown
    assert SECRET not in shown and "hunter2" not in shown
    with spanbus.open_runtime_sync(
        env={**env, "SPANBUS_STATE_DIR": str(tmp_path / "service")}
    ) as runtime:
        attributes = dict(runtime.wiring().tracer_provider.resource.attributes)  # type: ignore[union-attr]
    assert SECRET not in json.dumps(attributes) and "hunter2" not in json.dumps(attributes)


def test_doctor_redacts_variables_with_sensitive_names(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    env = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=opensesame",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-team=opensesame",
        "OTEL_SOMETHING_TOKEN": "opensesame",
        "OTEL_DB_PASSWORD": "opensesame",
        "OTEL_RESOURCE_ATTRIBUTES": "api.key=opensesame,team=a",
    }
    for arguments in (["doctor", "--timeout", "0.2"], ["doctor", "--timeout", "0.2", "--json"]):
        done = cli(*arguments, env=env)
        assert "opensesame" not in done.out + done.err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs modes")
def test_a_world_writable_state_directory_is_reported(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    for command in (["status"], ["run"]):
        assert cli(*command).err.count("can be written by everybody") == 1
    assert "can be written by everybody" in cli("doctor", "--timeout", "0.2").out
    state.chmod(0o700)
    assert "everybody" not in cli("status").err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs modes")
def test_a_missing_state_directory_is_not_reported_as_writable(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch()
    state.chmod(0o666)
    for path in (state, Path(os.devnull)):
        done = Cli(tmp_path)("exec", "--", "echo", "ran", env={"SPANBUS_STATE_DIR": str(path)})
        assert (done.code, done.out) == (0, "ran\n")
        assert "everybody" not in done.err


def test_idle_connections_do_not_block_others(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with cli.start("up", "--port", "0") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition("/")[0])
        idle: list[socket.socket] = []
        try:
            for at in range(1_900):
                try:
                    idle.append(socket.create_connection(("127.0.0.1", port), timeout=10))
                except OSError:
                    break
                if at % 500 == 499:
                    time.sleep(0)
            for _ in range(3):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                connection.close()
        finally:
            for each in idle:
                each.close()
            process.terminate()
            process.communicate(timeout=20)
