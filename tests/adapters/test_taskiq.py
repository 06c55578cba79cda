"""TaskIQ: what is recorded of its tasks, by the one line, with its broker in memory, which executes them as a worker does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Annotated, Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from spans import attributes
from taskiq import (
    AsyncTaskiqDecoratedTask,
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
)

import spanbus
from spanbus.errors import InputError
from spanbus.testing import Receiver

Drawn = Callable[[], list[str]]
Watch = Callable[..., InMemoryBroker]


@pytest.fixture
def watch(runtime: spanbus.Runtime) -> Generator[Watch]:
    handles: list[spanbus.Handle] = []

    def watched(*middlewares: Any, **options: Any) -> InMemoryBroker:
        broker = InMemoryBroker(**options).with_middlewares(*middlewares)
        handles.append(runtime.instrument(broker))
        return broker

    yield watched
    assert [handle.state().errors for handle in handles] == [0]
    for handle in handles:
        handle.detach()


def run(
    broker: InMemoryBroker,
    *work: AsyncTaskiqDecoratedTask[[], Any] | Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Send each task, or call what sends some, and wait until nothing is left to do."""

    async def main() -> None:
        async with asyncio.timeout(20):
            await broker.startup()
            for each in work:
                await (each.kiq() if isinstance(each, AsyncTaskiqDecoratedTask) else each())
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            await broker.shutdown()

    asyncio.run(main())


def test_success_and_failure(watch: Watch, drawn: Drawn) -> None:
    broker = watch()

    @broker.task(task_name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    @broker.task(task_name="fail")
    def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        assert (await (await add.kiq(1, 2)).wait_result(timeout=20)).return_value == 3
        assert (await (await fail.kiq()).wait_result(timeout=20)).is_err

    run(broker, main)
    assert drawn() == [
        "RUN add success",
        "  add success",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
    ]


@pytest.mark.parametrize("await_inplace", [False, True])
@pytest.mark.parametrize("no_result", [False, True])
def test_retries_are_attempts_of_one_run(
    watch: Watch, drawn: Drawn, *, await_inplace: bool, no_result: bool
) -> None:
    """Also where the next attempt is executed before the end of this one can be told."""
    broker = watch(SimpleRetryMiddleware(no_result_on_retry=no_result), await_inplace=await_inplace)
    calls: list[int] = []

    @broker.task(task_name="flaky", retry_on_error=True, max_retries=3)
    async def flaky() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("refused")

    @broker.task(task_name="fail", retry_on_error=True, max_retries=2)
    async def fail() -> None:
        raise ValueError("no")

    run(broker, flaky, fail)
    assert drawn() == [
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "    fail attempt 1 failure ValueError",
        "    fail attempt 2 failure ValueError",
        "RUN flaky success",
        "  flaky success",
        "    flaky attempt 1 failure ConnectionError",
        "    flaky attempt 2 failure ConnectionError",
        "    flaky attempt 3 success",
    ]


def test_retries_of_the_smart_middleware(watch: Watch, drawn: Drawn) -> None:
    broker = watch(SmartRetryMiddleware(default_retry_count=2, default_delay=0))

    @broker.task(task_name="fail", retry_on_error=True)
    async def fail() -> None:
        raise ValueError("no")

    run(broker, fail)
    assert drawn() == [
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "    fail attempt 1 failure ValueError",
        "    fail attempt 2 failure ValueError",
    ]


def test_tasks_that_are_requeued_and_rejected(watch: Watch, drawn: Drawn) -> None:
    broker = watch()
    calls: list[int] = []

    @broker.task(task_name="busy")
    async def busy(context: Annotated[Context, TaskiqDepends()]) -> None:
        calls.append(1)
        if len(calls) == 1:
            await context.requeue()

    @broker.task(task_name="refused")
    async def refused(context: Annotated[Context, TaskiqDepends()]) -> None:
        context.reject()

    run(broker, busy, refused)
    assert drawn() == [
        "RUN busy success",
        "  busy success",
        "    busy attempt 1 failure unsuccessful",
        "    busy attempt 2 success",
        "RUN refused skip",
        "  refused skip",
    ]


def test_a_time_limit_and_a_task_that_is_cut(watch: Watch, drawn: Drawn) -> None:
    broker = watch()

    @broker.task(task_name="slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    began = asyncio.Event()
    executing: list[asyncio.Task[Any] | None] = []

    @broker.task(task_name="long")
    async def long() -> None:
        executing.append(asyncio.current_task())
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        await slow.kiq()
        await long.kiq()
        await began.wait()
        assert executing[0] is not None
        executing[0].cancel()

    run(broker, main)
    assert drawn() == [
        "RUN long cancellation",
        "  long cancellation",
        "RUN slow timeout timeout",
        "  slow timeout timeout",
    ]


def test_two_at_once_and_their_current_spans(watch: Watch, drawn: Drawn) -> None:
    broker = watch()
    together = asyncio.Barrier(2)
    seen: set[int] = set()

    @broker.task(task_name="meet")
    async def meet() -> None:
        await together.wait()
        seen.add(trace.get_current_span().get_span_context().span_id)

    @broker.task(task_name="in a thread")
    def look() -> None:
        seen.add(trace.get_current_span().get_span_context().span_id)

    run(broker, meet, meet, look)
    assert len(seen) == 3 and 0 not in seen
    assert drawn() == [
        "RUN in a thread success",
        "  in a thread success",
        *["RUN meet success", "  meet success"] * 2,
    ]


def test_tasks_that_a_phase_sends_are_executions_beneath_it(
    watch: Watch, runtime: spanbus.Runtime, collector: Receiver, drawn: Drawn
) -> None:
    broker = watch(SimpleRetryMiddleware())
    calls: list[int] = []

    @broker.task(task_name="flaky", retry_on_error=True, max_retries=3)
    async def flaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        await inner.kiq()

    @broker.task(task_name="inner")
    def inner() -> None:
        trace.get_current_span().set_attribute("app.deep", True)

    @broker.task(task_name="slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    @broker.task(task_name="busy")
    async def busy(context: Annotated[Context, TaskiqDepends()]) -> None:
        if not context.message.labels.get("X-Taskiq-requeue"):
            await context.requeue()

    @broker.task(task_name="refused")
    async def refused(context: Annotated[Context, TaskiqDepends()]) -> None:
        context.reject()

    @broker.task(task_name="alone")
    async def alone() -> None: ...

    async def send() -> None:
        for task in (flaky, slow, busy, refused):
            await task.kiq()

    results: list[spanbus.RunResult] = []

    async def main() -> None:
        await alone.kiq()
        workflow = spanbus.Workflow("nightly", (spanbus.Phase("send", action=send),))
        results.append(await runtime.run(workflow))

    run(broker, main)
    assert drawn() == [
        "RUN alone success",
        "  alone success",
        "RUN nightly success",
        "  send success",
        "    busy failure unsuccessful",
        "    busy success",
        "    flaky failure ConnectionError",
        "    flaky success",
        "      inner success",
        "    refused skip",
        "    slow timeout timeout",
    ]
    executions = [one for one in collector.spans() if one.kind == Span.SPAN_KIND_CONSUMER]
    assert len(executions) == 7
    for span in executions:
        said = attributes(span)
        assert said["spanbus.level"] == "execution"
        assert str(said["spanbus.worker"]).startswith("taskiq@")
        assert said["cicd.pipeline.run.id"] == results[0].run_id
        assert said["cicd.pipeline.name"] == "nightly"
        assert 0 <= float(str(said["spanbus.queue.wait_s"])) < 60
    assert [attributes(one).get("app.deep") for one in executions if one.name == "inner"] == [True]
    assert "spanbus.queue.wait" in {metric.name for metric in collector.metrics()}


def test_it_leaves(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    broker = InMemoryBroker()
    runtime.instrument(broker).detach()
    assert broker.middlewares == []
    assert drawn() == []


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("TaskIQ")
    assert drawn() == expected


def test_the_integration_is_the_same(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    from spanbus.integrations.taskiq import instrument

    broker = InMemoryBroker()
    handle = instrument(broker)
    assert runtime.instrument(broker) is handle
    handle.detach()
    with pytest.raises(InputError, match="instrument takes a broker of taskiq, not int"):
        instrument(3)
    assert drawn() == []
