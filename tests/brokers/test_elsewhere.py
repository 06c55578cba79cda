"""Telemetry made by an observer in the publisher's place; publishers that die, and clocks that are wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brokers import Nats, stored
from observing import Observing, Start, doubled, publish, run, total
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from picture import picture
from servers import ROOT, eventually
from spans import attributes

from spanbus.integrations import nats_stream
from spanbus.testing import Receiver

PROGRAM = """
import asyncio, sys, time
import spanbus
from spanbus import Phase, Workflow

async def main():
    async with spanbus.open_runtime() as runtime:
        def build(context):
            with runtime.tracer_provider.get_tracer("mine").start_as_current_span("inside"):
                print("inside", flush=True)
                if len(sys.argv) > 1:
                    time.sleep(600)
        await runtime.run(Workflow("w", (Phase("build", action=build),)))
        assert runtime.flush(30)

asyncio.run(main())
"""


def program(
    nats: Nats, collector: Receiver, folder: Path, telemetry: str, *words: str
) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        **collector.env,
        "SPANBUS_STATE_DIR": str(folder),
        "SPANBUS_LOCAL": "off",
        "SPANBUS_NATS_URL": nats.url,
        "SPANBUS_TELEMETRY": telemetry,
        "SPANBUS_EXIT_TIMEOUT_S": "5",
        "PYTHONPATH": str(ROOT / "src"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("telemetry", ["here", "elsewhere"])
def test_exactly_one_of_the_two_counts_a_run(
    nats: Nats, collector: Receiver, tmp_path: Path, telemetry: str
) -> None:
    with program(nats, collector, tmp_path / "p", telemetry) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    before = sorted(span.name for span in collector.spans())
    assert before == (["RUN w", "build", "inside"] if telemetry == "here" else ["inside"])
    once = Observing(nats, collector, tmp_path / "o", "--once")
    done = subprocess.run(once.argv, env=once.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    spans = {span.name: span for span in collector.spans()}
    assert len(collector.spans()) == len(spans) == 3
    assert spans["inside"].parent_span_id == spans["build"].span_id
    assert spans["inside"].trace_id == spans["RUN w"].trace_id
    assert picture(collector.spans())[:2] == ["RUN w success", "  build success"]
    assert total(collector, "spanbus.phase.duration") == 1
    assert total(collector, "cicd.pipeline.run.duration") == 1
    metadata = [line.get("metadata") for _, line in stored(nats.url)]
    assert bool(metadata[0]) is (telemetry == "here")
    carried = {
        name: value
        for name in ("spooled", "delivered")
        if (value := of_events(collector, f"spanbus.delivery.{name}"))
    }
    assert carried == {"spooled": 4, "delivered": 4}


@pytest.mark.parametrize(("ratio", "state"), [("0.5", "ok"), ("0.25", "warning")])
def test_doctor_compares_the_sampler_with_that_of_the_observers(
    nats: Nats, collector: Receiver, tmp_path: Path, ratio: str, state: str
) -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    once = Observing(
        nats, collector, tmp_path / "o", "--once", env={**sampler, "OTEL_TRACES_SAMPLER_ARG": ratio}
    )
    publish(nats.url, run("r"))
    done = subprocess.run(once.argv, env=once.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    doctor = subprocess.run(
        [*once.argv[:3], "doctor", "--json", "--timeout", "30"],
        env={
            **once.env,
            **sampler,
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
            "SPANBUS_NATS_URL": nats.url,
            "SPANBUS_TELEMETRY": "elsewhere",
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    findings = {each["check"]: each for each in json.loads(doctor.stdout)["checks"]}
    found = findings["nats.sampler"]
    assert found["state"] == state, found
    assert f"parentbased_traceidratio {ratio}" in found["message"]


def of_events(collector: Receiver, name: str) -> int:
    """The largest value of a counter of delivery for the events that were carried."""
    found = [
        point.as_int
        for request in collector.taken("metrics")
        for group in ExportMetricsServiceRequest.FromString(request.body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.sum.data_points
        if attributes(point).get("spanbus.delivery.signal") == "events"
    ]
    return max(found, default=0)


def test_a_publisher_that_died_for_good_is_killed_by_the_marker(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    """The server says so 30 s after its last sign of life; then the time of patience begins."""
    with program(nats, collector, tmp_path / "p", "elsewhere", "hang") as process:
        assert process.stdout is not None and process.stdout.readline() == "inside\n"
        observer = observe(tmp_path / "o", SPANBUS_OBSERVE_LOST_AFTER_S="1")
        try:
            eventually(lambda: len(stored(nats.url)) >= 2 and alive(nats.url), 60.0)
        finally:
            process.kill()
        process.wait(20)
        assert collector.wait_until(lambda got: len(got.spans()) >= 2, 60.0)
    assert observer.end(signal.SIGTERM) == 0
    assert picture(collector.spans()) == ["RUN w error killed", "  build error killed"]
    assert doubled(collector) == []
    assert total(collector, "spanbus.observe.killed") == 1


def test_a_publisher_that_died_is_told_by_the_next_process_on_its_host(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    """Long before the server's marker: its run and phase are ended by events."""
    folder = tmp_path / "p"
    with program(nats, collector, folder, "elsewhere", "hang") as process:
        assert process.stdout is not None and process.stdout.readline() == "inside\n"
        try:
            eventually(lambda: len(stored(nats.url)) >= 2, 40.0)
        finally:
            process.kill()
        process.wait(20)
    observer = observe(tmp_path / "o")
    flush = subprocess.run(
        [sys.executable, "-m", "spanbus", "flush", "--wait", "30"],
        env={**observer.env, "SPANBUS_NATS_URL": nats.url, "SPANBUS_STATE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert flush.returncode == 0, flush.stderr
    kinds = [str(line["event_type"]) for _, line in stored(nats.url)][2:]
    assert kinds == ["workflow.phase.failed", "workflow.failed"]
    with program(
        nats, collector, folder, "elsewhere"
    ) as process:  # and the one after tells nothing of it
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert collector.wait_until(
        lambda got: sum(span.name == "RUN w" for span in got.spans()) == 2, 40.0
    )
    assert observer.end(signal.SIGTERM) == 0
    told = [line for line in picture(collector.spans()) if "inside" not in line]
    assert sorted(told) == sorted(
        ["RUN w error killed", "  build error killed", "RUN w success", "  build success"]
    )
    assert doubled(collector) == [] and total(collector, "spanbus.observe.killed") == 0


def alive(url: str) -> bool:
    with nats_stream.Admin(url, None) as asking:
        found = asking.stream("KV_spanbus_alive")
    return bool(found["state"]["messages"])


def test_clocks_that_are_wrong_are_told_and_results_are_right(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    observer = observe(tmp_path / "o")
    for name, seconds in (("ahead", 5), ("behind", -5), ("right", 0)):
        lines = run(name)
        at_ns = time.time_ns() + seconds * 1_000_000_000
        for number, line in enumerate(lines):
            line["at_ns"] = at_ns + number * 1_000_000
        publish(nats.url, lines, headers={"Spanbus-Publisher": f"host-{name}"})
    assert collector.wait_until(lambda got: len(got.spans()) >= 15, 40.0)
    assert observer.end(signal.SIGTERM) == 0, observer.said
    wrong = {
        attributes(span)["cicd.pipeline.run.id"]
        for span in collector.spans()
        if span.name == "RUN w" and "spanbus.clock" in attributes(span)
    }
    assert wrong == {"ahead", "behind"}
    assert {span.status.code for span in collector.spans() if span.name == "RUN w"} == {2}
    largest = total(collector, "spanbus.observe.clock.offset")
    assert 4.0 < largest < 6.0, largest
    done = [
        *Observing(nats, collector, tmp_path / "o").argv[:3],
        "nats",
        "status",
        nats.url,
        "--json",
    ]
    status = subprocess.run(done, env=observer.env, capture_output=True, timeout=60, check=False)
    document = json.loads(status.stdout)
    offsets = {each["publisher"]: each["offset_s"] for each in document["clocks"]}
    assert set(offsets) == {"host-ahead", "host-behind"}
    doctor = subprocess.run(
        [*done[:3], "doctor", "--json", "--timeout", "30"],
        env={**observer.env, "SPANBUS_NATS_URL": nats.url},
        capture_output=True,
        timeout=60,
        check=False,
    )
    findings = {each["check"]: each for each in json.loads(doctor.stdout)["checks"]}
    assert findings["nats"]["state"] == "ok" and "21 messages" in findings["nats"]["message"]
    told = findings["nats.clocks"]["message"]
    assert "host-ahead 5.0 s ahead" in told and "host-behind 5." in told and "right" not in told
    assert 4.0 < offsets["host-ahead"] < 5.1 and -6.0 < offsets["host-behind"] < -4.9
