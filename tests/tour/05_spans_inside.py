"""Stop 5: spans of the code inside a phase, and of the processes that it starts, are children of the phase.

The engine makes the phase the current span; ``mode="wrap"`` does the same on any bus. A child process gets ``TRACEPARENT``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spans import by_name

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver


async def test_a_span_of_the_application_is_a_child_of_the_phase(
    runtime: spanbus.Runtime, collector: Receiver
) -> None:
    exporter = InMemorySpanExporter()
    application = TracerProvider()
    application.add_span_processor(SimpleSpanProcessor(exporter))

    async def build(context: spanbus.PhaseContext) -> bool:
        with application.get_tracer("app").start_as_current_span("compile"):
            return True

    await runtime.run(Workflow("w", (Phase("build", action=build),)))
    assert runtime.flush()
    (compiled,) = exporter.get_finished_spans()
    phase = by_name(collector, "build")
    assert compiled.parent is not None
    assert compiled.parent.span_id == int.from_bytes(phase.span_id, "big")


async def test_a_child_process_gets_its_parent_in_traceparent(
    runtime: spanbus.Runtime, collector: Receiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    script = f"import os; open({str(told)!r}, 'w').write(os.environ['TRACEPARENT'])"
    command = spanbus.Command((sys.executable, "-c", script))
    await runtime.run(Workflow("w", (Phase("call", command=command),)))
    assert runtime.flush()
    trace_id, parent_id = told.read_text().split("-")[1:3]
    beneath = {span.span_id.hex(): span for span in collector.spans()}
    assert trace_id == by_name(collector, "call").trace_id.hex()
    assert beneath[parent_id].name in ("call", f"{Path(sys.executable).name}")
    assert trace.get_current_span() is trace.INVALID_SPAN
