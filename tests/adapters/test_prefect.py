"""Prefect 3: what is recorded of flows and tasks, by the one line, with a server of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path

import prefect
import pytest
from opentelemetry import trace
from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness

import spanbus

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Prefect and its server
Drawn = Callable[[], list[str]]


@pytest.fixture(scope="module", autouse=True)
def server() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=200):
            yield


@pytest.fixture(autouse=True)
def watched(runtime: spanbus.Runtime) -> Generator[spanbus.Handle]:
    handle = runtime.instrument(prefect)
    yield handle
    assert handle.state().errors == 0, handle.state().last_error
    handle.detach()


def test_success_retries_and_failure(drawn: Drawn) -> None:
    calls: list[int] = []

    @task(retries=2)
    def fetch() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("refused")
        return "ok"

    @task
    def build(_: str) -> None: ...

    @task
    def check() -> None:
        raise ValueError("no")

    @flow
    def nightly() -> None:
        build(fetch())
        check()

    with pytest.raises(ValueError, match="no"):
        nightly()
    assert drawn() == [
        "RUN nightly failure ValueError",
        "  build success",
        "  check failure ValueError",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 failure ConnectionError",
        "    fetch attempt 3 success",
    ]


def test_a_flow_that_is_tried_again(drawn: Drawn) -> None:
    calls: list[int] = []

    @task
    def fetch() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")

    @flow(retries=1)
    def nightly() -> None:
        fetch()

    nightly()
    assert drawn() == [
        "RUN nightly success",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 success",
    ]


def test_time_limits_on_asyncio_and_a_flow_that_is_cut(drawn: Drawn) -> None:
    @task(timeout_seconds=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    @flow
    async def limited() -> None:
        await slow()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await limited()
        began = asyncio.Event()

        @flow
        async def cut() -> None:
            began.set()
            await asyncio.Event().wait()

        running = asyncio.ensure_future(cut())
        await asyncio.wait_for(began.wait(), 60)
        running.cancel()
        await asyncio.wait([running], timeout=60)

    asyncio.run(main())
    assert drawn() == [
        "RUN cut cancellation",
        "RUN limited timeout timeout",
        "  slow timeout timeout",
    ]


def test_tasks_at_once_and_their_current_spans(drawn: Drawn) -> None:
    seen: set[int] = set()

    @task
    def look(number: int) -> None:
        seen.add(trace.get_current_span().get_span_context().span_id)

    @flow
    def nightly() -> None:
        for future in look.map([1, 2, 3]):
            future.result()

    nightly()
    assert len(seen) == 3 and 0 not in seen
    assert drawn() == ["RUN nightly success", *["  look success"] * 3]


def test_a_cached_result_is_skipped_and_a_subflow_is_beneath(drawn: Drawn, tmp_path: Path) -> None:
    now = time.time_ns()

    @task(cache_key_fn=lambda context, parameters: f"key {now}", persist_result=True)
    def cached() -> int:
        return 1

    @flow
    def inner() -> None:
        cached()

    @flow
    def outer() -> None:
        cached()
        inner()

    outer()
    assert drawn() == [
        "RUN outer success",
        "  RUN inner success",
        "    cached skip",
        "  cached success",
    ]


def test_a_task_outside_of_a_flow_is_a_run(drawn: Drawn) -> None:
    @task
    def alone() -> None: ...

    alone()
    assert drawn() == ["RUN alone success"]


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("Prefect")
    assert drawn() == expected
