"""The encoder of spanbus against the SDK's, on spans of spanbus."""

from __future__ import annotations

import random
from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext

from bench.rounds import Row, at_most, in_turns, seconds_of
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._delivery.spool import Stored
from spanbus._otlp import encode as wire
from spanbus._otlp.signals import Signal
from spanbus._semantics import Level, Result
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.template import Template


def spans(count: int = 500) -> list[ReadableSpan]:
    """Phases with nine attributes and three events of four."""
    chance = random.Random(1)
    resource = Resource({"service.name": "bench"})
    return [
        ReadableSpan(
            "fast_hooks",
            SpanContext(chance.getrandbits(128), chance.getrandbits(64), False),
            resource=resource,
            start_time=number,
            end_time=number + 9,
            attributes={
                "cicd.pipeline.name": "standard",
                "cicd.pipeline.run.id": f"run-{number}",
                "spanbus.level": "phase",
                "cicd.pipeline.task.name": "fast_hooks",
                "cicd.pipeline.task.run.id": f"{number:016x}",
                "cicd.pipeline.task.type": "fast_hooks",
                "cicd.pipeline.task.run.result": "success",
                "spanbus.phase.attempts": 1,
                "spanbus.events": 3,
            },
            events=[
                Event(
                    name,
                    {
                        "spanbus.event.id": f"{number}-{name}",
                        "spanbus.event.source": "bench",
                        "spanbus.payload.step_id": "fast_hooks",
                        "spanbus.payload.duration": 0.5 + number,
                    },
                    number,
                )
                for name in (
                    "hooks.strategy.started",
                    "hooks.execution.completed",
                    "hooks.strategy.completed",
                )
            ],
        )
        for number in range(count)
    ]


def records(found: list[ReadableSpan]) -> list[SpanState]:
    """The same spans as records of the correlator, before encoding."""
    run = SpanState(
        Level.RUN,
        "standard",
        run_id="run-0",
        workflow="standard",
        trace_id=1,
        span_id=1,
        started_at_ns=0,
    )
    made: list[SpanState] = []
    for number, span in enumerate(found):
        assert span.context is not None
        record = SpanState(
            Level.PHASE,
            span.name,
            run_id=f"run-{number}",
            workflow="standard",
            trace_id=span.context.trace_id,
            span_id=span.context.span_id,
            started_at_ns=number,
            parent=run,
            task_type="fast_hooks",
        )
        for event in span.events:
            payload = {"step_id": "fast_hooks", "duration": 0.5 + number}
            record.events.append(
                SpanEvent(event.name, event.timestamp, f"{number}-{event.name}", "bench", payload)
            )
        record.result, record.ended_at_ns = Result.SUCCESS, number + 9
        made.append(record)
    return made


def measure() -> list[Row]:
    found = spans()
    group = wire.encode_group(found[0].resource, None)

    def ours(encoded: Callable[[], list[bytes]]) -> float:
        def work() -> None:
            wire.join(Signal.TRACES, [Stored(Signal.TRACES, group, span, 1) for span in encoded()])

        return seconds_of(work) / len(found) * 1e6

    def theirs() -> float:
        return seconds_of(lambda: encode_spans(found).SerializeToString()) / len(found) * 1e6

    template, ended = Template(Redactor()), records(found)
    mine, yard = in_turns(lambda: ours(lambda: [template.encode(each) for each in ended]), theirs)
    rows = [
        at_most("encoding a span with 3 events, as we make it (SDK's encoder)", mine, yard, 0.20)
    ]
    mine, yard = in_turns(lambda: ours(lambda: [wire.encode_span(each) for each in found]), theirs)
    rows.append(at_most("the same of the SDK's own span objects", mine, yard, 0.20))
    return rows
