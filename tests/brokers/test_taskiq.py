"""TaskIQ over Redis, producer and worker in processes of their own: one trace, also with a worker that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brokers import Program, Redis, library
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import ROOT, eventually
from spans import attributes

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver

JOBS = """
import asyncio, os
from taskiq_redis import ListQueueBroker
import spanbus
broker = ListQueueBroker(os.environ["JOBS_BROKER"])
spanbus.instrument(broker)

@broker.task(task_name="add")
async def add(a, b):
    await later.kiq()
    return a + b

@broker.task(task_name="later")
async def later(): ...

@broker.task(task_name="boom")
async def boom():
    raise ValueError("2 of 40 failed")

@broker.task(task_name="hang")
async def hang():
    open(os.environ["JOBS_HANGS"], "w").close()
    await asyncio.Event().wait()
"""


def flush(worker: Program) -> int:
    """As the next process on its host would; its exit code."""
    argv = [sys.executable, "-m", "spanbus", "flush", "--wait", "20"]
    env = {**os.environ, **worker.env}
    return subprocess.run(argv, env=env, timeout=60, check=False).returncode


async def test_what_a_phase_sends_is_in_its_trace_and_a_killed_worker_is_told(
    redis: Redis, collector: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library("taskiq")
    library("taskiq_redis")
    (tmp_path / "taskiq_jobs.py").write_text(JOBS)
    hangs = tmp_path / "hangs"
    extra = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    env = {
        **collector.env,
        "JOBS_BROKER": f"{redis.url}/8",
        "JOBS_HANGS": str(hangs),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src"), *extra]),
        "SPANBUS_STATE_DIR": str(tmp_path / "worker"),
    }
    monkeypatch.setenv("JOBS_BROKER", env["JOBS_BROKER"])
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = [sys.executable, "-m", "taskiq", "worker", "taskiq_jobs:broker", "--workers", "1"]
    worker = Program("taskiq", argv, tmp_path, env)

    def executions() -> dict[str, Span]:
        return {s.name: s for s in collector.spans() if s.kind == Span.SPAN_KIND_CONSUMER}

    try:
        worker.start()
        engine = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "engine")}
        async with spanbus.open_runtime(env=engine) as runtime:
            import taskiq_jobs  # pyright: ignore[reportMissingImports]

            made: Any = taskiq_jobs

            async def send() -> None:
                await made.broker.startup()
                await made.add.kiq(1, 2)
                await made.boom.kiq()
                await made.hang.kiq()
                await made.broker.shutdown()

            result = await runtime.run(Workflow("nightly", (Phase("send", action=send),)))
            assert runtime.flush(20.0)
        done = {"add", "later", "boom"}
        assert collector.wait_until(lambda _: done <= set(executions()), 60.0), worker.log()
        eventually(hangs.exists, 60.0)
    finally:
        worker.kill()
    assert flush(worker) == 0
    assert collector.wait_until(lambda _: "hang" in executions(), 40.0)
    found, spans = executions(), collector.spans()
    phase = next(span for span in spans if span.name == "send")
    assert {span.trace_id for span in spans} == {phase.trace_id}
    parents = {name: span.parent_span_id for name, span in found.items()}
    assert parents == {
        "add": phase.span_id,
        "boom": phase.span_id,
        "hang": phase.span_id,
        "later": found["add"].span_id,
    }
    told = {name: attributes(span) for name, span in found.items()}
    results = {
        name: (said["cicd.pipeline.task.run.result"], said.get("error.type"))
        for name, said in told.items()
    }
    assert results == {
        "add": ("success", None),
        "later": ("success", None),
        "boom": ("failure", "ValueError"),
        "hang": ("error", "killed"),
    }
    for said in told.values():
        assert said["cicd.pipeline.run.id"] == result.run_id
        assert 0 <= float(str(said["spanbus.queue.wait_s"])) < 60
