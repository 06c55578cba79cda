"""The small programs that the benchmarks run as processes of their own: `python -m bench.programs NAME`.

Each prints one JSON object. ``ours`` feeds the events of phases to spanbus, ``sdk`` writes spans by hand with the SDK's own
batching and OTLP/HTTP exporter, both with their defaults.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

Phase = Callable[[], None]
_PACE_HZ = 1_000


def ours() -> tuple[Phase, Callable[[], object]]:
    """One phase of three events; wait until everything is delivered."""
    from spanbus._runtime import Runtime
    from spanbus._workflow.events import Event, WorkflowEvent, new_event_id

    runtime = Runtime().open()
    feed = runtime.handle.feed
    numbers = itertools.count()
    run_id = ""

    def phase() -> None:
        nonlocal run_id
        number = next(numbers)
        if number % 1_000 == 0:
            if run_id:
                feed(
                    Event(
                        WorkflowEvent.WORKFLOW_COMPLETED,
                        new_event_id(),
                        time.time_ns(),
                        {"success": True},
                        "bench",
                        run_id,
                    )
                )
            run_id = f"run-{new_event_id()}"
            feed(
                Event(
                    WorkflowEvent.WORKFLOW_STARTED,
                    new_event_id(),
                    time.time_ns(),
                    {"workflow": "bench"},
                    "bench",
                    run_id,
                )
            )
        name = f"phase-{number % 1_000}"
        feed(
            Event(
                "workflow.phase.started",
                new_event_id(),
                time.time_ns(),
                {"type": "fast_hooks"},
                "bench",
                run_id,
                name,
                1,
            )
        )
        feed(
            Event(
                "config.checked",
                new_event_id(),
                time.time_ns(),
                {"step_id": "fast_hooks", "strategy": "fast", "duration": 0.25},
                "bench",
                run_id,
                name,
                1,
            )
        )
        feed(
            Event(
                "workflow.phase.completed",
                new_event_id(),
                time.time_ns(),
                {"success": True, "duration": 0.25},
                "bench",
                run_id,
                name,
                1,
            )
        )

    def flush() -> None:
        runtime.handle.detach()
        runtime.flush(60)

    return phase, flush


def sdk() -> tuple[Phase, Callable[[], object]]:
    """Hand-written telemetry: a span, three events, a histogram, a counter."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    tracer, meter = provider.get_tracer("bench"), meters.get_meter("bench")
    histogram, counter = meter.create_histogram("duration", "s"), meter.create_counter("failures")
    numbers = itertools.count()

    def phase() -> None:
        number = next(numbers)
        said = {"pipeline": "standard", "task": "fast_hooks", "result": "success"}
        with tracer.start_as_current_span(
            f"phase-{number % 1_000}", attributes={"pipeline": "standard", "run": "run-1"}
        ) as span:
            for name in ("workflow.phase.started", "config.checked", "workflow.phase.completed"):
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

    return phase, lambda: provider.force_flush(60_000)


def nothing() -> tuple[Phase, Callable[[], object]]:
    """An idle program."""
    return (lambda: None), (lambda: None)


def burst(phase: Phase, flush: Callable[[], object], count: int) -> dict[str, float]:
    """``count`` phases as fast as they come, until they are delivered: seconds. The first, which imports and
    connects, is not timed.
    """
    phase()
    began = time.perf_counter()
    for _ in range(count - 1):
        phase()
    published = time.perf_counter() - began
    flush()
    return {"published_s": published, "all_s": time.perf_counter() - began}


def lag(phase: Phase, flush: Callable[[], object], seconds: float) -> dict[str, float]:
    """The lag of an event loop that publishes 1,000 phases a second: the 99th percentile in milliseconds."""
    late_ms: list[float] = []

    async def publish(until: float) -> None:
        due = time.perf_counter()
        while due < until:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            while due <= time.perf_counter():
                phase()
                due += 1 / _PACE_HZ

    async def tick(until: float) -> None:
        while (before := time.perf_counter()) < until:
            await asyncio.sleep(0.005)
            late_ms.append((time.perf_counter() - before - 0.005) * 1e3)

    async def both() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(tick(until), publish(until))

    phase()
    asyncio.run(both())
    flush()
    late_ms.sort()
    return {"p99_ms": late_ms[int(len(late_ms) * 0.99)], "median_ms": late_ms[len(late_ms) // 2]}


def memory(phase: Phase, flush: Callable[[], object], count: int) -> dict[str, float]:
    """Bytes of private memory for each phase that waits, and the growth in the last nine tenths of a long run."""
    del flush
    for _ in range(1_000):
        phase()
    before = _anonymous_bytes()
    for _ in range(count // 10):
        phase()
    early = _anonymous_bytes()
    for _ in range(count - count // 10):
        phase()
    after = _anonymous_bytes()
    return {"bytes_each": (after - before) / count, "grown_bytes": after - early}


def service(phase: Phase, flush: Callable[[], object], seconds: float) -> dict[str, float]:
    """100 phases a second, delivered as they come: CPU of the whole process for each phase, and how long the caller waits.

    Metrics are collected every five seconds (by the environment), so that a short time has several collections in it.
    """
    taken_ms: list[float] = []
    for _ in range(100):
        phase()
    began, cpu = time.perf_counter(), time.process_time()
    count = int(seconds * 100)
    for number in range(count):
        time.sleep(max(0.0, began + number / 100 - time.perf_counter()))
        before = time.perf_counter()
        phase()
        taken_ms.append((time.perf_counter() - before) * 1e3)
    spent = time.process_time() - cpu
    flush()
    taken_ms.sort()
    return {
        "cpu_us": spent / count * 1e6,
        "p99_9_ms": taken_ms[int(len(taken_ms) * 0.999)],
        "longest_ms": taken_ms[-1],
    }


def open_work(open_runs: int, seconds: float) -> dict[str, float]:
    """100 phases a second for ``seconds`` beside so many open runs, each with an open phase.

    CPU of the whole process for each phase in microseconds, the longest publish in milliseconds, the largest size of the spool.
    """
    from spanbus._runtime import Runtime
    from spanbus._workflow.events import Event, new_event_id

    runtime = Runtime().open()
    feed = runtime.handle.feed

    def say(kind: str, run_id: str, phase: str | None, **payload: object) -> None:
        event_id, now = new_event_id(), time.time_ns()
        feed(Event(kind, event_id, now, payload, "bench", run_id, phase, 1))

    for number in range(open_runs):
        run_id = f"open-{new_event_id()}"
        say("workflow.started", run_id, None, workflow="bench")
        say("workflow.phase.started", run_id, "waits", type="fast_hooks")
        if not number % 50:
            time.sleep(0.01)
    say("workflow.started", "busy", None, workflow="bench")
    time.sleep(1.0)
    spool = runtime.settings.state_dir / "spool"
    taken_ms: list[float] = []
    largest = 0
    phases = int(seconds * 100)
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(phases):
        time.sleep(max(0.0, began + number / 100 - time.perf_counter()))
        before = time.perf_counter()
        say("workflow.phase.started", "busy", f"p{number}", type="fast_hooks")
        say("config.checked", "busy", f"p{number}", step_id="fast_hooks")
        say("workflow.phase.completed", "busy", f"p{number}", success=True)
        taken_ms.append((time.perf_counter() - before) * 1e3)
        if not number % 100:
            segments = [entry.stat().st_size for entry in spool.iterdir()]
            largest = max(largest, sum(segments))
    used = time.process_time() - cpu
    statistics = runtime.statistics()
    dropped = sum(statistics.dropped.values()) if statistics is not None else 0
    taken_ms.sort()
    return {
        "cpu_us": used / phases * 1e6,
        "max_ms": taken_ms[-1],
        "p99_9_ms": taken_ms[int(len(taken_ms) * 0.999)],
        "spool_bytes": largest,
        "dropped": dropped,
    }


def _anonymous_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(
        int(line.split()[1]) * 1_024 for line in text.splitlines() if line.startswith("Anonymous:")
    )


def main() -> None:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    who, what, amount = sys.argv[1:4]
    if what == "open":
        print(json.dumps(open_work(int(amount), float(sys.argv[4]))), flush=True)
        return
    phase, flush = {"ours": ours, "sdk": sdk, "nothing": nothing}[who]()
    if what == "exit":
        for _ in range(int(amount)):
            phase()
        print(json.dumps({"ended_at": time.time()}), flush=True)
        return
    result = {
        "burst": lambda: burst(phase, flush, int(amount)),
        "lag": lambda: lag(phase, flush, float(amount)),
        "service": lambda: service(phase, flush, float(amount)),
        "memory": lambda: memory(phase, flush, int(amount)),
    }[what]()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
