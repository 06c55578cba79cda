"""``attach`` on buses of several shapes, in observe and wrap mode, and on whole classes."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from rendered import DecodedSpan, decoded

from spanbus._attaching.attach import attach, attach_class
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._delivery.sdk import RecordIds
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template
from spanbus._telemetry.tracer_spans import TracerSpans
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Phase, Workflow
from spanbus._workflow.engine import BasicWorkflowEngine, RunOptions
from spanbus.errors import InputError


class Finished(SpanExporter):
    """Finished spans in the order of their end, from our encoder or from the SDK's exporter."""

    def __init__(self) -> None:
        self.spans: list[DecodedSpan | ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS

    def put_encoded(
        self, span_id: int, span: bytes, resource: Resource, scope: InstrumentationScope
    ) -> None:
        del span_id, scope
        self.spans.append(decoded(span, resource))

    def dropped_of(self, trace_id: int) -> int:
        del trace_id
        return 0

    def named(self, name: str) -> DecodedSpan | ReadableSpan:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0]


class Watched:
    """A handle with its finished spans."""

    delivery = "spool"

    def __init__(self, dialect: str = "generic", provider: TracerProvider | None = None) -> None:
        self.finished = Finished()
        sampler = (provider or TracerProvider()).sampler
        template = Template(Redactor())
        if self.delivery == "spool":
            sink = DirectSpans(self.finished, template, sampler=sampler, resource=Resource({}))
        else:
            ids = RecordIds()
            own = TracerProvider(sampler=sampler, id_generator=ids, shutdown_on_exit=False)
            own.add_span_processor(SimpleSpanProcessor(self.finished))
            sink = TracerSpans(own.get_tracer("ours"), template, ids=ids)
        self.correlator = Correlator([sink], on_sink_error=self._failed)
        self.handle = Handle(self.correlator, Reader(load(dialect)), label="a bus")

    def _failed(self, error: Exception) -> None:
        raise AssertionError("a sink failed") from error


@pytest.fixture(autouse=True)
def by_each_delivery(delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "delivery", delivery)


# --- buses in the wild ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Metadata:
    event_type: str
    timestamp: float | None = None


@dataclasses.dataclass
class AcbEvent:
    metadata: Metadata
    payload: dict[str, object]
    event_id: str


_ids = itertools.count()


class AcbLikeBus:
    """The reference bus: subscribe(type, handler, *, predicate, max_concurrent, ...), publish awaits all handlers."""

    def __init__(self) -> None:
        self.handlers: dict[str, tuple[object, Callable[..., object]]] = {}
        self.max_concurrent: int | None = None
        self._number = 0

    def subscribe(
        self,
        event_type: str | None,
        handler: Callable[..., object],
        *,
        predicate: object = None,
        max_concurrent: int | None = None,
        description: str | None = None,
        max_retries: int = 0,
    ) -> str:
        del predicate, description, max_retries
        self.max_concurrent = max_concurrent
        self._number += 1
        self.handlers[str(self._number)] = (event_type, handler)
        return str(self._number)

    def unsubscribe(self, token: str) -> bool:
        return self.handlers.pop(token, None) is not None

    async def publish(
        self, event_type: str, payload: dict[str, object] | None = None, **metadata: object
    ) -> list[object]:
        del metadata
        self._number += 1
        event = AcbEvent(Metadata(event_type), payload or {}, f"event-{next(_ids)}")
        results: list[object] = []
        for wanted, handler in list(self.handlers.values()):
            if wanted in (None, event_type):
                result = handler(event)
                results.append(await result if isinstance(result, Awaitable) else result)
                await anyio.lowlevel.checkpoint()
        return results


class SinkBus:
    """subscribe(sink), then sink.handle(event)."""

    def __init__(self) -> None:
        self.sinks: list[Handle] = []

    def subscribe(self, sink: Handle) -> None:
        self.sinks.append(sink)

    def unsubscribe(self, sink: Handle) -> None:
        self.sinks.remove(sink)

    def emit(self, event: object) -> None:
        for sink in self.sinks:
            sink.handle(event)


class CallbackBus:
    """subscribe(callback) returns a function that unsubscribes; events are passed as type and keywords."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[..., object]] = []

    def subscribe(self, callback: Callable[..., object]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def fire(self, name: str, **payload: object) -> None:
        for callback in self.callbacks:
            callback(name, **payload)


class StarBus:
    """A bus that subscribes to all types by ``'*'`` and refuses None."""

    def __init__(self) -> None:
        self.handlers: list[Callable[..., object]] = []

    def subscribe(self, topic: str, handler: Callable[..., object]) -> int:
        if topic != "*":
            raise ValueError("topic must be a string")
        self.handlers.append(handler)
        return 1

    def unsubscribe(self, handler: object) -> None:
        self.handlers.clear()

    def send(self, event: object) -> None:
        for handler in self.handlers:
            assert handler(event) is True


@pytest.mark.anyio
async def test_the_reference_bus_gets_one_wildcard_subscription() -> None:
    bus, watched = AcbLikeBus(), Watched()
    attach(bus, watched.handle)
    await bus.publish("workflow.started", {"workflow_id": "nightly"})
    await bus.publish(
        "hooks.strategy.started", {"step_id": "fast_hooks", "strategy": "fast", "timestamp": 1000.0}
    )
    results = await bus.publish(
        "hooks.strategy.completed",
        {"step_id": "fast_hooks", "strategy": "fast", "timestamp": 1001.0, "duration": 1.0},
    )
    await bus.publish("workflow.completed", {"workflow_id": "nightly"})
    assert results == [True]
    assert (bus.max_concurrent or 0) >= 100
    assert (
        watched.finished.named("fast_hooks").parent == watched.finished.named("RUN nightly").context
    )
    watched.handle.detach()
    assert bus.handlers == {}


def test_a_bus_of_sinks_gets_the_handle() -> None:
    bus, watched = SinkBus(), Watched()
    attach(bus, watched.handle)
    bus.emit(SimpleNamespace(type="stage.started", data={"stage": "press"}))
    bus.emit(SimpleNamespace(type="stage.failed", data={"stage": "press", "error": "jam"}))
    watched.handle.detach()
    assert bus.sinks == []
    assert watched.handle.state().phase_failures == 1


def test_a_bus_that_calls_back_with_type_and_keywords_is_observed() -> None:
    bus, watched = CallbackBus(), Watched()
    attach(bus, watched.handle)
    bus.fire("task.started", task="lint", job_id="j1")
    bus.fire("task.completed", task="lint", job_id="j1")
    watched.handle.detach()
    assert bus.callbacks == []
    assert watched.finished.named("lint").attributes is not None
    assert watched.handle.state().phases_ended == 1


def test_a_bus_that_subscribes_to_all_by_a_star_is_observed() -> None:
    bus, watched = StarBus(), Watched()
    attach(bus, watched.handle)
    bus.send({"topic": "build.begin", "payload": {"name": "wheel"}})
    bus.send({"topic": "build.done", "payload": {"name": "wheel"}})
    assert watched.handle.state().phases_ended == 1


def test_an_object_without_subscribe_is_refused_with_its_methods_and_a_remedy() -> None:
    with pytest.raises(InputError, match=r"has `attach_handler`, `on`.*handle\.feed"):
        attach(SimpleNamespace(attach_handler=print, on=print, count=3), Watched().handle)


def test_a_handle_that_saw_nothing_warns_when_it_is_detached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = attach(StarBus(), Watched().handle)
    with caplog.at_level(logging.WARNING, "spanbus"):
        handle.detach()
        handle.detach()
    assert [record.message for record in caplog.records if "saw no event" in record.message] != []
    assert len(caplog.records) == 1


def test_unreadable_events_are_counted_and_nothing_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched()

    class Hostile:
        @property
        def metadata(self) -> object:
            raise RuntimeError("no")

        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    with caplog.at_level(logging.WARNING, "spanbus"):
        for thing in (
            Hostile(),
            7,
            None,
            object(),
            b"bytes",
            {"payload": {}},
            {"type": object(), "payload": [1]},
        ):
            watched.handle.feed(thing)
    state = watched.handle.state()
    assert (state.errors, state.events_seen, bool(state.last_error)) == (7, 0, True)


def test_a_duplicate_event_on_a_handle_is_recorded_once() -> None:
    watched = Watched()
    for _ in range(3):
        watched.handle.feed(
            {"event_type": "task.started", "event_id": "e1", "payload": {"task": "lint"}}
        )
        watched.handle.feed(
            {"event_type": "task.failed", "event_id": "e2", "payload": {"task": "lint"}}
        )
    state = watched.handle.state()
    assert (state.events_seen, state.events_recorded, state.phase_failures) == (6, 2, 1)


# --- wrapping ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def user_spans() -> Iterator[tuple[trace.Tracer, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("users"), exporter
    provider.shutdown()


@pytest.mark.anyio
async def test_in_wrap_mode_spans_inside_a_phase_are_its_children_also_in_threads(
    user_spans: tuple[trace.Tracer, InMemorySpanExporter],
) -> None:
    tracer, exporter = user_spans
    bus, watched = AcbLikeBus(), Watched()
    attach(bus, watched.handle, mode="wrap")

    def in_a_thread() -> None:
        with tracer.start_as_current_span("threaded"):
            pass

    async def one(number: int) -> None:
        run, phase = f"run-{number}", f"phase-{number}"
        await bus.publish("workflow.started", {"workflow_id": run})
        await bus.publish(
            "workflow.quality.started", {"workflow_id": run, "step_id": phase, "phase": phase}
        )
        await anyio.sleep(random.random() / 100)
        with tracer.start_as_current_span(f"inside {number}"):
            await anyio.to_thread.run_sync(in_a_thread)
        await bus.publish(
            "workflow.quality.completed", {"workflow_id": run, "step_id": phase, "phase": phase}
        )
        with tracer.start_as_current_span(f"between {number}"):
            pass
        await bus.publish("workflow.completed", {"workflow_id": run})
        assert not trace.get_current_span().get_span_context().is_valid

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    made = {span.name: span for span in exporter.get_finished_spans()}
    for number in range(20):
        phase, run = (
            watched.finished.named(f"phase-{number}"),
            watched.finished.named(f"RUN run-{number}"),
        )
        assert made[f"inside {number}"].parent == phase.context
        assert made[f"between {number}"].parent == run.context
    threaded = [span for span in exporter.get_finished_spans() if span.name == "threaded"]
    parents = {made[f"inside {number}"].context.span_id for number in range(20)}
    assert {span.parent.span_id for span in threaded if span.parent is not None} == parents


@pytest.mark.anyio
async def test_a_wrapped_class_observes_every_instance_and_is_reversible() -> None:
    class Bus(AcbLikeBus):
        pass

    watched = Watched()
    attach_class(Bus, watched.handle)
    with pytest.raises(InputError, match="already"):
        attach_class(Bus, watched.handle)
    for number in range(3):
        bus = Bus()
        await bus.publish("workflow.started", {"workflow_id": f"w{number}"})
        await bus.publish("workflow.completed", {"workflow_id": f"w{number}"})
    watched.handle.detach()
    assert "publish" not in vars(Bus)
    bus = Bus()
    await bus.publish("workflow.started", {"workflow_id": "later"})
    assert watched.handle.state().runs_ended == 3


# --- many at once -----------------------------------------------------------------------------------------------------


def _lines(spans: Sequence[DecodedSpan | ReadableSpan]) -> list[tuple[object, ...]]:
    return sorted(
        (
            span.name,
            span.context.trace_id,
            span.context.span_id,
            span.parent.span_id if span.parent else 0,
            span.start_time,
            span.end_time,
            str(span.status.status_code),
            str(sorted((span.attributes or {}).items())),
            str([(event.name, event.timestamp) for event in span.events]),
        )
        for span in spans
    )


@pytest.mark.parametrize("count", [30, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.anyio
async def test_interleaved_workflows_have_separate_traces_and_replay_to_the_same(
    count: int,
) -> None:
    watched = Watched("spanbus")
    recorded: list[dict[str, object]] = []

    async def work(context: object) -> bool:
        await anyio.sleep(random.random() / 50)
        if random.random() < 0.1:
            raise ValueError("no luck")
        return random.random() > 0.1

    workflow = Workflow(
        "many",
        (
            Phase("a", action=work, retries=1, retry_backoff_s=0.001),
            Phase("b", action=work),
            Phase("c", action=work, needs=("a", "b"), when="always"),
        ),
    )
    async with WorkflowEventBus() as bus:
        bus.subscribe(None, lambda event: recorded.append(event.as_dict()))
        attach(bus, watched.handle)
        engine = BasicWorkflowEngine(bus)
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(engine.run, workflow, RunOptions(run_id=f"run-{number:04d}"))
    spans = watched.finished.spans
    by_id = {span.context.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    runs = [span for span in spans if span.name == "RUN many"]
    assert len(runs) == len({span.context.trace_id for span in runs}) == count
    for span in spans:
        if span.parent is not None:
            assert span.context is not None
            assert by_id[span.parent.span_id].context.trace_id == span.context.trace_id  # pyright: ignore[reportOptionalMemberAccess]
    assert watched.handle.state().runs_open == 0

    import json
    import tempfile
    from pathlib import Path

    from spanbus._reading import replay

    for seed in (1, 2):
        lines = [json.dumps(line) for line in recorded]
        random.Random(seed).shuffle(lines)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stream.jsonl"
            path.write_text("\n".join(lines) + "\n")
            again = Watched("spanbus")
            for fact in replay.facts(path, Reader(load("spanbus"))):
                again.correlator.apply(fact)
            again.correlator.close()
        assert _lines(again.finished.spans) == _lines(spans)


def test_no_event_of_several_threads_and_loops_is_lost() -> None:
    watched = Watched("spanbus")
    bus = WorkflowEventBus()
    attach(bus, watched.handle)

    async def run(number: int) -> None:
        engine = BasicWorkflowEngine(bus)
        await engine.run(
            Workflow("w", (Phase("p", action=lambda context: True),)),
            RunOptions(run_id=f"t{number}"),
        )

    threads = [
        threading.Thread(target=lambda number=number: asyncio.run(run(number)))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = watched.handle.state()
    assert (state.runs_ended, state.phases_ended, state.events_seen, state.events_recorded) == (
        16,
        16,
        64,
        64,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["bus", "class"])
async def test_spans_inside_an_engine_phase_on_a_wrapped_bus_are_its_children(
    how: str,
) -> None:
    class Bus(WorkflowEventBus):
        pass

    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("app")
    bus, watched = Bus(), Watched("spanbus", provider)

    async def fetch(context: object) -> None:
        await anyio.lowlevel.checkpoint()
        with tracer.start_as_current_span("inside fetch"):
            await anyio.lowlevel.checkpoint()

    def convert(context: object) -> None:  # in a worker thread
        with tracer.start_as_current_span("inside convert"):
            pass

    if how == "bus":
        attach(bus, watched.handle, mode="wrap")
    else:
        attach_class(Bus, watched.handle)
    workflow = Workflow(
        "w",
        (
            Phase("fetch", fetch),
            Phase("convert", convert),
            Phase("again", fetch, needs=("convert",)),
        ),
    )
    result = await BasicWorkflowEngine(bus).run(workflow)
    assert result.success
    assert not trace.get_current_span().get_span_context().is_valid
    phases = {span.context.span_id: span.name for span in watched.finished.spans}
    inside = [
        (span.name, phases[span.parent.span_id] if span.parent is not None else None)
        for span in exported.get_finished_spans()
    ]
    assert sorted(inside) == [
        ("inside convert", "convert"),
        ("inside fetch", "again"),
        ("inside fetch", "fetch"),
    ]
    state = watched.handle.state()
    assert (state.runs_ended, state.phases_ended, state.errors) == (1, 3, 0)
    watched.handle.detach()
    assert "dispatch" not in vars(Bus) and "dispatch" not in vars(bus)
    await (await bus.publish("x"))
    assert watched.handle.state().events_seen == state.events_seen
