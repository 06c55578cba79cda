"""``SPANBUS_DELIVERY=sdk``: the SDK's processors and exporters give the same spans, metrics and logs, without a spool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli

from spanbus.testing import GrpcReceiver, Receiver

_PROGRAM = """
import sys
import spanbus
from spanbus._workflow.bus import WorkflowEventBus

handle = spanbus.instrument(WorkflowEventBus())
def say(kind, **payload):
    handle.feed({"event_type": kind, "event_id": f"{kind}-{sorted(payload.items())}", "payload": {**payload, "run_id": "r"}})
say("workflow.started", workflow_id="w")
for number in range(10):
    say("workflow.config.started", step_id=f"p{number}")
    say("config.checked", step_id=f"p{number}")
    if number == 7:
        say("workflow.config.failed", step_id=f"p{number}", success=False, error="ValueError: no", final=True)
    else:
        say("workflow.config.completed", step_id=f"p{number}", success=True)
say("workflow.completed", workflow_id="w", success=True)
print(spanbus.flush(60))
print(sorted(name for name in ("grpc", "requests") if name in sys.modules))
"""

Either = Receiver | GrpcReceiver


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Either]:
    with Receiver() if request.param == "http/protobuf" else GrpcReceiver() as receiver:
        yield receiver


def run(
    url: str, folder: Path, delivery: str, body: str = _PROGRAM, **more: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "SPANBUS_"))
    }
    env = {
        **kept,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "SPANBUS_STATE_DIR": str(folder),
        "SPANBUS_DELIVERY": delivery,
        "SPANBUS_LOCAL": "off",
        "SPANBUS_EVENTS": "both",
        "SPANBUS_EXIT_TIMEOUT_S": "60",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", body], env=env, capture_output=True, text=True, check=True
    )


def _told(receiver: Either) -> dict[str, object]:
    spans = {span.span_id: span for span in receiver.spans()}
    return {
        "spans": {
            (span.name, span.span_id, span.trace_id): (
                spans[span.parent_span_id].name if span.parent_span_id in spans else None,
                [event.name for event in span.events],
                span.status.code,
                {one.key: one.value for one in span.attributes if "duration" not in one.key}.keys(),
            )
            for span in spans.values()
        },
        "metrics": {
            metric.name: len(metric.sum.data_points or metric.histogram.data_points)
            for metric in receiver.metrics()
            if metric.name.startswith(("cicd.", "spanbus.phase", "spanbus.run"))
        },
        "failures": sum(
            point.as_int
            for metric in receiver.metrics()
            if metric.name == "spanbus.phase.failures"
            for point in metric.sum.data_points
        ),
    }


def test_delivery_by_the_sdk_gives_the_same_telemetry_as_the_spool(
    receiver: Either, tmp_path: Path
) -> None:
    protocol = "grpc" if isinstance(receiver, GrpcReceiver) else "http/protobuf"
    more = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "SPANBUS_LIFETIME": "run"}
    done = run(receiver.url, tmp_path, "sdk", **more)
    other = "grpc" if protocol == "grpc" else "requests"
    assert done.stdout.split("\n")[:2] == ["True", f"['{other}']"]
    assert not (tmp_path / "spool").exists()
    by_sdk = _told(receiver)
    logs = Counter(record.event_name for record in receiver.logs())
    with Receiver() if protocol == "http/protobuf" else GrpcReceiver() as again:
        run(again.url, tmp_path / "other", "spool", **more)
        assert by_sdk["spans"] == _told(again)["spans"]
        assert by_sdk["metrics"] == _told(again)["metrics"]
        assert by_sdk["failures"] == _told(again)["failures"] == 1
        assert logs == Counter(record.event_name for record in again.logs())
    assert len(receiver.spans()) == 11


def test_delivery_by_the_spool_imports_neither_grpc_nor_requests(tmp_path: Path) -> None:
    with Receiver() as receiver:
        done = run(receiver.url, tmp_path, "spool")
    assert done.stdout.split("\n")[1] == "[]"


def test_an_unreachable_collector_does_not_delay_exit_and_losses_are_reported(
    tmp_path: Path,
) -> None:
    with Receiver(listening=False) as receiver:
        body = _PROGRAM.replace("print(spanbus.flush(60))", "")
        done = run(receiver.url, tmp_path, "sdk", body, SPANBUS_EXIT_TIMEOUT_S="0.25")
    assert "not delivered within the exit limit and lost" in done.stderr


def test_the_exit_flushes_waiting_spans(tmp_path: Path) -> None:
    with Receiver() as receiver:
        body = _PROGRAM.replace("print(spanbus.flush(60))", "")
        done = run(receiver.url, tmp_path, "sdk", body)
        assert done.stderr == ""
        assert len(receiver.spans()) == 11, "the end of the program flushes"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("OTEL_BSP_SCHEDULE_DELAY", "later", "must be a whole number, at least 1; 5000 is used"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "must be a whole number, at least 1; 2048 is used"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "9" * 5_000, "at least 1; 1000 is used"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", ""),  # smaller than a batch
    ],
)
def test_an_invalid_batch_setting_is_one_line_and_the_default_is_used(
    tmp_path: Path, variable: str, value: str, line: str
) -> None:
    with Receiver() as receiver:
        done = run(receiver.url, tmp_path, "sdk", **{variable: value})
        assert len(receiver.spans()) == 11
    assert done.stdout.startswith("True")
    assert len(done.stderr.splitlines()) == (1 if line else 0), done.stderr
    assert line in done.stderr


def test_the_command_line_keeps_its_local_store(tmp_path: Path) -> None:
    cli = Cli(tmp_path, {"SPANBUS_DELIVERY": "sdk"})
    done = cli("exec", "--", "true")
    assert (done.code, "lost" in done.err) == (0, False)
    runs = json.loads(cli("runs", "--json").out)
    assert len(runs if isinstance(runs, list) else runs["runs"]) == 1
    assert cli("show").code == 0


def test_a_system_without_a_spool_falls_back_to_the_sdk_with_one_line(tmp_path: Path) -> None:
    with Receiver() as receiver:
        body = "import sys\nsys.modules['fcntl'] = None\n" + _PROGRAM
        done = run(receiver.url, tmp_path, "spool", body)
        assert "this system has no spool" in done.stderr
        assert done.stderr.count("\n") == 1
        assert len(receiver.spans()) == 11


def test_an_unknown_delivery_is_an_error_with_the_allowed_values(tmp_path: Path) -> None:
    done = Cli(tmp_path, {"SPANBUS_DELIVERY": "sdkk"})("runs")
    assert "must be spool or sdk" in done.err
