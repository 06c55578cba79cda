"""Buses and signals as they are published, one line on each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace

import spanbus
from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus.errors import InputError

Drawn = Callable[[], list[str]]
JOB: list[tuple[str, dict[str, Any]]] = [
    ("run.started", {"workflow": "nightly"}),
    ("task.started", {"task": "fetch"}),
    ("task.failed", {"task": "fetch", "error": "ConnectionError: refused"}),
    ("task.started", {"task": "fetch"}),
    ("task.completed", {"task": "fetch"}),
    ("task.started", {"task": "build"}),
    ("task.completed", {"task": "build"}),
    ("task.started", {"task": "test"}),
    ("task.failed", {"task": "test", "error": "AssertionError: no"}),
    ("run.failed", {"error": "AssertionError: no"}),
]


def attached(bus: object) -> Handle:
    return attach(bus, Handle(Correlator(), Reader(load("generic")), label="a library"))


def assert_right(handle: Handle) -> None:
    handle.detach()
    state = handle.state()
    assert (state.errors, state.last_error) == (0, None)
    assert (state.runs_ended, state.run_failures) == (1, 1)
    assert (state.phases_ended, state.phase_failures, state.retries) == (3, 1, 1)
    assert state.abandoned == 0


def test_blinker_with_plain_receivers() -> None:
    blinker = pytest.importorskip("blinker")
    namespace = blinker.Namespace()
    signals = {kind: namespace.signal(kind) for kind, _ in JOB}
    heard: list[object] = []
    signals["task.started"].connect(lambda sender, **more: heard.append(more), weak=False)
    handle = attached(namespace)
    for kind, payload in JOB:
        signals[kind].send("the program", **payload)
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_blinker_with_receivers_that_are_coroutine_functions() -> None:
    blinker = pytest.importorskip("blinker")
    namespace = blinker.Namespace()
    signals = {kind: namespace.signal(kind) for kind, _ in JOB}
    heard: list[object] = []

    async def receive(sender: object, **more: object) -> None:
        heard.append(more)

    signals["task.started"].connect(receive)
    handle = attached(namespace)

    async def main() -> None:
        for kind, payload in JOB:
            await signals[kind].send_async(None, **payload)

    asyncio.run(main())
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_pyee() -> None:
    pyee = pytest.importorskip("pyee")
    emitter = pyee.EventEmitter()
    heard: list[object] = []
    emitter.on("task.started", lambda **more: heard.append(more))
    handle = attached(emitter)
    for kind, payload in JOB:
        emitter.emit(kind, **payload)
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_pyee_on_asyncio() -> None:
    emitters = pytest.importorskip("pyee.asyncio")
    heard: list[object] = []

    async def receive(payload: object) -> None:
        heard.append(payload)

    async def main() -> Handle:
        emitter = emitters.AsyncIOEventEmitter()
        emitter.on("task.started", receive)
        handle = attached(emitter)
        for kind, payload in JOB:
            emitter.emit(kind, payload)
            await asyncio.sleep(0)
        await emitter.wait_for_complete()
        return handle

    assert_right(asyncio.run(main()))
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_pypubsub() -> None:
    pub = pytest.importorskip("pubsub.pub")
    heard: list[object] = []

    def listen(task: object = None) -> None:
        heard.append(task)

    pub.subscribe(listen, "task.started")
    handle = attached(pub)
    for kind, payload in JOB:
        pub.sendMessage(kind, **payload)
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_bubus() -> None:
    bubus = pytest.importorskip("bubus")

    def kind_of(name: str, **fields: Any) -> Any:
        annotations = dict.fromkeys(fields, str)
        return type(
            name,
            (bubus.BaseEvent,),
            {"__annotations__": annotations, "__module__": __name__, **fields},
        )

    kinds = {
        "run.started": kind_of("RunStarted", workflow=""),
        "run.failed": kind_of("RunFailed", error=""),
        "task.started": kind_of("TaskStarted", task=""),
        "task.failed": kind_of("TaskFailed", task="", error=""),
        "task.completed": kind_of("TaskCompleted", task=""),
    }
    heard: list[object] = []

    async def receive(event: object) -> None:
        heard.append(event)

    async def main() -> Handle:
        bus = bubus.EventBus()
        bus.on(kinds["task.started"], receive)
        handle = attached(bus)
        for kind, payload in JOB:
            await bus.dispatch(kinds[kind](**payload))
        await bus.stop()
        return handle

    assert_right(asyncio.run(main()))
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_reactivex() -> None:
    subjects = pytest.importorskip("reactivex.subject")
    subject = subjects.Subject()
    heard: list[object] = []
    subject.subscribe(heard.append)
    handle = attached(subject)
    for kind, payload in JOB:
        subject.on_next({"type": kind, "payload": payload})
    assert_right(handle)
    assert len(heard) == 10


def test_an_error_of_a_subject_ends_what_is_open_with_its_class() -> None:
    subjects = pytest.importorskip("reactivex.subject")
    subject = subjects.Subject()
    handle = attached(subject)
    for kind, payload in JOB[:2]:
        subject.on_next({"type": kind, "payload": payload})
    subject.on_error(ValueError("gone"))
    state = handle.state()
    assert (state.run_failures, state.phase_failures, state.abandoned) == (1, 1, 0)


ENDS: list[tuple[str, dict[str, Any]]] = [
    ("run.started", {"workflow": "ends", "run_id": "1"}),
    *[("task.started", {"run_id": "1", "task": word}) for word in "abcd"],
    ("task.timeout", {"run_id": "1", "task": "a"}),
    ("task.cancelled", {"run_id": "1", "task": "b"}),
    ("task.completed", {"run_id": "1", "task": "c"}),
    ("task.failed", {"run_id": "1", "task": "d", "error": "ValueError: no"}),
    ("task.skipped", {"run_id": "1", "task": "e"}),
    ("run.failed", {"run_id": "1"}),
]
PICTURE = [
    "RUN ends failure timeout",
    "  a timeout timeout",
    "  b cancellation",
    "  c success",
    "  d failure ValueError",
    "  e skip",
]


def senders() -> dict[str, Callable[[], tuple[object, Callable[[str, dict[str, Any]], object]]]]:
    """Each library: a bus, and how it sends."""

    def blinker_namespace() -> Any:
        from blinker import Namespace

        namespace = Namespace()
        for kind, _ in ENDS:
            namespace.signal(kind)
        return namespace, lambda kind, payload: namespace.signal(kind).send(None, **payload)

    def pyee_emitter() -> Any:
        from pyee import EventEmitter

        emitter = EventEmitter()
        return emitter, lambda kind, payload: emitter.emit(kind, payload)

    def pubsub() -> Any:
        from pubsub.core import Publisher

        publisher = Publisher()
        return publisher, lambda kind, payload: publisher.sendMessage(kind, **payload)

    def subject() -> Any:
        from reactivex.subject import Subject

        one = Subject()
        return one, lambda kind, payload: one.on_next({"type": kind, "payload": payload})

    return {"blinker": blinker_namespace, "pyee": pyee_emitter, "pubsub": pubsub, "rx": subject}


@pytest.mark.parametrize("library", ["blinker", "pyee", "pubsub", "rx"])
def test_how_phases_end(library: str, runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus, send = senders()[library]()
    runtime.instrument(bus)
    for kind, payload in ENDS:
        send(kind, payload)
    assert drawn() == PICTURE


@pytest.mark.parametrize("library", ["blinker", "pyee", "pubsub", "rx"])
def test_two_runs_at_once(library: str, runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus, send = senders()[library]()
    runtime.instrument(bus)
    for kind, payload in ENDS:
        for run in "12":
            send(kind, {**payload, "run_id": run})
    assert drawn() == PICTURE * 2


@pytest.mark.parametrize("library", ["blinker", "pyee", "pubsub"])
def test_spans_made_inside(library: str, runtime: spanbus.Runtime, drawn: Drawn) -> None:
    """With ``wrap`` the phase is current for whoever announced it."""
    bus, send = senders()[library]()
    runtime.instrument(bus, mode="wrap")
    seen: list[int] = []
    for task in "ab":
        send("task.started", {"run_id": "1", "task": task})
        seen.append(trace.get_current_span().get_span_context().span_id)
        send("task.completed", {"run_id": "1", "task": task})
    assert len(set(seen)) == 2 and 0 not in seen


def test_events_that_are_made_when_they_are_named() -> None:
    events = pytest.importorskip("events").Events()
    heard: list[object] = []
    events.on_task_started += lambda **payload: heard.append(payload)
    handle = attached(events)
    for kind, payload in JOB:
        getattr(events, "on_" + kind.replace(".", "_"))(**payload)
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)
    assert len(events) == len({kind for kind, _ in JOB})


def test_events_that_are_declared() -> None:
    library = pytest.importorskip("events")
    names = ["on_" + kind.replace(".", "_") for kind, _ in JOB]
    events = library.Events(tuple(dict.fromkeys(names)))
    handle = attached(events)
    for name, (_, payload) in zip(names, JOB, strict=True):
        getattr(events, name)(**payload)
    assert_right(handle)
    with pytest.raises(library.events.EventsException):
        events.on_something_else()


def test_signals_of_psygnal_that_are_called() -> None:
    psygnal = pytest.importorskip("psygnal")

    class Engine:
        told = psygnal.Signal(str, dict)

    engine, heard = Engine(), list[object]()
    engine.told.connect(lambda kind, payload: heard.append(kind))
    handle = attached(engine)
    for number, (kind, payload) in enumerate(JOB):
        (engine.told.emit if number % 2 else engine.told)(kind, payload)
    assert_right(handle)
    assert len(heard) == len(JOB)


def test_a_group_of_psygnal() -> None:
    psygnal = pytest.importorskip("psygnal")

    class Group(psygnal.SignalGroup):  # type: ignore[misc]
        run_started = psygnal.Signal(dict)
        task_started = psygnal.Signal(dict)
        task_failed = psygnal.Signal(dict)
        task_completed = psygnal.Signal(dict)
        run_failed = psygnal.Signal(dict)

    group, heard = Group(), list[object]()
    group["task_started"].connect(heard.append)
    handle = attached(group)
    for kind, payload in JOB:
        group[kind.replace(".", "_")].emit(payload)
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


def test_pymitter() -> None:
    pymitter = pytest.importorskip("pymitter")
    emitter, heard = pymitter.EventEmitter(wildcard=True), list[object]()
    emitter.on("task.*", lambda **payload: heard.append(payload))
    handle = attached(emitter)
    for kind, payload in JOB:
        emitter.emit(kind, **payload)
    assert_right(handle)
    assert len(heard) == sum(kind.startswith("task.") for kind, _ in JOB)


@pytest.mark.parametrize("how", ["send", "send_robust", "asend", "asend_robust"])
def test_signals_of_django_in_a_namespace(how: str) -> None:
    dispatch = pytest.importorskip("django.dispatch")
    names = {kind: kind.replace(".", "_") for kind, _ in JOB}
    namespace = SimpleNamespace(**{name: dispatch.Signal() for name in names.values()})
    heard: list[object] = []

    def receive(sender: object, **payload: object) -> None:
        heard.append(payload)

    namespace.task_started.connect(receive)
    handle = attached(namespace)
    for kind, payload in JOB:
        sent = getattr(getattr(namespace, names[kind]), how)(sender=None, **payload)
        if how.startswith("a"):
            asyncio.run(awaited(sent))
    assert_right(handle)
    assert len(heard) == sum(kind == "task.started" for kind, _ in JOB)


async def awaited(coroutine: Any) -> Any:
    return await coroutine


# --- what has states, or files, and no work ----------------------------------------------------------------------------


def test_a_machine_of_transitions_is_refused_and_its_calls_are_watched(
    runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    transitions = pytest.importorskip("transitions")

    class Order:
        def charge(self) -> None:
            if self.state == "paid":  # type: ignore[attr-defined]
                raise ValueError("twice")

    order: Any = Order()
    machine = transitions.Machine(order, states=["new", "paid"], initial="new")
    machine.add_transition("pay", "*", "paid", before="charge")
    for one in (machine, order):
        with pytest.raises(
            InputError, match=r"is a state machine.*watching_calls\(machine, 'pay'\)"
        ):
            runtime.instrument(one)
    handle = runtime.instrument(None)
    with handle.watching_calls(order, "pay"):
        assert order.pay()
        with pytest.raises(ValueError, match="twice"):
            order.pay()
    assert order.pay.__class__.__name__ == "partial", "it is as it was"
    handle.detach()
    assert drawn() == [
        "RUN implicit failure ValueError",
        "  pay failure ValueError",
        "  pay success",
    ]


def test_a_state_machine_of_a_class_is_refused_and_its_calls_are_watched(
    runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    library = pytest.importorskip("statemachine")

    class Order(library.StateMachine):  # type: ignore[misc, name-defined]
        new = library.State(initial=True)
        paid = library.State(final=True)
        pay = new.to(paid)

    order = Order()
    with pytest.raises(InputError, match="is a state machine"):
        runtime.instrument(order)
    handle = runtime.instrument(None)
    with handle.watching_calls(order, "pay"):
        order.pay()
    handle.detach()
    assert order.current_state_value == "paid"
    assert drawn() == ["RUN implicit success", "  pay success"]


def test_an_observer_of_files_takes_its_events_from_a_queue(runtime: spanbus.Runtime) -> None:
    observers = pytest.importorskip("watchdog.observers")
    with pytest.raises(InputError, match="offers no way in that is known"):
        runtime.instrument(observers.Observer())
