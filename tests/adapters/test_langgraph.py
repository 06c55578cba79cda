"""LangGraph: what is recorded of a compiled graph, by the one line."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from opentelemetry import trace

import spanbus
from spanbus.errors import InputError

Drawn = Callable[[], list[str]]


class State(TypedDict):
    said: Annotated[list[str], operator.add]


def graph(*nodes: tuple[str, Any], **options: Any) -> Any:
    """A chain of nodes, compiled."""
    builder = StateGraph(State)
    before = START
    for name, node in nodes:
        builder.add_node(name, node, **options)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder.compile()


def say(text: str) -> Callable[[State], State]:
    return lambda state: {"said": [text]}


def fail(state: State) -> State:
    raise ValueError("no")


def test_success_and_its_spans(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    inside: dict[str, int] = {}

    def look(state: State) -> State:
        inside["look"] = trace.get_current_span().get_span_context().trace_id
        return {"said": ["looked"]}

    app = graph(("plan", say("planned")), ("look", look))
    runtime.instrument(app)
    before = trace.get_current_span()
    assert app.invoke({"said": []}) == {"said": ["planned", "looked"]}
    assert trace.get_current_span() is before
    assert inside["look"] != 0
    assert drawn() == ["RUN LangGraph success", "  look success", "  plan success"]


def test_a_node_s_exception_leaves_and_fails_both(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    app = graph(("plan", say("planned")), ("act", fail))
    runtime.instrument(app)
    with pytest.raises(ValueError, match="no"):
        app.invoke({"said": []})
    assert drawn() == [
        "RUN LangGraph failure ValueError",
        "  act failure ValueError",
        "  plan success",
    ]


@pytest.mark.parametrize("asynchronously", [False, True])
def test_retries_are_attempts(runtime: spanbus.Runtime, drawn: Drawn, asynchronously: bool) -> None:
    calls: list[int] = []

    def flaky(state: State) -> State:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("refused")
        return {"said": ["fetched"]}

    policy = RetryPolicy(initial_interval=0.01, max_attempts=3)
    app = graph(("fetch", flaky), retry_policy=policy)
    handle = runtime.instrument(app)
    if asynchronously:
        assert asyncio.run(app.ainvoke({"said": []})) == {"said": ["fetched"]}
    else:
        assert app.invoke({"said": []}) == {"said": ["fetched"]}
    assert drawn() == [
        "RUN LangGraph success",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 failure ConnectionError",
        "    fetch attempt 3 success",
    ]
    assert (handle.state().retries, handle.state().phase_failures) == (2, 0)


def test_a_time_limit(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def slow(state: State) -> State:
        await asyncio.sleep(60)
        return state

    app = graph(("slow", slow), timeout=0.05)
    runtime.instrument(app)

    async def main() -> None:
        with pytest.raises(Exception, match="exceeded its run timeout"):
            await app.ainvoke({"said": []})

    asyncio.run(main())
    assert drawn() == ["RUN LangGraph timeout timeout", "  slow timeout timeout"]


def test_a_cancelled_invocation(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def slow(state: State) -> State:
            began.set()
            await asyncio.sleep(60)
            return state

        app = graph(("slow", slow))
        runtime.instrument(app)
        task = asyncio.create_task(app.ainvoke({"said": []}))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert drawn() == ["RUN LangGraph cancellation", "  slow cancellation"]


def test_two_invocations_at_once(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    together = threading.Barrier(2)

    def meet(state: State) -> State:
        together.wait(10)
        return {"said": ["met"]}

    app = graph(("meet", meet), ("after", say("after")))
    runtime.instrument(app)
    threads = [threading.Thread(target=app.invoke, args=({"said": []},)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    one = ["RUN LangGraph success", "  after success", "  meet success"]
    assert drawn() == one * 2


def test_nodes_side_by_side(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    builder = StateGraph(State)
    for name in ("left", "right"):
        builder.add_node(name, say(name))
        builder.add_edge(START, name)
    app = builder.compile()
    runtime.instrument(app)
    asyncio.run(app.ainvoke({"said": []}))
    assert drawn() == ["RUN LangGraph success", "  left success", "  right success"]


def test_spans_made_inside_are_children_of_the_node(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen: dict[str, bytes] = {}

    async def look(state: State) -> State:
        seen["look"] = trace.get_current_span().get_span_context().span_id.to_bytes(8, "big")
        return {"said": []}

    def look_too(state: State) -> State:
        seen["look_too"] = trace.get_current_span().get_span_context().span_id.to_bytes(8, "big")
        return {"said": []}

    app = graph(("look", look), ("look_too", look_too))
    handle = runtime.instrument(app)
    asyncio.run(app.ainvoke({"said": []}))
    drawn()
    assert handle.state().errors == 0
    assert len(set(seen.values())) == 2 and b"\0" * 8 not in seen.values()


def test_a_subgraph_is_a_run_beneath_its_node(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    inner = graph(("think", say("thought")))
    outer = graph(("agent", inner))
    runtime.instrument(inner)
    runtime.instrument(outer)
    outer.invoke({"said": []})
    assert drawn() == [
        "RUN LangGraph success",
        "  agent success",
        "    RUN LangGraph success",
        "      think success",
    ]


def test_an_interrupt_pauses_the_node(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    def ask(state: State) -> State:
        return {"said": [interrupt("sure?")]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    app = builder.compile(checkpointer=InMemorySaver())
    runtime.instrument(app)
    thread: Any = {"configurable": {"thread_id": "1"}}
    app.invoke({"said": []}, thread)
    assert app.invoke(Command(resume="yes"), thread) == {"said": ["yes"]}
    assert drawn() == [
        "RUN LangGraph success",
        "  ask cancellation",
        "RUN LangGraph success",
        "  ask success",
    ]


def test_a_consumer_that_stops_reading(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    app = graph(("one", say("1")), ("two", say("2")))
    runtime.instrument(app)
    for _ in app.stream({"said": []}):
        break
    assert drawn() == ["RUN LangGraph cancellation", "  one success"]


def test_it_leaves_the_graph_as_it_was(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    app = graph(("plan", say("planned")))
    before = app.nodes["plan"].bound.func
    handle = runtime.instrument(app)
    assert app.nodes["plan"].bound.func is not before
    handle.detach()
    assert app.nodes["plan"].bound.func is before
    assert "stream" not in vars(app)


def test_what_is_not_compiled_is_refused(runtime: spanbus.Runtime) -> None:
    with pytest.raises(InputError, match=r"graph\.compile\(\)"):
        runtime.instrument(StateGraph(State))
