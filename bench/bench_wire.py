"""Our encoder against the SDK's, on spans as we make them."""

from __future__ import annotations

import random

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext

from bench.rounds import Row, at_most, in_turns, seconds_of
from spanbus.delivery import wire
from spanbus.delivery.signals import Signal
from spanbus.delivery.spool import Stored


def spans(count: int = 500) -> list[ReadableSpan]:
    """Phases with nine attributes and three events of four."""
    chance = random.Random(1)
    resource = Resource({"service.name": "bench"})
    return [
        ReadableSpan(
            "fast_hooks", SpanContext(chance.getrandbits(128), chance.getrandbits(64), False), resource=resource, start_time=number, end_time=number + 9,
            attributes={
                "cicd.pipeline.name": "standard", "cicd.pipeline.run.id": f"run-{number}", "spanbus.level": "phase", "cicd.pipeline.task.name": "fast_hooks",
                "cicd.pipeline.task.run.id": f"{number:016x}", "cicd.pipeline.task.type": "fast_hooks", "cicd.pipeline.task.run.result": "success",
                "spanbus.phase.attempts": 1, "spanbus.events": 3,
            },
            events=[
                Event(name, {
                    "spanbus.event.id": f"{number}-{name}", "spanbus.event.source": "bench", "spanbus.payload.step_id": "fast_hooks",
                    "spanbus.payload.duration": 0.5 + number,
                }, number)
                for name in ("hooks.strategy.started", "hooks.execution.completed", "hooks.strategy.completed")
            ],
        )
        for number in range(count)
    ]


def measure() -> list[Row]:
    found = spans()
    group = wire.encode_group(found[0].resource, None)

    def ours() -> float:
        return seconds_of(lambda: wire.join(Signal.TRACES, [Stored(Signal.TRACES, group, wire.encode_span(span), 1) for span in found])) / len(found) * 1e6

    mine, yard = in_turns(ours, lambda: seconds_of(lambda: encode_spans(found).SerializeToString()) / len(found) * 1e6)
    return [at_most("encoding a span with 3 events (SDK's encoder)", mine, yard, 0.20)]
