"""dramatiq: what is recorded of its messages in a worker with two threads, by the one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import anyio
import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, SkipMessage
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from spans import attributes

import spanbus
from spanbus.errors import InputError
from spanbus.testing import Receiver

Drawn = Callable[[], list[str]]
TIMEOUT_MS = 20_000


@pytest.fixture
def broker(runtime: spanbus.Runtime) -> Generator[Any]:
    broker = StubBroker()
    dramatiq.set_broker(broker)
    handle = runtime.instrument(broker)
    yield broker
    assert handle.state().errors == 0
    handle.detach()
    broker.close()


def ran(broker: StubBroker, *sent: Any) -> None:
    """Start a worker, wait until the queue is empty, stop it."""
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=20)
    worker.start()
    try:
        broker.join("default", timeout=TIMEOUT_MS, fail_fast=False)
        worker.join()
    finally:
        worker.stop(timeout=TIMEOUT_MS)


def test_success_and_failure(broker: StubBroker, drawn: Drawn) -> None:
    @dramatiq.actor
    def add(a: int, b: int) -> None:
        assert a + b == 3

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    ran(broker, add.send(1, 2), fail.send())
    assert drawn() == [
        "RUN add success",
        "  add success",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
    ]


def test_retries_are_attempts_of_one_run(broker: StubBroker, drawn: Drawn) -> None:
    calls: list[int] = []

    @dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=2)
    def flaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        if len(calls) == 2:
            raise dramatiq.errors.Retry("not yet", delay=1)

    ran(broker, flaky.send())
    assert drawn() == [
        "RUN flaky success",
        "  flaky success",
        "    flaky attempt 1 failure ConnectionError",
        "    flaky attempt 2 failure dramatiq.errors.Retry",
        "    flaky attempt 3 success",
    ]


def test_retries_that_do_not_help(broker: StubBroker, drawn: Drawn) -> None:
    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=2)
    def fail() -> None:
        raise ValueError("no")

    @dramatiq.actor(throws=KeyError)
    def expected() -> None:
        raise KeyError("x")

    ran(broker, fail.send(), expected.send())
    assert drawn() == [
        "RUN expected failure KeyError",
        "  expected failure KeyError",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "    fail attempt 1 failure ValueError",
        "    fail attempt 2 failure ValueError",
    ]


def test_a_time_limit(broker: StubBroker, drawn: Drawn) -> None:
    @dramatiq.actor(time_limit=50, max_retries=0)
    def slow() -> None:
        until = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < until:  # the limit is raised between two lines of Python
            pass

    broker.emit_after(
        "process_boot"
    )  # as the command `dramatiq` does: the limits are watched from then on
    ran(broker, slow.send())
    assert drawn() == ["RUN slow timeout timeout", "  slow timeout timeout"]


def test_a_worker_that_stops_cuts_its_message(broker: StubBroker, drawn: Drawn) -> None:
    began = threading.Event()

    @dramatiq.actor(max_retries=0, notify_shutdown=True)
    def long() -> None:
        began.set()
        until = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < until:
            pass

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=20)
    worker.start()
    long.send()
    assert began.wait(20)
    worker.stop(timeout=TIMEOUT_MS)
    assert drawn() == ["RUN long cancellation", "  long cancellation"]


def test_messages_that_are_skipped(broker: StubBroker, drawn: Drawn) -> None:
    class Closed(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage("closed on Sundays")

    @dramatiq.actor
    def never() -> None:
        raise AssertionError

    broker.add_middleware(Closed())
    ran(broker, never.send())
    assert drawn() == ["RUN never skip", "  never skip"]


def test_a_message_that_is_too_old_is_skipped(broker: StubBroker, drawn: Drawn) -> None:
    @dramatiq.actor(max_age=1)
    def never() -> None:
        raise AssertionError

    old = never.message()
    broker.enqueue(old.copy(message_timestamp=old.message_timestamp - 60_000))
    ran(broker)
    assert drawn() == ["RUN never skip", "  never skip"]


def test_two_at_once_and_their_current_spans(broker: StubBroker, drawn: Drawn) -> None:
    together = threading.Barrier(2)
    seen: set[int] = set()

    @dramatiq.actor
    def meet() -> None:
        together.wait(20)
        seen.add(trace.get_current_span().get_span_context().span_id)

    ran(broker, meet.send(), meet.send())
    assert len(seen) == 2 and 0 not in seen
    assert drawn() == ["RUN meet success", "  meet success"] * 2


def test_actors_that_are_coroutine_functions(broker: StubBroker, drawn: Drawn) -> None:
    broker.add_middleware(AsyncIO())
    seen: list[int] = []

    @dramatiq.actor
    async def look() -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    ran(broker, look.send())
    assert seen and seen != [0]
    assert drawn() == ["RUN look success", "  look success"]


def test_messages_that_a_phase_sends_are_executions_beneath_it(
    broker: StubBroker, runtime: spanbus.Runtime, collector: Receiver, drawn: Drawn
) -> None:
    calls: list[int] = []

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=2)
    def flaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        inner.send()

    @dramatiq.actor
    def inner() -> None:
        trace.get_current_span().set_attribute("app.deep", True)

    class Closed(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if message.actor_name == "never":
                raise SkipMessage("closed on Sundays")

    @dramatiq.actor
    def never() -> None:
        raise AssertionError

    @dramatiq.actor
    def alone() -> None: ...

    def send() -> None:
        flaky.send()
        never.send()

    broker.add_middleware(Closed())
    workflow = spanbus.Workflow("nightly", (spanbus.Phase("send", action=send),))
    result = anyio.run(runtime.run, workflow)
    ran(broker, alone.send())
    assert drawn() == [
        "RUN alone success",
        "  alone success",
        "RUN nightly success",
        "  send success",
        "    flaky failure ConnectionError",
        "    flaky success",
        "      inner success",
        "    never skip",
    ]
    executions = [one for one in collector.spans() if one.kind == Span.SPAN_KIND_CONSUMER]
    assert len(executions) == 4
    for span in executions:
        said = attributes(span)
        assert said["spanbus.level"] == "execution" and said["spanbus.queue.name"] == "default"
        assert str(said["spanbus.worker"]).startswith("dramatiq@")
        assert said["cicd.pipeline.run.id"] == result.run_id
        assert said["cicd.pipeline.name"] == "nightly"
        assert 0 <= float(str(said["spanbus.queue.wait_s"])) < 60
    assert len({attributes(one)["spanbus.task.id"] for one in executions}) == 3
    assert [attributes(one).get("app.deep") for one in executions if one.name == "inner"] == [True]
    assert "spanbus.queue.wait" in {metric.name for metric in collector.metrics()}


def test_an_execution_that_times_out_and_one_whose_worker_stops(
    broker: StubBroker, drawn: Drawn
) -> None:
    began = threading.Event()

    @dramatiq.actor(time_limit=50, max_retries=0)
    def slow() -> None:
        until = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < until:
            pass

    @dramatiq.actor(max_retries=0, notify_shutdown=True)
    def long() -> None:
        began.set()
        until = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < until:
            pass

    broker.emit_after("process_boot")
    context = trace.NonRecordingSpan(
        trace.SpanContext(7, 9, is_remote=True, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(context):
        messages = slow.send(), long.send()
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=20)
    worker.start()
    assert began.wait(20)
    worker.stop(timeout=TIMEOUT_MS)
    assert drawn() == ["long error terminated", "slow timeout timeout"]
    assert all(message.options["traceparent"].startswith(f"00-{7:032x}-") for message in messages)


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    broker = StubBroker()
    dramatiq.set_broker(broker)
    before = list(broker.middleware)
    runtime.instrument(broker).detach()
    assert broker.middleware == before
    assert drawn() == []


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("dramatiq")
    assert drawn() == expected


def test_the_integration_is_the_same(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    from spanbus.integrations.dramatiq import instrument

    broker = StubBroker()
    handle = instrument(broker)
    assert runtime.instrument(broker) is handle
    handle.detach()
    with pytest.raises(InputError, match="instrument takes a broker of dramatiq, not int"):
        instrument(3)
    assert drawn() == []
