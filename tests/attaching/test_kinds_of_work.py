"""Work of many kinds on a bus that is attached to with one line: hooks around it, parts of a map, approvals, listeners that are
told nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from told import Events, Watched, published


def of_run(*told: tuple[str, dict[str, object]]) -> Events:
    return [{"type": kind, "payload": {"run_id": "r-1", **fields}} for kind, fields in told]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("before_run", "after_run"),
        ("pre_run", "post_run"),
        ("on_before_run", "on_after_run"),
        ("BeforeRun", "AfterRun"),
    ],
)
@pytest.mark.parametrize("thing", ["task", "step"])
def test_hooks_around_the_work(before: str, after: str, thing: str) -> None:
    begin, end = (
        word.replace("run", thing).replace("Run", thing.title()) for word in (before, after)
    )
    events = of_run(
        (before, {"workflow": "nightly"}),
        (begin, {thing: "fetch"}),
        (end, {thing: "fetch"}),
        (begin, {thing: "lint"}),
        (f"{thing}_failed", {thing: "lint"}),
        (end, {thing: "lint"}),
        (begin, {thing: "test"}),
        (end, {thing: "test", "exception": ValueError("2 of 40")}),
        (after, {"success": False}),
    )
    runs, state = published(events)
    phases = [("fetch", "success", 1), ("lint", "failure", 1), ("test", "failure", 1)]
    assert runs == [("nightly", "r-1", "failure", phases)]
    assert (state.errors, state.orphan_ends, state.unmatched_ends, state.abandoned) == (0, 0, 0, 0)


def test_after_something_that_nobody_began_says_nothing() -> None:
    runs, state = published(of_run(("after_task", {"task": "fetch"}), ("post_step", {"step": "a"})))
    assert [phases for *_, phases in runs] in ([], [[]])
    assert (state.phases_ended, state.orphan_ends) == (0, 0)


@pytest.mark.parametrize("key", ["index", "map_index", "shard", "partition", "chunk"])
@pytest.mark.parametrize("more", [{}, {"task_id": "fetch"}])
def test_parts_of_a_map_are_told_apart_by_their_numbers(key: str, more: dict[str, object]) -> None:
    said = [{"task": "fetch", key: number, **more} for number in range(3)]
    events = of_run(
        ("run.started", {"workflow": "nightly"}),
        *[("task.started", fields) for fields in said],
        ("task.completed", said[2]),
        ("task.failed", said[0]),
        ("task.started", said[0]),
        ("task.completed", said[0]),
        ("task.failed", said[1]),
        ("task.started", {"task": "fetch", key: 3, **more}),
        ("task.completed", {"task": "fetch", key: 3, **more}),
        ("run.completed", {}),
    )
    ((*_, phases),), state = published(events)
    assert sorted(phases) == [
        ("fetch", "failure", 1),
        ("fetch", "success", 1),
        ("fetch", "success", 1),
        ("fetch", "success", 2),
    ]
    assert (state.retries, state.abandoned) == (1, 0)


@pytest.mark.parametrize(
    ("word", "result"), [("approved", "success"), ("declined", "failure"), ("denied", "failure")]
)
def test_what_waits_for_a_person(word: str, result: str) -> None:
    events = of_run(
        ("pipeline.started", {"pipeline": "release"}),
        ("stage.waiting_for_approval", {"stage": "gate"}),
        ("stage.started", {"stage": "gate"}),
        (f"stage.{word}", {"stage": "gate", "by": "ann"}),
        (f"merge_request.{word}", {"number": 7}),
        ("pipeline.completed", {}),
    )
    runs, state = published(events)
    assert runs == [("release", "r-1", "success", [("gate", result, 1)])]
    assert (state.orphan_ends, state.abandoned) == (0, 0)


def entity(kind: str, name: str, **told: object) -> dict[str, object]:
    return {"entity": kind, "name": name, **told}


@pytest.mark.parametrize("key", ["to", "new_state", "status"])
def test_the_kind_of_work_in_a_field_and_its_state_in_another(key: str) -> None:
    runs, state = published(
        [
            entity("run", "nightly", **{key: "RUNNING"}),
            entity("task", "fetch", **{key: "RUNNING"}),
            entity("task", "fetch", **{key: "SUCCESS"}),
            entity("customer", "ann", **{key: "FAILED"}),
            entity("task", "test", **{key: "RUNNING"}),
            entity("task", "test", **{key: "FAILED"}),
            entity("run", "nightly", **{key: "FAILED"}),
        ]
    )
    assert [(name, result, phases) for name, _, result, phases in runs] == [
        ("nightly", "failure", [("fetch", "success", 1), ("test", "failure", 1)])
    ]
    assert state.orphan_ends == 0


@pytest.mark.parametrize(
    "told",
    [
        lambda kind, word: {"entity": kind, "event": word},
        lambda kind, word: {"object_type": kind.title(), "type": word},
        lambda kind, word: {"type": kind, "event": word},
    ],
)
def test_the_kind_of_work_in_a_field_and_what_happened_in_another(
    told: Callable[[str, str], dict[str, object]],
) -> None:
    runs, state = published(
        [
            {**told("run", "started"), "name": "nightly"},
            {**told("task", "started"), "name": "fetch"},
            {**told("task", "finished"), "name": "fetch"},
            {**told("run", "finished"), "name": "nightly"},
        ]
    )
    assert [(name, result, phases) for name, _, result, phases in runs] == [
        ("nightly", "success", [("fetch", "success", 1)])
    ]
    assert (state.runs_ended, state.phases_ended) == (1, 1)


def test_objects_that_are_published_with_every_change_of_their_state() -> None:
    class Work:
        def __init__(self, name: str) -> None:
            self.id, self.name, self.status = f"id of {name}", name, "pending"
            self.secret = object()

        def now(self, status: str) -> Work:
            self.status = status
            return self

    class Hub:
        def publish(self, what: str, **told: object) -> None: ...

    hub = Hub()
    watched = Watched(hub)
    run, task = Work("nightly"), Work("fetch")
    hub.publish("run_updated", run=run.now("running"))
    hub.publish("task_updated", task=task.now("running"))
    hub.publish("task_updated", task=task.now("failed"))
    hub.publish("run_updated", run=run.now("failed"))
    watched.handle.detach()
    assert watched.told() == [("nightly", "id of nightly", "failure", [("fetch", "failure", 1)])]


def test_a_bus_that_is_called() -> None:
    class Events:
        def __init__(self) -> None:
            self.handlers: dict[str, list[Callable[..., object]]] = {}

        def on(self, kind: str, handler: Callable[..., object]) -> None:
            self.handlers.setdefault(kind, []).append(handler)

        def __call__(self, kind: str, **told: object) -> list[object]:
            return [handler(**told) for handler in self.handlers.get(kind, [])]

    events, other = Events(), Events()
    events.on("task.started", lambda task: task)
    watched = Watched(events)
    assert events("task.started", task="fetch") == ["fetch"]
    assert events("task.completed", task="fetch") == []
    assert other("task.started", task="of another bus") == []
    watched.handle.detach()
    assert events("task.started", task="later") == ["later"]
    ((_, _, result, phases),) = watched.told()
    assert (result, phases) == ("success", [("fetch", "success", 1)])


async def test_a_stream_that_is_published_is_told_event_by_event() -> None:
    class Hub:
        async def publish_all(self, events: AsyncIterator[tuple[str, str]]) -> None:
            async for kind, task in events:
                await self.publish(kind, task=task)

        async def publish(self, kind: str, **told: object) -> None: ...

    async def events() -> AsyncIterator[tuple[str, str]]:
        yield "task.started", "fetch"
        yield "task.completed", "fetch"

    hub = Hub()
    watched = Watched(hub)
    await hub.publish_all(events())
    watched.handle.detach()
    ((_, _, result, phases),) = watched.told()
    assert (result, phases, watched.handle.state().errors) == (
        "success",
        [("fetch", "success", 1)],
        0,
    )


JOB = [
    ("WORKFLOW_STARTED", {"name": "nightly"}),
    ("TASK_STARTED", {"name": "fetch"}),
    ("TASK_SUCCEEDED", {"name": "fetch"}),
    ("TASK_STARTED", {"name": "test"}),
    ("TASK_FAILED", {"name": "test"}),
    ("WORKFLOW_FAILED", {"name": "nightly"}),
]


def test_listeners_that_are_told_no_more_than_that_something_happened() -> None:
    class Store:
        def __init__(self) -> None:
            self.listeners: list[Callable[[], object]] = []

        def subscribe(self, listener: Callable[[], object]) -> None:
            self.listeners.append(listener)

        def dispatch(self, action: dict[str, Any]) -> dict[str, Any]:
            for listener in self.listeners:
                listener()
            return action

    store = Store()
    watched = Watched(store)
    for kind, payload in JOB:
        store.dispatch({"type": kind, "payload": payload})
    watched.handle.detach()
    ((name, _, result, phases),) = watched.told()
    assert (name, result, phases) == (
        "nightly",
        "failure",
        [("fetch", "success", 1), ("test", "failure", 1)],
    )
    assert watched.handle.state().errors == 0


@pytest.mark.parametrize("encode", [dict, json.dumps, lambda payload: json.dumps(payload).encode()])
def test_headers_that_have_the_type_of_a_body(encode: Callable[[Any], object]) -> None:
    class Sink:
        def send(self, headers: dict[str, str], body: object) -> int:
            return 202

    sink = Sink()
    watched = Watched(sink)
    for kind, payload in JOB:
        headers = {"ce-type": f"com.example.{kind.lower()}", "content-type": "application/json"}
        assert sink.send(headers, encode(payload)) == 202
    watched.handle.detach()
    ((name, _, result, phases),) = watched.told()
    assert (name, result, phases) == (
        "nightly",
        "failure",
        [("fetch", "success", 1), ("test", "failure", 1)],
    )
