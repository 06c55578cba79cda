"""Phases on Celery workers, on Redis and on RabbitMQ: what happens, what the phase says, what its executions say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import RabbitMQ, Redis, Worker, library
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from spans import attributes

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver

Start = Callable[[Worker], Worker]


class Brokers:
    """A broker with the results in Redis, databases of its own."""

    def __init__(self, name: str, redis: Redis, rabbitmq: RabbitMQ | None) -> None:
        self.broker = f"{redis.url}/1" if rabbitmq is None else rabbitmq.url
        self.backend = f"{redis.url}/{2 if rabbitmq is None else 3}"


@pytest.fixture(params=["redis", "rabbitmq"])
def brokers(request: pytest.FixtureRequest, redis: Redis) -> Brokers:
    library("celery")
    rabbitmq = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else None
    return Brokers(request.param, redis, rabbitmq)


async def test_the_table_of_what_happens(
    brokers: Brokers, collector: Receiver, workers: Start, tmp_path: Path, state_dir: Path
) -> None:
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    workers(Worker(tmp_path / "w", brokers.broker, brokers.backend, collector.env, "-c", "3"))
    tasks = make(brokers.broker, brokers.backend)

    def task(name: str, **options: object) -> object:
        return on_celery(getattr(tasks, name), **options)

    rows = (
        Phase("returns", action=task("ok", args=("value",))),
        Phase(
            "passes on",
            action=task("ok", args=lambda c: (c.results["returns"].value,)),
            needs=("returns",),
        ),
        Phase("false", action=task("no")),
        Phase("raises", action=task("boom")),
        Phase("soft limit", action=task("soft")),
        Phase("hard limit", action=task("hard")),
        Phase("retried inside", action=task("flaky")),
        Phase("tried twice", action=task("boom"), retries=1, retry_backoff_s=0.01),
        Phase("killed", action=task("dies")),
        Phase("killed, again", action=task("dies_once")),
        Phase("no worker", action=task("ok", queue="nobody"), timeout_s=1.0),
        Phase("inside", action=task("inner")),
    )
    others = tuple(row.name for row in rows)
    rows += (  # when the worker has nothing else to do, so that it begins
        Phase("own limit", action=task("slow"), timeout_s=3.0, needs=others, when="always"),
    )
    # a task that never comes back is told by its phase, and not by the limit of the test
    rows = tuple(replace(row, timeout_s=row.timeout_s or 120.0) for row in rows)
    names = tuple(row.name for row in rows)
    afterwards = [
        Phase(f"after {n}", action=task("ok"), needs=names, when="always") for n in range(6)
    ]
    async with spanbus.open_runtime(
        env={**collector.env, "SPANBUS_STATE_DIR": str(state_dir)}
    ) as runtime:
        result = await runtime.run(Workflow("truth", (*rows, *afterwards)), concurrency=20)
        assert runtime.flush()
    told = {one.name: (one.result, one.error_type) for one in result.phases}
    assert {name: told[name] for name in names} == {
        "returns": ("success", None),
        "passes on": ("success", None),
        "false": ("failure", "unsuccessful"),
        "raises": ("failure", "celery_tasks.Broken"),
        "soft limit": ("timeout", "timeout"),
        "hard limit": ("timeout", "timeout"),
        "retried inside": ("success", None),
        "tried twice": ("failure", "celery_tasks.Broken"),
        "killed": ("error", "killed"),
        "killed, again": ("success", None),
        "own limit": ("timeout", "timeout"),
        "no worker": ("timeout", "timeout"),
        "inside": ("success", None),
    }
    values = {one.name: one.value for one in result.phases}
    assert values["passes on"] == "value" and values["killed, again"] == "second"
    assert {one.name: one.attempts for one in result.phases}["retried inside"] == 1

    wanted = {
        "returns": ["ok success"],
        "passes on": ["ok success"],
        "false": ["no success"],
        "raises": ["boom failure celery_tasks.Broken"],
        "soft limit": ["soft timeout timeout"],
        "hard limit": ["hard error terminated"],
        "retried inside": ["flaky failure celery.exceptions.Retry"] * 2 + ["flaky success"],
        "tried twice": ["boom failure celery_tasks.Broken"] * 2,
        "killed": ["dies error killed"],
        "killed, again": ["dies_once error killed", "dies_once success redelivered"],
        "own limit": ["slow error terminated"],
        "no worker": [],
        "inside": ["inner success"],
    }

    def found(spans: list[Span]) -> dict[str, list[str]]:
        known = {span.span_id: span for span in spans}
        under: dict[str, list[str]] = {name: [] for name in names}
        for span in sorted(spans, key=lambda one: one.start_time_unix_nano):
            above = known.get(span.parent_span_id)
            if _is_execution(span) and above is not None and not _is_execution(above):
                phase = str(attributes(above)["cicd.pipeline.task.name"])
                if phase in under:
                    under[phase].append(_line(span))
        return under

    assert collector.wait_until(lambda got: found(got.spans()) == wanted, 120.0), str(
        found(collector.spans())
    )
    spans = collector.spans()
    assert len({span.span_id for span in spans}) == len(spans)
    assert len({span.trace_id for span in spans}) == 1
    known = {span.span_id for span in spans}
    assert [
        span.name for span in spans if span.parent_span_id and span.parent_span_id not in known
    ] == []
    for span in filter(_is_execution, spans):
        said = attributes(span)
        assert span.kind == Span.SPAN_KIND_CONSUMER
        assert (
            said["cicd.pipeline.run.id"] == result.run_id and said["cicd.pipeline.name"] == "truth"
        )
        assert said["spanbus.worker"] == "worker@test" and said["spanbus.queue.name"] == "celery"
        assert 0 <= float(str(said["spanbus.queue.wait_s"])) < 60
    inner = next(span for span in spans if span.name == "inner")
    beneath = {span.name: span for span in spans if span.parent_span_id == inner.span_id}
    assert attributes(inner)["app.deep"] is True, "the execution's span is current in the task"
    assert set(beneath) == {"ok"}, "the task that it published"
    assert attributes(beneath["ok"])["cicd.pipeline.run.id"] == result.run_id
    metrics = {metric.name for metric in collector.metrics()}
    assert "spanbus.queue.wait" in metrics


def _is_execution(span: Span) -> bool:
    return attributes(span).get("spanbus.level") == "execution"


def _line(span: Span) -> str:
    said = attributes(span)
    words = [span.name, said["cicd.pipeline.task.run.result"], said.get("error.type")]
    words.append("redelivered" if said.get("spanbus.redelivered") else None)
    return " ".join(str(word) for word in words if word)
