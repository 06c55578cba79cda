"""An event of a foreign bus that publishes pydantic objects: spanbus against hand-written OpenTelemetry."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from pydantic import BaseModel, Field

from bench.rounds import Row, in_turns
from spanbus._runtime import Runtime
from spanbus._settings import load_settings

_RUNS, _PHASES, _EVENTS = 10, 50, 3
_GOAL_US = 60


class _Metadata(BaseModel):
    event_type: str
    event_id: str = Field(default_factory=lambda: str(uuid4()))
    timestamp: datetime = Field(default_factory=datetime.now)
    source: str = "shop"
    correlation_id: str | None = None


class _Event(BaseModel):
    metadata: _Metadata
    payload: dict[str, Any]


class _Bus:
    """One wildcard subscription, an event as a validated object, handlers one after the other."""

    def __init__(self) -> None:
        self.handlers: list[Callable[[_Event], object]] = []

    def subscribe(
        self, event_type: str | None, handler: Callable[[_Event], object]
    ) -> Callable[[_Event], object]:
        del event_type
        self.handlers.append(handler)
        return handler

    def unsubscribe(self, handler: Callable[[_Event], object]) -> None:
        self.handlers.remove(handler)

    async def publish(self, event_type: str, payload: dict[str, Any]) -> None:
        event = _Event(metadata=_Metadata(event_type=event_type), payload=payload)
        for handler in self.handlers:
            handler(event)


class _HandWritten:
    """Hand-written telemetry in a handler: a span for each run and phase, an event, a histogram, a counter."""

    def __init__(self) -> None:
        self.provider = TracerProvider(
            resource=Resource({"service.name": "bench"}), shutdown_on_exit=False
        )
        self.processor = BatchSpanProcessor(
            _Dropped(),
            max_queue_size=100_000,
            schedule_delay_millis=3_600_000,
            max_export_batch_size=512,
        )
        self.provider.add_span_processor(self.processor)
        self.meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self._tracer, meter = self.provider.get_tracer("bench"), self.meters.get_meter("bench")
        self._histogram = meter.create_histogram("duration", "s")
        self._counter = meter.create_counter("failures")
        self._open: dict[tuple[str, str | None], Span] = {}

    def __call__(self, event: _Event) -> bool:
        kind, told = event.metadata.event_type, event.payload
        run, step = told["run_id"], told.get("step")
        subject, _, word = kind.rpartition(".")
        said = {"event.id": event.metadata.event_id, "event.source": event.metadata.source}
        if word == "started":
            parent = self._open.get((run, None)) if step is not None else None
            where = set_span_in_context(parent) if parent is not None else context.Context()
            span = self._tracer.start_span(
                step or subject, where, attributes={"pipeline": "standard", "run": run}
            )
            assert isinstance(span, Span)
            span.add_event(kind, said)
            self._open[run, step] = span
        elif word == "progress":
            self._open[run, step].add_event(kind, {**said, "done": told["done"]})
        else:
            span = self._open.pop((run, step))
            span.add_event(kind, {**said, "duration": told["duration"]})
            labels = {"pipeline": "standard", "task": step or "", "result": "success"}
            if not told["success"]:
                span.set_status(Status(StatusCode.ERROR))
                self._counter.add(1, labels)
            self._histogram.record(told["duration"], labels)
            span.end()
        return True


class _Dropped(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _work(bus: _Bus) -> None:
    for _ in range(_RUNS):
        run = f"foreign-{uuid4()}"
        await bus.publish("pipeline.started", {"run_id": run, "pipeline": "standard"})
        for number in range(_PHASES):
            step = f"fast_hooks_{number}"
            await bus.publish("step.started", {"run_id": run, "step": step})
            await bus.publish("step.progress", {"run_id": run, "step": step, "done": 0.25})
            ended = {"run_id": run, "step": step, "success": True, "duration": 0.25}
            await bus.publish("step.completed", ended)
        await bus.publish("pipeline.completed", {"run_id": run, "success": True, "duration": 12.5})


def _calling(bus: _Bus, then: Callable[[], object] = lambda: None) -> float:
    """CPU of this thread, in microseconds for each event, including the publishing."""
    began = time.thread_time()
    asyncio.run(_work(bus))
    spent = time.thread_time() - began
    then()
    return spent / (_RUNS * (_PHASES * _EVENTS + 2)) * 1e6


def measure() -> list[Row]:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "SPANBUS_STATE_DIR": folder,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "SPANBUS_EXIT_TIMEOUT_S": "0",
        }
        with Runtime(load_settings(env=env, cwd=Path(folder)), env=env) as runtime:
            alone, observed, by_hand = _Bus(), _Bus(), _Bus()
            handle = runtime.instrument(observed)
            written = _HandWritten()
            by_hand.subscribe(None, written)
            for bus in (alone, observed, by_hand):
                _calling(bus)
            mine, empty = in_turns(lambda: _calling(observed), lambda: _calling(alone))
            yard, bare = in_turns(
                lambda: _calling(by_hand, written.processor.force_flush), lambda: _calling(alone)
            )
            state = handle.state()
            assert state.errors == 0 and state.phases_open == state.run_failures == 0, state
            written.provider.shutdown()
            written.meters.shutdown()
    ours, yardstick = mine - empty, yard - bare
    return [
        Row(
            "an event of a foreign bus that publishes pydantic objects, CPU of the calling thread (hand-written, in the same handler)",
            ours,
            yardstick,
            "µs",
            ours / yardstick,
            f"<= {_GOAL_US} µs",
            ours <= _GOAL_US,
        )
    ]
