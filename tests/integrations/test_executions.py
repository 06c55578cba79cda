"""Executions of queue tasks, for any queue: ids in message headers, one span each, and recovery of killed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextvars import copy_context
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from spans import attributes

import spanbus
from spanbus._semantics import Failure, Result
from spanbus._telemetry.redaction import Redactor
from spanbus.integrations.executions import (
    SENT_NS,
    Delivery,
    Executions,
    RunRef,
    carry,
    current_execution,
    run_ref_of,
)
from spanbus.testing import Receiver

PARENT = f"00-{7:032x}-{9:016x}-01"


def delivery(headers: dict[str, object], **more: object) -> Delivery:
    run = run_ref_of(headers, run_id="task-1", workflow="tasks.build")
    return Delivery("task-1", "tasks.build", run, headers, "queue", **more)  # type: ignore[arg-type]


def executed(collector: Receiver, env: dict[str, str], *deliveries: Delivery) -> list[Span]:
    with spanbus.open_runtime_sync(env=env) as runtime:
        executions = Executions(runtime.handle, Redactor())
        for one in deliveries:
            execution = executions.begin(one)
            assert execution is not None
            executions.end(execution, Result.SUCCESS)
        assert runtime.flush()
    return collector.spans()


@pytest.fixture
def collector() -> object:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def env(collector: Receiver, tmp_path: Path, delivery: str) -> dict[str, str]:
    return {
        **collector.env,
        "SPANBUS_STATE_DIR": str(tmp_path),
        "SPANBUS_DELIVERY": delivery,
    }


def test_message_headers_have_the_run_and_its_phase(
    collector: Receiver, env: dict[str, str]
) -> None:
    headers: dict[str, object] = {"traceparent": PARENT}
    carry(headers, run_id="r", workflow="w", phase="build", attempt=2)
    [span] = executed(collector, env, delivery(headers, queue="builders", worker="w@host"))
    said = attributes(span)
    assert (span.name, span.kind) == ("tasks.build", Span.SPAN_KIND_CONSUMER)
    assert (int.from_bytes(span.trace_id), int.from_bytes(span.parent_span_id)) == (7, 9)
    wait = said.pop("spanbus.queue.wait_s")
    assert isinstance(wait, float) and wait >= 0
    assert said.pop("cicd.pipeline.task.run.id") == span.span_id.hex()
    assert said == {
        "cicd.pipeline.name": "w",
        "cicd.pipeline.run.id": "r",
        "cicd.pipeline.task.name": "build",
        "cicd.pipeline.task.type": "queue",
        "cicd.pipeline.task.run.result": "success",
        "spanbus.level": "execution",
        "spanbus.phase.attempt": 2,
        "spanbus.events.total": 0,
        "spanbus.queue.name": "builders",
        "spanbus.worker": "w@host",
        "spanbus.task.id": "task-1",
    }


def test_a_message_without_headers_is_its_own_run(collector: Receiver, env: dict[str, str]) -> None:
    [span] = executed(collector, env, delivery({}))
    assert not span.parent_span_id
    assert attributes(span)["cicd.pipeline.run.id"] == "task-1"
    assert attributes(span)["cicd.pipeline.name"] == "tasks.build"
    assert "spanbus.queue.wait_s" not in attributes(span)


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "nonsense", SENT_NS: "yesterday", "spanbus_run_id": 7, "spanbus_phase": []},
        {"traceparent": b"\xff", SENT_NS: True, "spanbus_attempt": -1, "spanbus_workflow": None},
        {SENT_NS: -(2**80)},
    ],
)
def test_headers_of_other_systems_are_ignored(
    headers: dict[str, object], collector: Receiver, env: dict[str, str]
) -> None:
    [span] = executed(collector, env, delivery(headers))
    assert attributes(span)["cicd.pipeline.run.id"] == "task-1"
    assert attributes(span)["spanbus.phase.attempt"] == 1


def test_a_negative_wait_is_clock_skew_and_left_out(
    collector: Receiver, env: dict[str, str]
) -> None:
    later = time.time_ns() + 3_600_000_000_000
    [span] = executed(collector, env, delivery({SENT_NS: later}))
    assert attributes(span)["spanbus.clock"] == "clamped"
    assert "spanbus.queue.wait_s" not in attributes(span)


def test_a_scheduled_delay_is_not_queue_wait(collector: Receiver, env: dict[str, str]) -> None:
    now = time.time_ns()
    sent: dict[str, object] = {SENT_NS: now - 60_000_000_000}
    [span] = executed(collector, env, delivery(sent, due_ns=now))
    assert float(str(attributes(span)["spanbus.queue.wait_s"])) < 50


def test_each_execution_of_a_task_is_its_own_span(collector: Receiver, env: dict[str, str]) -> None:
    headers: dict[str, object] = {"traceparent": PARENT, SENT_NS: 5}
    spans = executed(
        collector,
        env,
        delivery(headers),
        delivery(headers, retries=1),
        delivery(headers, redelivered=True),
        delivery(headers, redelivered=True),
    )
    assert len({span.span_id for span in spans}) == 4
    assert {span.parent_span_id.hex() for span in spans} == {f"{9:016x}"}


def test_the_span_of_the_task_is_current_and_records_attributes(
    collector: Receiver, env: dict[str, str]
) -> None:
    with spanbus.open_runtime_sync(env=env) as runtime:
        executions = Executions(runtime.handle, Redactor())
        before = trace.get_current_span()
        execution = executions.begin(delivery({}))
        assert execution is not None and current_execution() is execution
        trace.get_current_span().set_attribute("app.said", "value")
        headers: dict[str, object] = {}
        carry(headers)
        executions.end(execution, Result.FAILURE, Failure("ValueError", "token=abc"))
        assert trace.get_current_span() is before and current_execution() is None
        assert runtime.flush()
    [span] = collector.spans()
    assert attributes(span)["app.said"] == "value"
    assert span.status.code == 2 and "abc" not in span.status.message
    assert str(headers["traceparent"]).split("-")[1:3] == [span.trace_id.hex(), span.span_id.hex()]
    again: dict[str, object] = {}
    carry(again, again=True)
    assert "traceparent" not in again


KILLED = """
import os, sys, time
import spanbus
from spanbus._telemetry.redaction import Redactor
from spanbus.integrations.executions import Delivery, Executions, RunRef
runtime = spanbus.open_runtime_sync().__enter__()
executions = Executions(runtime.handle, Redactor())
headers = {"traceparent": sys.argv[1], "spanbus_sent_ns": time.time_ns()}
run = RunRef("r", "w", "build")
executions.begin(Delivery("task-1", "tasks.build", run, headers, "queue", queue="q", worker="one@host"))
print("open", flush=True)
time.sleep(60)
"""


def test_an_execution_of_a_killed_process_is_reported_by_the_next(
    collector: Receiver, tmp_path: Path
) -> None:
    env = {**os.environ, **collector.env, "SPANBUS_STATE_DIR": str(tmp_path)}
    argv = [sys.executable, "-c", KILLED, PARENT]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGKILL)
    executed(collector, {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path)}, delivery({}))
    assert collector.wait_until(lambda got: len(got.spans()) == 2)
    killed = next(span for span in collector.spans() if span.parent_span_id)
    said = attributes(killed)
    assert (said["cicd.pipeline.task.run.result"], said["error.type"]) == ("error", "killed")
    assert (said["spanbus.worker"], said["spanbus.queue.name"]) == ("one@host", "q")
    assert said["cicd.pipeline.task.name"] == "build" and killed.name == "tasks.build"
    assert int.from_bytes(killed.trace_id) == 7
    assert killed.kind == Span.SPAN_KIND_CONSUMER


def test_an_execution_open_at_exit_is_abandoned(collector: Receiver, env: dict[str, str]) -> None:
    with spanbus.open_runtime_sync(env=env) as runtime:
        executions = Executions(runtime.handle, Redactor())
        elsewhere = copy_context()  # what is never ended stays current there
        assert elsewhere.run(executions.begin, delivery({})) is not None
    assert collector.wait_until(lambda got: len(got.spans()) == 1)
    assert attributes(collector.spans()[0])["error.type"] == "abandoned"


def test_with_telemetry_off_nothing_is_recorded(tmp_path: Path) -> None:
    env = {"OTEL_SDK_DISABLED": "true", "SPANBUS_STATE_DIR": str(tmp_path)}
    with spanbus.open_runtime_sync(env=env) as runtime:
        assert Executions(runtime.handle, Redactor()).begin(delivery({})) is None


def test_run_ref_of_reads_the_ids_of_the_headers() -> None:
    assert run_ref_of({}, run_id="a", workflow="b") == RunRef("a", "b", None, 1)
