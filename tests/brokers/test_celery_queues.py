"""Applications with queues of their own: one line, and each execution of a task is a span."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import SUPPORT, Redis, Worker, library
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import ROOT
from spans import attributes

import spanbus
from spanbus.testing import Receiver

Start = Callable[[Worker], Worker]


def executions(collector: Receiver) -> list[Span]:
    found = [
        span for span in collector.spans() if attributes(span).get("spanbus.level") == "execution"
    ]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def of_run(collector: Receiver, run_id: str) -> list[Span]:
    return [
        span for span in executions(collector) if attributes(span)["cicd.pipeline.run.id"] == run_id
    ]


def missing_parents(spans: list[Span]) -> list[str]:
    known = {span.span_id for span in spans}
    return [span.name for span in spans if span.parent_span_id and span.parent_span_id not in known]


def test_canvases_are_one_trace_each(
    redis: Redis, collector: Receiver, workers: Start, tmp_path: Path
) -> None:
    """Only the workers are instrumented, and the publisher is in no span."""
    library("celery")
    from celery import chain, chord, group
    from celery_tasks import make

    broker, backend = f"{redis.url}/1", f"{redis.url}/2"
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-c", "2"))
    tasks = make(broker, backend)
    chained = chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.add.s(4)).apply_async()
    assert chained.get(timeout=30) == 10
    grouped = group(tasks.ok.s(n) for n in range(4)).apply_async()
    assert grouped.get(timeout=30) == [0, 1, 2, 3]
    joined = chord([tasks.ok.s(n) for n in range(3)])(tasks.collect.s())
    assert sorted(joined.get(timeout=30)) == [0, 1, 2]
    retried = tasks.flaky.delay(1)
    assert retried.get(timeout=30) == "good"
    failing = chain(tasks.boom.s(), tasks.ok.s()).apply_async()
    with pytest.raises(Exception, match="2 of 40 failed"):
        failing.parent.get(timeout=30)

    assert collector.wait_until(lambda got: len(executions(got)) == 14, 30.0), [
        span.name for span in executions(collector)
    ]
    assert missing_parents(collector.spans()) == []
    root = chained.parent.parent.id
    assert [span.name for span in of_run(collector, root)] == ["add"] * 3
    runs = {
        str(attributes(span)["cicd.pipeline.run.id"]): span.trace_id
        for span in executions(collector)
    }
    assert len(runs) == len(set(runs.values())) == 5, (
        "a run is a trace: chain, group, chord, retry, failing chain"
    )
    assert [span.name for span in of_run(collector, grouped.id)] == ["ok"] * 4
    members = of_run(collector, joined.parent.id)
    assert [span.name for span in members] == ["ok"] * 3 + ["collect"]
    assert members[3].parent_span_id in {span.span_id for span in members[:3]}
    first, second = of_run(collector, retried.id)
    assert attributes(first)["error.type"] == "celery.exceptions.Retry"
    assert attributes(second)["cicd.pipeline.task.run.result"] == "success"
    assert second.parent_span_id == first.parent_span_id == b"", "side by side"
    assert first.span_id != second.span_id


def test_every_execution_of_recycled_children_is_there(
    redis: Redis, collector: Receiver, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    broker, backend = f"{redis.url}/3", f"{redis.url}/4"
    options = ("-c", "2", "--max-tasks-per-child", "1")
    worker = workers(Worker(tmp_path / "w", broker, backend, collector.env, *options))
    tasks = make(broker, backend)
    sent = [tasks.ok.delay(n) for n in range(20)]
    assert [one.get(timeout=60) for one in sent] == list(range(20))
    worker.stop()
    # what the last children had no time for is in the spool
    flushed = subprocess.run(
        [sys.executable, "-m", "spanbus", "flush"],
        env={**os.environ, **collector.env, **worker.env},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert flushed.returncode == 0, flushed.stderr
    assert collector.wait_until(lambda got: len(executions(got)) == 20, 20.0), len(
        executions(collector)
    )
    assert {attributes(span)["spanbus.task.id"] for span in executions(collector)} == {
        one.id for one in sent
    }
    failures = [m for m in collector.metrics() if m.name == "spanbus.phase.duration"]
    counted = sum(point.count for metric in failures for point in metric.histogram.data_points)
    assert counted >= 20, "a task outside of any workflow is a phase, and counted"


def test_a_publisher_and_a_pool_of_threads(
    redis: Redis, collector: Receiver, workers: Start, tmp_path: Path, state_dir: Path
) -> None:
    """The publisher's span is the parent, its workflow's name goes with the message, a time that a task waits for is no wait."""
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import instrument

    broker, backend = f"{redis.url}/5", f"{redis.url}/6"
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-P", "threads", "-c", "2"))
    env = {**collector.env, "SPANBUS_STATE_DIR": str(state_dir)}
    with spanbus.open_runtime_sync(env=env, provide=False) as runtime:
        tasks = make(broker, backend)
        handle = instrument(tasks.app, workflow="orders")
        provider = runtime.tracer_provider
        assert provider is not None
        with provider.get_tracer("app").start_as_current_span("GET /orders") as span:
            trace_id, parent = span.get_span_context().trace_id, span.get_span_context().span_id
            tasks.inner.delay().get(timeout=30)
            tasks.ok.apply_async(countdown=2).get(timeout=30)
        handle.detach()
        assert runtime.flush()
    assert collector.wait_until(lambda got: len(executions(got)) == 3, 20.0)
    spans = executions(collector)
    assert {int.from_bytes(one.trace_id) for one in spans} == {trace_id}
    by_name = {one.name: one for one in spans if int.from_bytes(one.parent_span_id) == parent}
    assert set(by_name) == {"inner", "ok"}
    assert {attributes(one)["cicd.pipeline.name"] for one in spans} == {"orders"}
    assert float(str(attributes(by_name["ok"])["spanbus.queue.wait_s"])) < 1.9


def test_a_phase_of_a_file_is_a_task(
    redis: Redis, collector: Receiver, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    broker, backend = f"{redis.url}/7", f"{redis.url}/8"
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-P", "solo"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "jobs.py").write_text(
        "import celery_tasks\n"
        f"made = celery_tasks.make({broker!r}, {backend!r})\n"
        "build, no_task = made.add, 3\n"
    )
    (project / "spanbus.toml").write_text(
        "[workflows.nightly]\n"
        'phases = [{ name = "build", celery = "jobs:build", args = [1, 2], timeout = "1m" },'
        ' { name = "lint", run = "true" }]\n'
        '[workflows.wrong]\nphases = [{ name = "build", celery = "jobs:biuld" }]\n'
        '[workflows.nowhere]\nphases = [{ name = "build", celery = "jbos:build" }]\n'
        '[workflows.other]\nphases = [{ name = "build", celery = "jobs:no_task" }]\n'
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            **collector.env,
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "SPANBUS_EXIT_TIMEOUT_S": "10",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(SUPPORT)]),
        }
        argv = [sys.executable, "-m", "spanbus", *words]
        return subprocess.run(
            argv, cwd=project, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    done = run("run", "nightly")
    assert done.returncode == 0, done.stderr
    assert collector.wait_until(lambda got: len(executions(got)) == 1, 20.0)
    assert collector.wait_until(lambda got: any(one.name == "build" for one in got.spans()), 20.0)
    phase = next(span for span in collector.spans() if span.name == "build")
    assert executions(collector)[0].parent_span_id == phase.span_id
    assert attributes(phase)["cicd.pipeline.task.type"] == "celery"
    assert "celery" in run("run", "nightly", "--list").stdout
    for workflow, words in (
        ("wrong", "celery = \"jobs:biuld\": jobs has no 'biuld'; did you mean"),
        ("nowhere", "there is no module 'jbos'"),
        ("other", "takes a task of a Celery app, not int"),
    ):
        refused = run("run", workflow)
        assert refused.returncode == 2, (workflow, refused.stdout, refused.stderr)
        assert words in refused.stderr and len(refused.stderr.strip().splitlines()) == 1, (
            refused.stderr
        )
