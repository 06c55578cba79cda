"""One phase with three events: on the caller's thread, and all CPU until the OTLP bytes, against hand-written OpenTelemetry."""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bench.rounds import Row, at_most, in_turns
from spanbus.runtime import Runtime
from spanbus.settings import load_settings
from spanbus.workflow.events import Event, WorkflowEvent, new_event_id

_PHASES = 1_000


class _Dropped(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Kept(SpanExporter):
    """Encodes, as an exporter does, and drops the bytes."""

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def hand_written(exporter: SpanExporter):
    """What people write themselves: one span, three events, a histogram, a counter."""
    provider = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
    processor = BatchSpanProcessor(exporter, max_queue_size=100_000, schedule_delay_millis=3_600_000, max_export_batch_size=512)
    provider.add_span_processor(processor)
    meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    tracer, meter = provider.get_tracer("bench"), meter_provider.get_meter("bench")
    histogram, counter = meter.create_histogram("duration", "s"), meter.create_counter("failures")
    numbers = itertools.count()

    def work() -> None:
        for _ in range(_PHASES):
            number = next(numbers)
            said = {"pipeline": "standard", "task": "fast_hooks", "result": "success"}
            with tracer.start_as_current_span("fast_hooks", attributes={"pipeline": "standard", "run": "run-1"}) as span:
                for name in ("hooks.strategy.started", "hooks.execution.completed", "hooks.strategy.completed"):
                    span.add_event(name, {"id": f"event-{number}", "step_id": "fast_hooks", "strategy": "fast", "duration": 0.25})
            histogram.record(0.25, said)
            counter.add(0, said)

    return work, processor, provider, meter_provider


def spanbus_phases(runtime: Runtime):
    """Such phases as events: a start, one inside, an end. A run has fifty of them, and its own cost is in."""
    feed = runtime.handle.feed
    at = itertools.count(1_760_000_000_000_000_000, 1_000)
    phases = [f"fast_hooks_{number}" for number in range(50)]

    def work() -> None:
        for _ in range(_PHASES // len(phases)):
            run_id = f"bench-{new_event_id()}"
            feed(Event(WorkflowEvent.WORKFLOW_STARTED, new_event_id(), next(at), {"workflow": "standard"}, "bench", run_id))
            for phase in phases:
                feed(Event("workflow.phase.started", new_event_id(), next(at), {"type": "fast_hooks"}, "bench", run_id, phase, 1))
                feed(Event("config.checked", new_event_id(), next(at), {"step_id": "fast_hooks", "strategy": "fast", "duration": 0.25}, "bench", run_id, phase, 1))
                feed(Event("workflow.phase.completed", new_event_id(), next(at), {"success": True, "duration": 0.25}, "bench", run_id, phase, 1))
            feed(Event(WorkflowEvent.WORKFLOW_COMPLETED, new_event_id(), next(at), {"success": True}, "bench", run_id))

    return work


def measure() -> list[Row]:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        env = {"SPANBUS_STATE_DIR": folder, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "SPANBUS_EXIT_TIMEOUT_S": "0"}
        with Runtime(load_settings(env=env, cwd=Path(folder)), env=env) as runtime:
            ours = spanbus_phases(runtime)
            caller, processor, provider, meters = hand_written(_Dropped())
            ours()
            caller()

            def calling(work: Callable[[], object], then: Callable[[], object] = lambda: None) -> float:
                """CPU of this thread, in microseconds for each phase."""
                began = time.thread_time()
                work()
                spent = time.thread_time() - began
                then()
                return spent / _PHASES * 1e6

            def everything(work: Callable[[], object], then: Callable[[], object] = lambda: None) -> float:
                """CPU of the whole process, in microseconds for each phase."""
                began = time.process_time()
                work()
                then()
                return (time.process_time() - began) / _PHASES * 1e6

            mine, yard = in_turns(lambda: calling(ours), lambda: calling(caller, processor.force_flush))
            rows = [at_most("a phase with 3 events, CPU of the calling thread (hand-written)", mine, yard, 0.25)]
            encoding, encoding_processor, other, other_meters = hand_written(_Kept())
            mine, yard = in_turns(lambda: everything(ours), lambda: everything(encoding, encoding_processor.force_flush))
            rows.append(at_most("the same, all CPU until the bytes (hand-written)", mine, yard, 0.25))
            for each in (provider, other):
                each.shutdown()
            for each in (meters, other_meters):
                each.shutdown()
    return rows
