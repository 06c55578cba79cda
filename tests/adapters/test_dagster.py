"""Dagster: what is recorded of its runs in this process, by the one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    Failure,
    In,
    Nothing,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    asset,
    job,
    materialize,
    op,
)
from opentelemetry import trace

import spanbus

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Dagster
Drawn = Callable[[], list[str]]


@pytest.fixture
def instance(runtime: spanbus.Runtime) -> Generator[Any]:
    with DagsterInstance.ephemeral() as instance:
        handle = runtime.instrument(instance)
        yield instance
        assert handle.state().errors == 0, handle.state().last_error
        handle.detach()


def span_id() -> int:
    return trace.get_current_span().get_span_context().span_id


def test_success_retries_and_failure(instance: Any, drawn: Drawn) -> None:
    calls: list[int] = []
    seen: list[int] = []

    @op(retry_policy=RetryPolicy(max_retries=3))
    def fetch() -> int:
        seen.append(span_id())
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")
        if len(calls) == 2:
            raise RetryRequested(max_retries=3)
        return 1

    @op
    def check(number: int) -> None:
        raise ValueError("no")

    @job
    def nightly() -> None:
        check(fetch())

    assert not nightly.execute_in_process(instance=instance, raise_on_error=False).success
    assert len(seen) == 3 and 0 not in seen
    assert span_id() == 0
    assert drawn() == [
        "RUN nightly failure ValueError",
        "  check failure ValueError",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 failure RetryRequested",
        "    fetch attempt 3 success",
    ]


def test_a_step_that_is_skipped_one_that_is_late_and_one_that_gives_up(
    instance: Any, drawn: Drawn
) -> None:
    @op(out={"yes": Out(is_required=False), "no": Out(is_required=False)})
    def choose() -> Generator[Output[int]]:
        yield Output(1, "yes")

    @op
    def left_out(number: int) -> None: ...

    @op(ins={"after": In(Nothing)})
    def late() -> None:
        raise TimeoutError("30 s")

    @op(retry_policy=RetryPolicy(max_retries=3))
    def gives_up() -> None:
        raise Failure("it will not help", allow_retries=False)

    @job
    def nightly() -> None:
        _, no = choose()
        left_out(no)
        late()
        gives_up()

    nightly.execute_in_process(instance=instance, raise_on_error=False)
    assert drawn() == [
        "RUN nightly failure Failure",
        "  choose success",
        "  gives_up failure Failure",
        "  late timeout timeout",
        "  left_out skip",
    ]


def test_a_run_that_is_interrupted(instance: Any, drawn: Drawn) -> None:
    @op
    def long() -> None:
        raise KeyboardInterrupt

    @job
    def nightly() -> None:
        long()

    nightly.execute_in_process(instance=instance, raise_on_error=False)
    assert drawn() == ["RUN nightly cancellation", "  long cancellation"]


def test_two_runs_at_once(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    """Each with an instance of its own: the storage of one in memory is locked now and then."""
    handle = runtime.instrument(DagsterInstance)
    together = threading.Barrier(2)
    seen: set[int] = set()

    @op
    def meet() -> None:
        together.wait(60)
        seen.add(span_id())

    @job
    def nightly() -> None:
        meet()

    def run() -> None:
        with DagsterInstance.ephemeral() as instance:
            nightly.execute_in_process(instance=instance)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    handle.detach()
    assert len(seen) == 2 and 0 not in seen
    assert drawn() == ["RUN nightly success", "  meet success"] * 2


def test_assets_and_every_instance_of_the_class(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    @asset
    def numbers() -> list[int]:
        return [1]

    handle = runtime.instrument(DagsterInstance)
    with DagsterInstance.ephemeral() as instance:
        assert materialize([numbers], instance=instance).success
        handle.detach()
        assert materialize([numbers], instance=instance).success
    lines = drawn()
    assert len(lines) == 2
    assert lines[0].endswith(" success") and lines[1] == "  numbers success"


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("Dagster")
    assert drawn() == expected
