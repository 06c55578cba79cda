"""dramatiq over RabbitMQ, which says which messages it has delivered before: a worker dies with one, the next one does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brokers import Program, RabbitMQ, library
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import ROOT, eventually
from spans import attributes

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver

JOBS = """
import os, threading
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
import spanbus
broker = RabbitmqBroker(url=os.environ["JOBS_BROKER"])
spanbus.instrument(broker)
dramatiq.set_broker(broker)

@dramatiq.actor(max_retries=0)
def ok(): ...

@dramatiq.actor(max_retries=0)
def hangs_once():
    try:
        open(os.environ["JOBS_HANGS"], "x").close()
    except FileExistsError:
        return
    threading.Event().wait()
"""


def flush(worker: Program) -> int:
    """As the next process on its host would; its exit code."""
    argv = [sys.executable, "-m", "spanbus", "flush", "--wait", "20"]
    env = {**os.environ, **worker.env}
    return subprocess.run(argv, env=env, timeout=60, check=False).returncode


async def test_a_message_that_is_delivered_again_says_so(
    rabbitmq: RabbitMQ, collector: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library("dramatiq")
    library("pika")
    (tmp_path / "rabbit_jobs.py").write_text(JOBS)
    hangs = tmp_path / "hangs"
    extra = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    env = {
        **collector.env,
        "JOBS_BROKER": rabbitmq.url.removesuffix("//"),
        "JOBS_HANGS": str(hangs),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src"), *extra]),
        "SPANBUS_STATE_DIR": str(tmp_path / "worker"),
    }
    monkeypatch.setenv("JOBS_BROKER", env["JOBS_BROKER"])
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = [sys.executable, "-m", "dramatiq", "rabbit_jobs", "--processes", "1", "--threads", "2"]
    workers = [Program(name, argv, tmp_path, env) for name in ("first", "second")]

    def executions() -> list[Span]:
        """Each once: who is killed between the collector's answer and its own note of it sends a batch again."""
        spans = [one for one in collector.spans() if one.kind == Span.SPAN_KIND_CONSUMER]
        found = {one.span_id: one for one in spans}.values()
        return sorted(found, key=lambda one: one.start_time_unix_nano)

    try:
        workers[0].start()
        engine = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "engine")}
        async with spanbus.open_runtime(env=engine) as runtime:
            import rabbit_jobs  # pyright: ignore[reportMissingImports]

            made: Any = rabbit_jobs

            def send() -> None:
                made.ok.send()
                made.hangs_once.send()

            result = await runtime.run(Workflow("nightly", (Phase("send", action=send),)))
            assert runtime.flush(20.0)
        eventually(hangs.exists, 60.0)
        assert collector.wait_until(lambda _: len(executions()) == 1, 60.0), workers[0].log()
        workers[0].kill()
        workers[1].start()
        assert collector.wait_until(lambda _: len(executions()) >= 2, 60.0), workers[1].log()
    finally:
        for worker in workers:
            worker.kill()
    assert flush(workers[1]) == 0
    assert collector.wait_until(lambda _: len(executions()) == 3, 40.0)
    told: dict[str, list[tuple[object, object]]] = {}
    for span in executions():
        said = attributes(span)
        words = (said["cicd.pipeline.task.run.result"], said.get("spanbus.redelivered", False))
        told.setdefault(span.name, []).append(words)
        assert said["cicd.pipeline.run.id"] == result.run_id
    assert told == {
        "ok": [("success", False)],
        "hangs_once": [("error", False), ("success", True)],
    }
    first, second = (one for one in executions() if one.name == "hangs_once")
    assert attributes(first)["error.type"] == "killed"
    assert first.span_id != second.span_id and first.parent_span_id == second.parent_span_id
