"""An application with its own TracerProvider: spanbus uses it, and the application's spans nest in wrap mode."""

from __future__ import annotations

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import spanbus


async def main() -> None:
    exporter = InMemorySpanExporter()  # in production: an OTLPSpanExporter
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async with spanbus.WorkflowEventBus() as bus:
        with spanbus.instrument(bus, mode="wrap"):
            await bus.publish("workflow.started", {"workflow_id": "nightly"})
            await bus.publish(
                "workflow.quality.started",
                {"workflow_id": "nightly", "step_id": "lint", "phase": "lint"},
            )
            with trace.get_tracer("application").start_as_current_span("query"):
                await anyio.sleep(0.01)
            await bus.publish(
                "workflow.quality.completed",
                {"workflow_id": "nightly", "step_id": "lint", "phase": "lint"},
            )
            await bus.publish("workflow.completed", {"workflow_id": "nightly"})

    spans = {span.name: span for span in exporter.get_finished_spans()}
    lint, query = spans["lint"], spans["query"]
    assert query.parent is not None and lint.context is not None
    print(
        f"query is inside lint: {query.parent.span_id == lint.context.span_id}; the run: {'RUN nightly' in spans}"
    )


if __name__ == "__main__":
    anyio.run(main)
