"""Hamilton and Burr, one line on each, and what processes of joblib and dask make of a bus that is observed."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import dask
import joblib
import pytest
from burr.core import ApplicationBuilder, action, expr
from burr.core.action import streaming_action
from hamilton import async_driver, driver
from hamilton.execution import executors
from opentelemetry import trace

import spanbus
from spanbus.errors import InputError

Drawn = Callable[[], list[str]]
FLOW = """
from opentelemetry import trace

seen = []

def fetch(url: str) -> int:
    seen.append(trace.get_current_span().get_span_context().span_id)
    return len(url)

def build(fetch: int) -> int:
    seen.append(trace.get_current_span().get_span_context().span_id)
    return fetch + 1

def broken(build: int) -> int:
    raise ValueError("no")
"""
SIDE_BY_SIDE = """
from hamilton.htypes import Collect, Parallelizable

def page(pages: int) -> Parallelizable[int]:
    yield from range(pages)

def size(page: int) -> int:
    return page * 2

def total(size: Collect[int]) -> int:
    return sum(size)
"""
LATER = """
import asyncio

async def fetch() -> int:
    await asyncio.sleep(0)
    return 1

async def build(fetch: int) -> int:
    await asyncio.sleep(0)
    return fetch + 1

def plain(fetch: int) -> int:
    return fetch

async def late(build: int) -> int:
    raise TimeoutError("late")

async def endless(build: int) -> int:
    await asyncio.sleep(600)
    return 0
"""


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Both log each exception with a banner."""
    for name in ("hamilton", "burr"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str, str], Any]]:
    """A module of nodes, from its text."""
    made: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, text: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return __import__(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


# --- Hamilton ---------------------------------------------------------------------------------------------------------


def test_nodes_of_hamilton_are_phases_of_each_execution(
    runtime: spanbus.Runtime, drawn: Drawn, module: Any
) -> None:
    flow = module("nightly", FLOW)
    dr = driver.Builder().with_modules(flow).build()
    handle = runtime.instrument(dr)
    assert dr.execute(["build"], inputs={"url": "abc"}) == {"build": 4}
    with pytest.raises(ValueError, match="no"):
        dr.execute(["broken"], inputs={"url": "abc"})
    assert len(set(flow.seen)) == 4 and 0 not in flow.seen, "each is current inside"
    handle.detach()
    dr.execute(["build"], inputs={"url": "abc"})
    assert handle.state().errors == 0
    assert drawn() == [
        "RUN nightly failure ValueError",
        "  broken failure ValueError",
        "  build success",
        "  fetch success",
        "RUN nightly success",
        "  build success",
        "  fetch success",
    ]


@pytest.mark.parametrize(
    ("executor", "nodes"),
    [
        (executors.SynchronousLocalTaskExecutor, 3),
        (lambda: executors.MultiThreadingExecutor(2), 3),
        (lambda: executors.MultiProcessingExecutor(2), 0),  # nobody tells of other processes
    ],
    ids=["here", "threads", "processes"],
)
def test_nodes_of_hamilton_side_by_side(
    runtime: spanbus.Runtime, drawn: Drawn, module: Any, executor: Any, nodes: int
) -> None:
    dr = (
        driver.Builder()
        .enable_dynamic_execution(allow_experimental_mode=True)
        .with_modules(module("side_by_side", SIDE_BY_SIDE))
        .with_remote_executor(executor())
        .build()
    )
    runtime.instrument(dr)
    assert dr.execute(["total"], inputs={"pages": 3}) == {"total": 6}
    assert drawn() == [
        "RUN side_by_side success",
        "  page success",
        *["  size success"] * nodes,
        "  total success",
    ]


def test_nodes_of_hamilton_on_asyncio(runtime: spanbus.Runtime, drawn: Drawn, module: Any) -> None:
    async def main() -> None:
        dr = await async_driver.Builder().with_modules(module("later", LATER)).build()
        handle = runtime.instrument(dr)
        first, second = await asyncio.gather(dr.execute(["build", "plain"]), dr.execute(["build"]))
        assert (first, second) == ({"build": 2, "plain": 1}, {"build": 2})
        with pytest.raises(TimeoutError):
            await dr.execute(["late"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await dr.execute(["endless"])
        assert handle.state().errors == 0

    asyncio.run(main())
    assert drawn() == [
        "RUN later cancellation",
        "  build success",
        "  endless cancellation",
        "  fetch success",
        "RUN later success",
        "  build success",
        "  fetch success",
        "RUN later success",
        "  build success",
        "  fetch success",
        "  plain success",
        "RUN later timeout timeout",
        "  build success",
        "  fetch success",
        "  late timeout timeout",
    ]


def test_what_executes_nothing_is_refused(runtime: spanbus.Runtime) -> None:
    with pytest.raises(InputError, match=r"instrument the driver"):
        runtime.instrument(driver.Builder())
    with pytest.raises(InputError, match=r"instrument an application"):
        runtime.instrument(ApplicationBuilder())


# --- Burr -------------------------------------------------------------------------------------------------------------

seen: list[int] = []


@action(reads=["n"], writes=["n"])
def count(state: Any) -> Any:
    seen.append(trace.get_current_span().get_span_context().span_id)
    return state.update(n=state["n"] + 1)


@action(reads=["n"], writes=["done"])
def finish(state: Any) -> Any:
    return state.update(done=True)


@action(reads=["n"], writes=["done"])
def broken(state: Any) -> Any:
    raise ValueError("no")


@action(reads=["n"], writes=["n"])
async def later(state: Any) -> Any:
    await asyncio.sleep(0)
    return state.update(n=state["n"] + 1)


@action(reads=["n"], writes=["n"])
async def endless(state: Any) -> Any:
    await asyncio.sleep(600)
    return state


@streaming_action(reads=["n"], writes=["words"])
def say(state: Any) -> Any:
    yield {"words": "a"}, None
    yield {"words": "all"}, state.update(words="all")


def application(*transitions: Any) -> Any:
    actions = {count, finish, broken, later, endless, say}
    names = {name for one in transitions for name in one[:2]}
    return (
        ApplicationBuilder()
        .with_actions(**{one.__name__: one for one in actions if one.__name__ in names})
        .with_transitions(*transitions)
        .with_entrypoint(transitions[0][0])
        .with_state(n=0)
        .build()
    )


def test_actions_of_burr_are_phases_of_each_run(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen.clear()
    loop = application(("count", "count", expr("n<2")), ("count", "finish"))
    handle = runtime.instrument(loop)
    assert loop.run(halt_after=["finish"])[0].name == "finish"
    assert len(set(seen)) == 2 and 0 not in seen
    failing = application(("count", "broken"))
    runtime.instrument(failing)
    with pytest.raises(ValueError, match="no"):
        failing.run(halt_after=["broken"])
    single = application(("count", "finish"))
    runtime.instrument(single)
    single.step()
    handle.detach()
    assert handle.state().errors == 0
    assert drawn() == [
        "RUN burr failure ValueError",
        "  broken failure ValueError",
        "  count success",
        "RUN burr success",
        "  count success",
        "RUN burr success",
        "  count success",
        "  count success",
        "  finish success",
    ]


def test_actions_of_burr_that_somebody_iterates_or_streams(
    runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    iterated = application(("count", "finish"))
    runtime.instrument(iterated)
    assert [one[0].name for one in iterated.iterate(halt_after=["finish"])] == ["count", "finish"]
    streaming = application(("count", "say"))
    handle = runtime.instrument(streaming)
    _, words = streaming.stream_result(halt_after=["say"])
    assert handle.state().runs_open == 1, "it goes on in the hands of whoever reads it"
    assert ([one["words"] for one in words], words.get()[0]) == (["a"], {"words": "all"})
    assert drawn() == [
        "RUN burr success",
        "  count success",
        "  finish success",
        "RUN burr success",
        "  count success",
        "  say success",
    ]


def test_actions_of_burr_on_asyncio(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        cut = application(("later", "endless"))
        handle = runtime.instrument(cut)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await cut.arun(halt_after=["endless"])
        mixed = application(("later", "count"))
        runtime.instrument(mixed)
        names = [one[0].name async for one in mixed.aiterate(halt_after=["count"])]
        assert names == ["later", "count"]
        assert handle.state().errors == 0

    asyncio.run(main())
    assert drawn() == [
        "RUN burr cancellation",
        "  endless cancellation",
        "  later success",
        "RUN burr success",
        "  count success",
        "  later success",
    ]


# --- processes --------------------------------------------------------------------------------------------------------


class Bus:
    """Its handlers are kept in a list of those for each type, and in one for all."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Any]] = {}
        self.told: list[str] = []

    def on(self, kind: str, handler: Any) -> None:
        self.handlers.setdefault(kind, []).append(handler)

    def emit(self, kind: str, **payload: Any) -> None:
        self.told.append(kind)
        for handler in self.handlers.get(kind, []):
            handler(**payload)


class Listened(Bus):
    def subscribe_all(self, handler: Any) -> None:
        self.handlers.setdefault("*", []).append(handler)

    def emit(self, kind: str, **payload: Any) -> None:
        self.told.append(kind)
        for handler in self.handlers.get("*", []):
            handler(kind, payload)


class Slotted:
    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: list[str] = []

    def emit(self, kind: str, **payload: Any) -> None:
        self.told.append(kind)


ELSEWHERE = """
import sys, cloudpickle
bus, call = cloudpickle.loads(sys.stdin.buffer.read())
bus.emit("task.completed", task="build")
call()
print(*bus.told)
"""


@pytest.mark.parametrize("kind", [Bus, Listened, Slotted])
@pytest.mark.parametrize("by_value", [False, True], ids=["by reference", "by value"])
def test_a_bus_that_is_sent_to_another_process_is_its_own_there(
    runtime: spanbus.Runtime, kind: Any, by_value: bool
) -> None:
    bus = kind()
    handle = runtime.instrument(bus)
    every = runtime.instrument(None) if kind is Slotted else runtime.instrument_class(kind)
    if by_value:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        text = cloudpickle.dumps((bus, lambda: bus.emit("task.started", task="build")))
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    bus.emit("task.started", task="build")
    if by_value:
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE], input=text, check=True, capture_output=True
        )
        there = done.stdout.decode().split()
    else:
        other, call = cloudpickle.loads(text)
        every.detach()
        other.emit("task.completed", task="build")
        call()
        there = other.told
    assert (bus.told, there) == (["task.started"], ["task.completed", "task.started"])
    assert handle.state().events_seen == 1
    every.detach()
    handle.detach()


def work(bus: Bus, number: int) -> int:
    bus.emit("task.started", task=f"page {number}")
    bus.emit("task.completed", task=f"page {number}")
    return number


def forked(call: Callable[[int], int], numbers: range) -> list[int]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(call, numbers))


def joblib_s(backend: str) -> Callable[..., list[int]]:
    def parallel(call: Callable[[int], int], numbers: range) -> list[int]:
        jobs = (joblib.delayed(call)(number) for number in numbers)
        return list(joblib.Parallel(n_jobs=2, backend=backend)(jobs))

    return parallel


@pytest.mark.parametrize(
    "parallel",
    [forked, joblib_s("threading"), joblib_s("multiprocessing")],
    ids=["forked", "threads", "terminated"],
)
def test_phases_in_processes_that_are_forked_are_beneath_the_run(
    request: pytest.FixtureRequest, delivery: str, parallel: Callable[..., list[int]]
) -> None:
    if delivery == "sdk" and "terminated" in request.node.name:
        pytest.skip("joblib terminates these processes, with what the SDK has not sent")
    runtime, drawn = request.getfixturevalue("runtime"), request.getfixturevalue("drawn")
    runtime.instrument(BUS)
    BUS.emit("run.started", workflow="nightly")
    assert parallel(shared_work, range(3)) == [0, 1, 2]
    BUS.emit("run.completed")
    assert drawn() == [
        "RUN nightly success",
        "  page 0 success",
        "  page 1 success",
        "  page 2 success",
    ]


BUS = Bus()


def shared_work(number: int) -> int:
    return work(BUS, number)


@pytest.mark.parametrize("how", ["loky", "dask"])
def test_processes_that_are_sent_a_bus_do_their_work_and_tell_nobody(
    runtime: spanbus.Runtime, drawn: Drawn, how: str
) -> None:
    bus = Bus()
    runtime.instrument(bus)
    bus.emit("run.started", workflow="nightly")
    if how == "loky":
        jobs = (joblib.delayed(work)(bus, number) for number in range(3))
        assert joblib.Parallel(n_jobs=2, backend="loky")(jobs) == [0, 1, 2]
    else:
        later = [dask.delayed(work)(bus, number) for number in range(3)]
        assert dask.compute(*later, scheduler="processes", num_workers=2) == (0, 1, 2)
    bus.emit("run.completed")
    assert drawn() == ["RUN nightly success"]


@pytest.mark.parametrize("library", ["Hamilton", "Burr"])
def test_the_example_of_the_documents(
    example: Callable[..., list[str]], drawn: Drawn, library: str, tmp_path: Path
) -> None:
    sys.modules.pop("nightly", None)  # which Hamilton's example makes
    expected = example(library, tmp_path / "nightly.py")
    assert drawn() == expected
