"""What a phase's message says to a worker, whoever wrote that: the headers of the wire, as they lie in the broker."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from brokers import Redis, library

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
async def test_the_headers_of_a_phases_message(
    redis: Redis, collector: Receiver, tmp_path: Path
) -> None:
    library("celery")
    import redis as client
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    broker = f"{redis.url}/9"
    tasks = make(broker, f"{redis.url}/10")
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path)}
    before_ns = time.time_ns()
    caller = "00-77777777777777777777777777777777-9999999999999999-01"
    results: Any = tasks.ok.app.backend
    with client.Redis.from_url(broker) as there:

        def messages() -> list[dict[str, Any]]:
            """In their order: the head of the queue is the last that came."""
            return [json.loads(each) for each in reversed(there.lrange("nobody", 0, -1))]

        async def worker() -> None:
            """Does nothing but write results: the messages stay where they are."""
            while len(messages()) < 1:
                await anyio.sleep(0.05)
            results.mark_as_failure(messages()[0]["headers"]["id"], ValueError("no"))
            while len(messages()) < 2:
                await anyio.sleep(0.05)
            results.mark_as_done(messages()[1]["headers"]["id"], 1)

        async with spanbus.open_runtime(env=env) as runtime:
            action = on_celery(tasks.ok, args=(1,), queue="nobody", headers={"mine": "kept"})
            phase = Phase("build it", action=action, timeout_s=60, retries=1)
            with anyio.fail_after(120):
                async with anyio.create_task_group() as group:
                    group.start_soon(worker)
                    result = await runtime.run(
                        Workflow("nightly", (phase,)),
                        run_id="nightly-42",
                        traceparent=caller,
                        tracestate="vendor=1",
                    )
            assert runtime.flush(20.0)
        assert result.success
        found = messages()
    ids = [str(each["headers"]["id"]).rpartition("-")[0] for each in found]
    assert ids == ["nightly-42.build it.1", "nightly-42.build it.2"], "and a part by chance"
    spans = {span.name: span for span in collector.spans()}
    parents = (spans["build it attempt 1"], spans["build it attempt 2"])
    for attempt, (message, parent) in enumerate(zip(found, parents, strict=True), start=1):
        headers = message["headers"]
        ours = {key: headers[key] for key in headers if key.startswith("spanbus_")}
        assert before_ns <= int(ours.pop("spanbus_sent_ns")) <= time.time_ns()
        assert {key: str(value) for key, value in ours.items()} == {
            "spanbus_run_id": "nightly-42",
            "spanbus_workflow": "nightly",
            "spanbus_phase": "build it",
            "spanbus_attempt": str(attempt),
        }
        match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01", headers["traceparent"])
        assert match is not None, headers["traceparent"]
        assert (match[1], match[2]) == ("7" * 32, parent.span_id.hex())
        assert headers["tracestate"] == "vendor=1"
        assert headers["mine"] == "kept"
        assert headers["expires"], "nobody does what nobody waits for"
