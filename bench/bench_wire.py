"""Our encoder against the SDK's, on spans as we make them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext

from bench.rounds import Row, at_most, in_turns, seconds_of
from spanbus.delivery import wire
from spanbus.delivery.signals import Signal
from spanbus.delivery.spool import Stored
from spanbus.telemetry.spans import RenderedEvent, RenderedSpan


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


def as_we_make_them(found: list[ReadableSpan]) -> list[RenderedSpan]:
    """The same spans as the recorder's sink hands them on, with plain mappings."""
    return [
        RenderedSpan(
            span.name, span.context, None, span.kind, span.start_time or 0, span.end_time or 0, dict(span.attributes or {}),
            [RenderedEvent(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events], (), span.status, span.resource,
        )
        for span in found if span.context is not None
    ]


def measure() -> list[Row]:
    found = spans()
    group = wire.encode_group(found[0].resource, None)

    def ours(them: Sequence[ReadableSpan | RenderedSpan]) -> float:
        return seconds_of(lambda: wire.join(Signal.TRACES, [Stored(Signal.TRACES, group, wire.encode_span(span), 1) for span in them])) / len(them) * 1e6

    def theirs() -> float:
        return seconds_of(lambda: encode_spans(found).SerializeToString()) / len(found) * 1e6

    rendered = as_we_make_them(found)
    mine, yard = in_turns(lambda: ours(rendered), theirs)
    rows = [at_most("encoding a span with 3 events, as we make it (SDK's encoder)", mine, yard, 0.20)]
    mine, yard = in_turns(lambda: ours(found), theirs)
    rows.append(at_most("the same of the SDK's own span objects", mine, yard, 0.20))
    return rows
