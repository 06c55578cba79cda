"""dramatiq over Redis, producer and worker in processes of their own: one trace, also with a worker that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from brokers import Program, Redis, library
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import ROOT
from spans import attributes

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver

JOBS = """
import os, threading
import dramatiq
from dramatiq.brokers.redis import RedisBroker
import spanbus
broker = RedisBroker(url=os.environ["JOBS_BROKER"])
spanbus.instrument(broker)
dramatiq.set_broker(broker)

@dramatiq.actor(max_retries=0)
def add(a, b):
    later.send()
    return a + b

@dramatiq.actor
def later(): ...

@dramatiq.actor(max_retries=0)
def hang():
    open(os.environ["JOBS_HANGS"], "w").close()
    threading.Event().wait()
"""


@pytest.fixture
def worker(
    redis: Redis, collector: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Program]:
    library("dramatiq")
    (tmp_path / "jobs.py").write_text(JOBS)
    env = {
        **collector.env,
        "JOBS_BROKER": f"{redis.url}/7",
        "JOBS_HANGS": str(tmp_path / "hangs"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")]),
        "SPANBUS_STATE_DIR": str(tmp_path / "worker"),
    }
    monkeypatch.setenv("JOBS_BROKER", env["JOBS_BROKER"])
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = [sys.executable, "-m", "dramatiq", "jobs", "--processes", "1", "--threads", "2"]
    program = Program("dramatiq", argv, tmp_path, env)
    try:
        yield program.start()
    finally:
        program.kill()


def flush(worker: Program) -> int:
    """As the next process on its host would; its exit code."""
    argv = [sys.executable, "-m", "spanbus", "flush", "--wait", "20"]
    return subprocess.run(
        argv, env={**os.environ, **worker.env}, timeout=60, check=False
    ).returncode


async def test_what_a_phase_sends_is_in_its_trace_and_a_killed_worker_is_told(
    worker: Program, collector: Receiver, tmp_path: Path
) -> None:
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "engine")}
    async with spanbus.open_runtime(env=env) as runtime:
        import jobs  # pyright: ignore[reportMissingImports]

        made: Any = jobs

        def send() -> None:
            made.add.send(1, 2)
            made.hang.send()

        result = await runtime.run(Workflow("nightly", (Phase("send", action=send),)))
        assert runtime.flush(20.0)

    def executions() -> dict[str, Span]:
        return {s.name: s for s in collector.spans() if s.kind == Span.SPAN_KIND_CONSUMER}

    assert collector.wait_until(lambda _: {"add", "later"} <= set(executions()), 40.0), worker.log()
    assert collector.wait_until(lambda _: (tmp_path / "hangs").exists(), 40.0)
    worker.kill()
    assert flush(worker) == 0
    assert collector.wait_until(lambda _: "hang" in executions(), 40.0)
    found, spans = executions(), collector.spans()
    phase = next(span for span in spans if span.name == "send")
    assert {span.trace_id for span in spans} == {phase.trace_id}
    parents = {name: span.parent_span_id for name, span in found.items()}
    assert parents == {"add": phase.span_id, "hang": phase.span_id, "later": found["add"].span_id}
    told = {name: attributes(span) for name, span in found.items()}
    assert {name: said["cicd.pipeline.task.run.result"] for name, said in told.items()} == {
        "add": "success",
        "later": "success",
        "hang": "error",
    }
    assert told["hang"]["error.type"] == "killed"
    for said in told.values():
        assert said["cicd.pipeline.run.id"] == result.run_id
        assert 0 <= float(str(said["spanbus.queue.wait_s"])) < 60
