"""Other ways to feed a handle: the ``subscribe`` argument, streams, watched calls, adapters; and the errors of ``instrument``."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from spanbus._attaching.adapters import Adapter
from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator, CorrelatorState
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._runtime import Runtime
from spanbus._settings import load_settings
from spanbus.errors import InputError

Event = dict[str, object]


class Bus:
    def publish(self, event_type: str, payload: dict[str, object]) -> None: ...


def a_handle() -> Handle:
    return Handle(Correlator(), Reader(load("generic")), label="a bus")


def event(kind: str, **payload: object) -> Event:
    return {"type": kind, "payload": payload}


def ended(state: CorrelatorState) -> tuple[int, int, int, int, int]:
    return (
        state.runs_ended,
        state.run_failures,
        state.phases_ended,
        state.phase_failures,
        state.abandoned,
    )


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    env = {"SPANBUS_STATE_DIR": str(tmp_path)}
    with Runtime(load_settings(env=env), env=env) as opened:
        yield opened


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [object(), 5, "bus", [1, 2], {"a": 1}, print, lambda: None])
def test_an_object_that_is_not_a_bus_is_refused_with_the_alternatives(thing: object) -> None:
    with pytest.raises(InputError, match=r"subscribe=.*handle\.feed.*handle\.watching"):
        attach(thing, a_handle())


def test_an_object_that_creates_any_attribute_is_refused_and_unchanged() -> None:
    class Events:
        def __getattr__(self, name: str) -> list[object]:
            made: list[object] = []
            setattr(self, name, made)
            return made

    events = Events()
    with pytest.raises(InputError, match="offers no way in that is known"):
        attach(events, a_handle())
    assert vars(events) == {}


class OfHttp:
    """Routes of HTTP by their methods, and handlers that are registered: as Flask."""

    def register_error_handler(self, handler: object) -> None: ...
    def get(self, path: str) -> None: ...
    def post(self, path: str) -> None: ...


class OfNamedSignals:
    """Connects receivers to signals that are objects of their own: as Scrapy."""

    def connect(self, receiver: object, signal: object, **options: object) -> None: ...
    def disconnect(self, receiver: object, signal: object) -> None: ...


class OfFiles:
    """Gives its handlers what it takes from a queue: as an observer of watchdog."""

    def add_handler_for_watch(self, handler: object, watch: object) -> None: ...
    def dispatch_events(self, event_queue: object) -> None: ...


class OfStates:
    """Goes from one state to another: as a machine of transitions."""

    states, events, initial = ("new", "paid"), ("pay",), "new"

    def dispatch(self, trigger: str) -> None: ...
    def on_enter(self, state: str, handler: object) -> None: ...


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (OfHttp, "no way in that is known .*`post`"),
        (OfNamedSignals, "no way in that is known .*`connect`"),
        (OfFiles, "no way in that is known .*`dispatch_events`"),
        (OfStates, "is a state machine, not a bus"),
    ],
)
def test_what_looks_like_a_bus_and_publishes_nothing_is_refused(
    kind: Callable[[], object], why: str
) -> None:
    thing = kind()
    with pytest.raises(InputError, match=rf"{why}.*watching_calls\("):
        attach(thing, a_handle())
    assert vars(thing) == {}


def test_a_bus_that_knows_of_states_and_events_is_none_of_them() -> None:
    class Bus:
        states, events, initial = ("up", "down"), ("a", "b"), "up"

        def publish(self, kind: str, **payload: object) -> None: ...

    bus, handle = Bus(), a_handle()
    attach(bus, handle)
    bus.publish("task.started", task="lint")
    assert handle.state().events_seen == 1


async def an_async_generator() -> AsyncIterator[Event]:
    yield event("task.started", task="lint")


@pytest.mark.parametrize("stream", [an_async_generator(), (event(kind) for kind in ()), iter(())])
def test_a_stream_is_refused_with_how_to_watch_it(stream: object) -> None:
    with pytest.raises(InputError, match=r"handle\.watching\(stream\)"):
        attach(stream, a_handle())


def test_a_wrong_mode_is_named_with_the_right_ones(runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"'rap'.*'auto', 'observe', 'wrap'"):
        runtime.instrument(Bus(), mode="rap")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'auto', 'observe', 'wrap'"):
        runtime.instrument_class(Bus, mode="rap")  # type: ignore[arg-type]


def test_an_exception_of_subscribe_becomes_an_input_error() -> None:
    class Broken:
        def __init__(self) -> None:
            self.handlers: list[object] = []

        def subscribe(self, handler: Callable[..., object]) -> None:
            raise OSError("no connection")

        def process(self) -> None: ...

    with pytest.raises(InputError, match="OSError: no connection"):
        attach(Broken(), a_handle())


def test_a_bus_whose_subscribe_raises_is_observed_through_publish() -> None:
    class Picky(Bus):
        def subscribe(self, handler: Callable[..., object]) -> None:
            raise TypeError("not like that")

    bus, handle = Picky(), a_handle()
    attach(bus, handle)
    bus.publish("task.started", {"task": "lint"})
    bus.publish("task.completed", {"task": "lint"})
    assert handle.state().phases_ended == 1


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_detach_calls_what_the_subscribe_argument_returned(runtime: Runtime) -> None:
    class Topics:
        def __init__(self) -> None:
            self.handlers: dict[str, Callable[..., object]] = {}

        def on(self, pattern: str, handler: Callable[..., object]) -> Callable[[], None]:
            self.handlers[pattern] = handler
            return lambda: self.handlers.clear()

    bus = Topics()
    handle = runtime.instrument(bus, subscribe=lambda observer: bus.on("%", observer))
    bus.handlers["%"]("task.started", {"task": "lint"})
    bus.handlers["%"]("task.completed", {"task": "lint"})
    assert handle.state().phases_ended == 1
    handle.detach()
    assert bus.handlers == {}


def test_a_coroutine_from_subscribe_is_refused_and_closed(runtime: Runtime) -> None:
    async def later(observer: object) -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="await it yourself"):
            runtime.instrument(Bus(), subscribe=later)


@pytest.mark.parametrize("fails", [False, True])
def test_an_async_stream_is_passed_through_and_its_exception_ends_open_spans(fails: bool) -> None:
    async def stream() -> AsyncIterator[Event]:
        yield event("task.started", task="lint", run_id="r1")
        if fails:
            raise ValueError("out")
        yield event("task.completed", task="lint", run_id="r1")

    async def main() -> list[Event]:
        passed: list[Event] = []
        try:
            async for one in handle.watching(stream()):
                passed.append(one)  # noqa: PERF401 (what came before the error is asserted)
        except ValueError:
            assert fails
        return passed

    handle = a_handle()
    passed = asyncio.run(main())
    assert len(passed) == (1 if fails else 2)
    assert ended(handle.state()) == (1, int(fails), 1, int(fails), 0)


def test_a_plain_stream_is_passed_through() -> None:
    handle = a_handle()
    events = [event("task.started", task="lint"), event("task.completed", task="lint")]
    assert list(handle.watching(iter(events))) == events
    assert ended(handle.state()) == (1, 0, 1, 0, 0)


def test_a_reader_that_stops_early_fails_nothing() -> None:
    handle = a_handle()
    stream = handle.watching([event("task.started", task="lint"), event("note")])
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert handle.state().run_failures == 0


def test_a_run_may_span_several_streams() -> None:
    pages = [
        [event("run.started", run_id="7"), event("phase.started", run_id="7", phase="lint")],
        [event("phase.completed", run_id="7", phase="lint")],
        [event("run.completed", run_id="7")],
    ]
    handle = a_handle()
    seen = []
    for page in pages:
        list(handle.watching(page))
        seen.append(ended(handle.state()))
    assert seen == [(0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (1, 0, 1, 0, 0)]


def test_an_announced_run_without_an_end_is_abandoned_at_detach() -> None:
    runs: list[SpanState] = []
    correlator = Correlator(on_run_ended=runs.append)
    handle = Handle(correlator, Reader(load("generic")), label="a stream")
    list(handle.watching([event("run.started", run_id="7"), event("note", run_id="7")]))
    list(handle.watching([event("phase.completed", run_id="8", phase="lint")]))
    assert [(run.run_id, str(run.result)) for run in runs] == [("8", "success")]
    handle.detach()
    assert [(run.run_id, run.error_type) for run in runs] == [("8", None), ("7", "abandoned")]


def test_a_long_stream_keeps_no_ended_spans() -> None:
    def stream() -> Iterator[Event]:
        for number in range(200):
            run_id = f"long-{number}"
            yield event("run.started", run_id=run_id)
            yield event("phase.started", run_id=run_id, phase="lint")
            yield event("phase.completed", run_id=run_id, phase="lint")
            yield event("run.completed", run_id=run_id)

    def kept() -> int:
        gc.collect()
        records = [one for one in gc.get_objects() if isinstance(one, SpanState)]
        return sum(one.run_id.startswith("long-") for one in records)

    handle = a_handle()
    assert max(kept() for at, _ in enumerate(handle.watching(stream())) if at % 100 == 99) < 50
    assert ended(handle.state()) == (200, 0, 200, 0, 0)


async def test_the_work_for_a_batch_is_linear_in_its_size() -> None:
    class Batches:
        def publish_many(self, events: list[Event]) -> None: ...

    def calls(size: int) -> int:
        bus, handle, count = Batches(), a_handle(), 0
        attach(bus, handle)

        def called(frame: object, what: str, about: object) -> None:
            nonlocal count
            count += what == "call"

        starts = [event("phase.started", run_id="r", phase=f"p{each}") for each in range(size)]
        sys.setprofile(called)
        try:
            bus.publish_many(starts)
        finally:
            sys.setprofile(None)
        assert handle.state().phases_open == size
        handle.detach()
        return count

    calls(1)
    assert calls(400) < 3 * calls(200)


async def test_a_watched_call_is_a_phase() -> None:
    class Engine:
        def execute(self, name: str) -> str:
            if name == "test":
                raise ValueError("no")
            return name.upper()

        async def execute_later(self, name: str) -> str:
            return self.execute(name)

    engine, handle = Engine(), a_handle()
    with (
        handle.watching_calls(engine, "execute"),
        handle.watching_calls(engine, "execute_later", name=lambda name: f"later {name}"),
    ):
        assert engine.execute("build") == "BUILD"
        with pytest.raises(ValueError, match="no"):
            engine.execute("test")
        assert await engine.execute_later("lint") == "LINT"
    engine.execute("unseen")
    handle.detach()
    state = handle.state()
    assert (state.phases_ended, state.phase_failures, state.errors) == (4, 1, 0)
    assert "execute" not in vars(engine)


def test_watching_a_missing_method_is_an_input_error() -> None:
    with pytest.raises(InputError, match="'run'"), a_handle().watching_calls(Bus(), "run"):
        pass


def test_tell_takes_type_and_payload() -> None:
    handle = a_handle()
    handle.tell("run.started", workflow="nightly")
    handle.tell("task.started", task="lint")
    handle.tell("task.failed", task="lint", error="ValueError: no")
    handle.tell("run.failed")
    assert ended(handle.state()) == (1, 1, 1, 1, 0)


# --- tasks that end ---------------------------------------------------------------------------------------------------


def test_a_task_that_raises_or_is_cancelled_ends_its_open_spans() -> None:
    async def work(how: str) -> None:
        bus.publish("run.started", {"workflow": how})
        bus.publish("task.started", {"task": "lint"})
        if how == "cancelled":
            await asyncio.sleep(3_600)
        if how == "raised":
            raise ValueError("no")
        bus.publish("task.completed", {"task": "lint"})
        bus.publish("run.completed", {})

    async def main() -> None:
        cancelled = asyncio.create_task(work("cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        for how in ("raised", "fine", "fine", "fine"):
            await asyncio.gather(asyncio.create_task(work(how)), return_exceptions=True)

    bus, handle = Bus(), a_handle()
    attach(bus, handle)
    asyncio.run(main())
    state = handle.state()
    assert (state.runs_open, state.errors) == (0, 0)
    assert ended(state) == (5, 1, 5, 1, 0)


def test_an_unretrieved_task_exception_is_still_reported_by_asyncio(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, handle = Bus(), a_handle()
    attach(bus, handle)

    async def work() -> None:
        bus.publish("task.started", {"task": "lint"})
        raise ValueError("nobody asks")

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        del task

    asyncio.run(main())
    assert "Task exception was never retrieved" in caplog.text


# --- settings of the one line -----------------------------------------------------------------------------------------


def test_instrument_takes_a_dialect_as_a_name_path_mapping_or_object(
    runtime: Runtime, tmp_path: Path
) -> None:
    table = {
        "name": "conveyor",
        "extends": "generic",
        "rules": [
            {"type": "station.entered", "level": "phase", "verb": "start", "name": ["station"]},
            {"type": "station.left", "level": "phase", "verb": "end", "name": ["station"]},
        ],
    }
    text = """name = "conveyor"
extends = "generic"
rules = [
  { type = "station.entered", level = "phase", verb = "start", name = ["station"] },
  { type = "station.left", level = "phase", verb = "end", name = ["station"] },
]
"""
    (tmp_path / "conveyor.toml").write_text(text)
    from spanbus._reading.dialect_file import parse

    for dialect in (table, tmp_path / "conveyor.toml", parse(table, where="here")):
        bus = Bus()
        handle = runtime.instrument(bus, dialect=dialect)
        bus.publish("station.entered", {"station": "press"})
        bus.publish("station.left", {"station": "press"})
        assert handle.state().phases_ended == 1
    with pytest.raises(InputError, match="a name, a path, a mapping or a Dialect"):
        runtime.instrument(Bus(), dialect=7)  # type: ignore[arg-type]


def test_recorded_events_are_redacted_and_can_be_replayed(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    bus = Bus()
    handle = runtime.instrument(bus, record=path)
    bus.publish("task.started", {"task": "lint", "password": "hunter2", "live": object()})
    bus.publish("task.completed", {"task": "lint"})
    handle.detach()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event_type"] for line in lines] == ["task.started", "task.completed"]
    assert lines[0]["payload"] == {
        "task": "lint",
        "password": "REDACTED",
        "live": {"__type__": "object"},
    }
    again = a_handle()
    for line in lines:
        again.feed(line)
    assert again.state().phases_ended == 1


def test_a_recording_has_the_fields_found_by_the_keys_of_the_dialect(
    runtime: Runtime, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    dialect = {"extends": "generic", "type_keys": ["what"], "payload_keys": ["about"]}
    handle = runtime.instrument(None, dialect=dialect, record=path)
    for word in ("started", "completed"):
        handle.feed({"what": f"task.{word}", "about": {"task": "lint"}})
    handle.detach()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event_type"], line["payload"]) for line in lines] == [
        ("task.started", {"task": "lint"}),
        ("task.completed", {"task": "lint"}),
    ]
    again = Handle(Correlator(), Reader(load(dialect)), label="a bus")
    for line in lines:
        again.feed(line)
    assert again.state().phases_ended == 1


def test_a_recording_that_cannot_be_written_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="record="):
        runtime.instrument(Bus(), record=tmp_path / "nowhere" / "events.jsonl")


def test_fifty_events_without_a_phase_give_one_warning(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus()
    runtime.instrument(bus)
    for number in range(120):
        bus.publish(f"vehicle.{('parked', 'moved')[number % 2]}", {"number": number})
    told = [record.getMessage() for record in caplog.records if "no phase" in record.getMessage()]
    assert len(told) == 1
    for part in ("vehicle.moved", "vehicle.parked", "dialect check", "dialect suggest"):
        assert part in told[0]


# --- adapters ---------------------------------------------------------------------------------------------------------

ADAPTER = """
loaded = []
DIALECT = {"name": "conveyor", "extends": "generic", "rules": [
    {"type": "station.entered", "level": "phase", "verb": "start", "name": ["station"]},
    {"type": "station.left", "level": "phase", "verb": "end", "name": ["station"]}]}

def attach(target, handle):
    target.listeners.append(lambda kind, **payload: handle.tell(kind, **payload))
    handle.add_undo(target.listeners.clear)
"""
PROGRAM = """
import sys
import conveyor.belts, spanbus

class Mine(conveyor.belts.Belt):
    pass

class Bus:
    def publish(self, kind, payload): ...

spanbus.instrument(Bus())
assert "conveyor_spanbus" not in sys.modules, "loaded before it is needed"
belt = Mine()
handle = spanbus.instrument(belt)
belt.listeners[0]("station.entered", station="press")
belt.listeners[0]("station.left", station="press")
print(handle.state().phases_ended, handle.state().errors)
handle.detach()
print(len(belt.listeners))
"""


def test_an_adapter_is_found_by_the_package_of_the_class(tmp_path: Path) -> None:
    (tmp_path / "conveyor").mkdir()
    (tmp_path / "conveyor" / "__init__.py").write_text("")
    (tmp_path / "conveyor" / "belts.py").write_text(
        "class Belt:\n    def __init__(self): self.listeners = []\n    def publish(self, event): ...\n"
    )
    (tmp_path / "conveyor_spanbus.py").write_text(ADAPTER)
    info = tmp_path / "conveyor_spanbus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: conveyor-spanbus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spanbus.adapters]\nconveyor = conveyor_spanbus\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={
            "PYTHONPATH": ":".join([str(tmp_path), *sys.path]),
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        done.stderr.replace(
            "spanbus was attached to Bus and saw no event; was this the bus that the workflow publishes on, and before it began?\n",
            "",
        )
        == ""
    )
    assert done.stdout == "1 0\n0\n"


def test_an_adapter_may_only_name_a_dialect() -> None:
    asked: list[object] = []

    def dialect_of(target: object) -> dict[str, object]:
        asked.append(target)
        return {
            "name": "conveyor",
            "extends": "generic",
            "rules": [{"type": "entered", "level": "phase", "verb": "start", "name": ["station"]}],
        }

    adapter = Adapter(lambda target, handle: NotImplemented, dialect_of)
    bus = Bus()
    dialect = adapter.dialect_for(bus)
    assert asked == [bus] and isinstance(dialect, dict)
    handle = attach(
        bus, Handle(Correlator(), Reader(load(dialect)), label="a bus"), adapter=adapter
    )
    bus.publish("entered", {"station": "press"})
    assert handle.state().phases_open == 1
    handle.detach()
    assert Adapter(lambda target, handle: None, "generic").dialect_for(bus) == "generic"
