"""llama-index-workflows: what is recorded of a workflow, by the one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from workflows import Workflow, step
from workflows.events import Event, StartEvent, StopEvent
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

import spanbus
from spanbus.errors import InputError

Drawn = Callable[[], list[str]]


class Fetched(Event):
    text: str


class Chain(Workflow):
    """Two steps; what the first one does is said from outside."""

    def __init__(self, action: Any, **options: Any) -> None:
        super().__init__(**options)
        self.action = action

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    async def fetch(self, ev: StartEvent) -> Fetched:
        return Fetched(text=await self.action())

    @step
    def build(self, ev: Fetched) -> StopEvent:
        return StopEvent(result=ev.text.upper())


def chain(runtime: spanbus.Runtime, action: Any, **options: Any) -> Any:
    workflow = Chain(action, **options)
    runtime.instrument(workflow)
    return workflow


async def text() -> str:
    return "text"


def test_success(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        assert await chain(runtime, text).run() == "TEXT"

    asyncio.run(main())
    assert drawn() == ["RUN Chain success", "  build success", "  fetch success"]


def test_retries_that_help(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    calls: list[int] = []

    async def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("refused")
        return "text"

    async def main() -> None:
        assert await chain(runtime, flaky).run() == "TEXT"

    asyncio.run(main())
    assert drawn() == [
        "RUN Chain success",
        "  build success",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 failure ConnectionError",
        "    fetch attempt 3 success",
    ]


def test_failure(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def fail() -> str:
        raise ValueError("no")

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await chain(runtime, fail).run()

    asyncio.run(main())
    lines = drawn()
    assert lines[:2] == ["RUN Chain failure ValueError", "  fetch failure ValueError"]
    assert lines[2:] == [f"    fetch attempt {number} failure ValueError" for number in (1, 2, 3)]


def test_a_time_limit_of_the_run(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    async def main() -> None:
        with pytest.raises(Exception, match="timed out"):
            await chain(runtime, slow, timeout=0.1).run()

    asyncio.run(main())
    assert drawn() == ["RUN Chain timeout timeout", "  fetch cancellation"]


def test_a_cancelled_run(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def slow() -> str:
            began.set()
            await asyncio.sleep(60)
            return ""

        handler = chain(runtime, slow).run()
        await began.wait()
        await handler.cancel_run()
        with pytest.raises(BaseException, match=r"^|cancel") as raised:
            await handler
        assert type(raised.value).__name__ in ("WorkflowCancelledByUser", "CancelledError")

    asyncio.run(main())
    assert drawn() == ["RUN Chain cancellation", "  fetch cancellation"]


def test_two_at_once_and_their_current_spans(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen: list[int] = []

    async def main() -> None:
        together = asyncio.Barrier(2)

        async def meet() -> str:
            await together.wait()
            seen.append(trace.get_current_span().get_span_context().span_id)
            return "met"

        workflow = chain(runtime, meet)
        assert await asyncio.gather(workflow.run(), workflow.run()) == ["MET", "MET"]

    asyncio.run(main())
    assert len(set(seen)) == 2 and 0 not in seen
    assert drawn() == ["RUN Chain success", "  build success", "  fetch success"] * 2


def test_it_leaves_the_workflow_as_it_was(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        workflow = Chain(text)
        runtime.instrument(workflow).detach()
        assert {"run", "fetch", "build"}.isdisjoint(vars(workflow))
        assert await workflow.run() == "TEXT"

    asyncio.run(main())
    assert drawn() == []


def test_a_class_is_refused(runtime: spanbus.Runtime) -> None:
    with pytest.raises(InputError, match="instance"):
        runtime.instrument(Chain)
