"""One phase with three events: on the caller's thread, and all CPU until the OTLP bytes, against hand-written OpenTelemetry."""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bench.rounds import Row, at_most, in_turns
from spanbus._runtime import Runtime
from spanbus._settings import load_settings
from spanbus._workflow.events import Event, WorkflowEvent, new_event_id

_PHASES = 1_000


class _Dropped(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Kept(SpanExporter):
    """Encodes like an exporter and discards the bytes."""

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def hand_written(exporter: SpanExporter):
    """Hand-written telemetry: one span, three events, a histogram, a counter."""
    provider = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
    processor = BatchSpanProcessor(
        exporter, max_queue_size=100_000, schedule_delay_millis=3_600_000, max_export_batch_size=512
    )
    provider.add_span_processor(processor)
    meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    tracer, meter = provider.get_tracer("bench"), meter_provider.get_meter("bench")
    histogram, counter = meter.create_histogram("duration", "s"), meter.create_counter("failures")
    numbers = itertools.count()

    def work() -> None:
        for _ in range(_PHASES):
            number = next(numbers)
            said = {"pipeline": "standard", "task": "fast_hooks", "result": "success"}
            with tracer.start_as_current_span(
                "fast_hooks", attributes={"pipeline": "standard", "run": "run-1"}
            ) as span:
                for name in (
                    "hooks.strategy.started",
                    "hooks.execution.completed",
                    "hooks.strategy.completed",
                ):
                    span.add_event(
                        name,
                        {
                            "id": f"event-{number}",
                            "step_id": "fast_hooks",
                            "strategy": "fast",
                            "duration": 0.25,
                        },
                    )
            histogram.record(0.25, said)
            counter.add(0, said)

    return work, processor, provider, meter_provider


Said = Sequence[tuple[str, Mapping[str, object]]]
"""The events of a phase: types with their payloads."""


def plain(phase: str) -> Said:
    """A start, one event inside, an end."""
    del phase
    return (
        ("workflow.phase.started", {"type": "fast_hooks"}),
        ("config.checked", {"step_id": "fast_hooks", "strategy": "fast", "duration": 0.25}),
        ("workflow.phase.completed", {"success": True, "duration": 0.25}),
    )


def failing(phase: str) -> Said:
    """The same with a failure, which has a class and a text."""
    error = {"error": "2 of 40 files are not formatted", "error_type": "shop.checks.NotFormatted"}
    failed = ("workflow.phase.failed", {"success": False, "duration": 0.25, **error})
    return (*plain(phase)[:2], failed)


def with_two_hooks(phase: str) -> Said:
    """A phase with two hooks: three spans, six events."""
    started, _, completed = plain(phase)
    hooks: list[tuple[str, Mapping[str, object]]] = []
    for hook in ("ruff", "codespell"):
        command: dict[str, object] = {"hook": hook, "stage": phase, "executable": hook}
        ended = {**command, "success": True, "exit_code": 0, "duration": 0.1}
        hooks += (("hooks.execution.started", command), ("hooks.execution.completed", ended))
    return (started, *hooks, completed)


def spanbus_phases(runtime: Runtime, said: Callable[[str], Said] = plain):
    """Such phases as events. A run has fifty of them, and its own cost is in."""
    feed = runtime.handle.feed
    at = itertools.count(1_760_000_000_000_000_000, 1_000)
    phases = [f"fast_hooks_{number}" for number in range(50)]

    def work() -> None:
        for _ in range(_PHASES // len(phases)):
            run = f"bench-{new_event_id()}"
            begins, ends = WorkflowEvent.WORKFLOW_STARTED, WorkflowEvent.WORKFLOW_COMPLETED
            feed(Event(begins, new_event_id(), next(at), {"workflow": "standard"}, "bench", run))
            for phase in phases:
                for kind, payload in said(phase):
                    feed(Event(kind, new_event_id(), next(at), payload, "bench", run, phase, 1))
            feed(Event(ends, new_event_id(), next(at), {"success": True}, "bench", run))

    return work


class _ForeignEvent:
    """An event of a foreign bus: type, payload, time."""

    def __init__(self, event_type: str, payload: dict[str, object], timestamp: float) -> None:
        self.event_type, self.payload, self.timestamp = event_type, payload, timestamp


def foreign_phases(runtime: Runtime):
    """Plain phases as events of a foreign bus: its own objects, read by the dialect ``generic``."""
    handle = runtime.instrument(_ForeignBus())
    numbers, at = itertools.count(), itertools.count(1_760_000_000.0)

    def say(event_type: str, run: str, **payload: object) -> None:
        handle.feed(_ForeignEvent(event_type, {"run_id": run, **payload}, next(at)))

    def work() -> None:
        for _ in range(_PHASES // 50):
            run = f"foreign-{new_event_id()}"
            say("pipeline.started", run, pipeline="standard")
            for _ in range(50):
                step = f"fast_hooks_{next(numbers) % 50}"
                say("step.started", run, step=step, type="fast_hooks")
                say("step.progress", run, step=step, strategy="fast", duration=0.25)
                say("step.completed", run, step=step, success=True, duration=0.25)
            say("pipeline.completed", run, success=True)

    return work


class _ForeignBus:
    """A bus with the usual subscription; events are fed by hand."""

    def subscribe(self, event_type: str | None, handler: Callable[[object], object]) -> None:
        del event_type, handler


def measure() -> list[Row]:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "SPANBUS_STATE_DIR": folder,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "SPANBUS_EXIT_TIMEOUT_S": "0",
        }
        with Runtime(load_settings(env=env, cwd=Path(folder)), env=env) as runtime:
            ours = spanbus_phases(runtime)
            caller, processor, provider, meters = hand_written(_Dropped())
            ours()
            caller()

            def calling(
                work: Callable[[], object], then: Callable[[], object] = lambda: None
            ) -> float:
                """CPU of this thread, in microseconds for each phase."""
                began = time.thread_time()
                work()
                spent = time.thread_time() - began
                then()
                return spent / _PHASES * 1e6

            def everything(
                work: Callable[[], object], then: Callable[[], object] = lambda: None
            ) -> float:
                """CPU of the whole process, in microseconds for each phase."""
                began = time.process_time()
                work()
                then()
                return (time.process_time() - began) / _PHASES * 1e6

            mine, yard = in_turns(
                lambda: calling(ours), lambda: calling(caller, processor.force_flush)
            )
            rows = [
                at_most(
                    "a phase with 3 events, CPU of the calling thread (hand-written)",
                    mine,
                    yard,
                    0.25,
                )
            ]
            encoding, encoding_processor, other, other_meters = hand_written(_Kept())
            mine, yard = in_turns(
                lambda: everything(ours),
                lambda: everything(encoding, encoding_processor.force_flush),
            )
            rows.append(
                at_most("the same, all CPU until the bytes (hand-written)", mine, yard, 0.25)
            )
            for name, work, spans in (
                ("a failing phase", spanbus_phases(runtime, failing), 1),
                (
                    "a phase with two hooks, each of its 3 spans",
                    spanbus_phases(runtime, with_two_hooks),
                    3,
                ),
                ("a phase of a foreign bus", foreign_phases(runtime), 1),
            ):
                work()
                mine, yard = in_turns(
                    lambda work=work, spans=spans: calling(work) / spans, lambda: calling(ours)
                )
                rows.append(
                    at_most(f"{name}, CPU of the calling thread (a plain phase)", mine, yard, 1.5)
                )
            for each in (provider, other):
                each.shutdown()
            for each in (meters, other_meters):
                each.shutdown()
    return rows
