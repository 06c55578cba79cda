"""The short way to a span's bytes gives those of the long way, whatever stands in the events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from spanbus.delivery import wire
from spanbus.telemetry import names
from spanbus.telemetry.names import Flag, Level, Result
from spanbus.telemetry.plain_phases import PlainPhases
from spanbus.telemetry.records import EventNote, Failure, Link, Record
from spanbus.telemetry.redaction import PAYLOAD_KEYS, Redactor
from spanbus.telemetry.rendering import Rendering
from spanbus.telemetry.spans import DirectSpans, RenderedSpan

SECRET = "gh" + "p_" + "a1B2" * 9
KEYS = (*sorted(PAYLOAD_KEYS), "password", "api_token", "not_allowed", "summary", "counts", "")

texts = st.text() | st.sampled_from(["", "x" * 128, "x" * 129, "x" * 5_000, f"token {SECRET}", f"password={SECRET}", "\x1b[31mred\x1b[0m", "\ud800", "ü" * 70])
values = (
    texts | st.booleans() | st.none() | st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 2**63 - 1, 127, 128, 10**30])
    | st.lists(st.text(max_size=5) | st.integers(), max_size=3) | st.dictionaries(st.sampled_from(KEYS), st.integers() | st.text(max_size=5), max_size=3)
    | st.just(datetime(2026, 1, 1)) | st.builds(object) | st.just(ValueError("broken"))
)
payloads = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=6)
events = st.tuples(texts.map(lambda text: text[:300]), st.integers(0, 2**63 - 1), texts, st.sampled_from(["", "engine", "ü"]), payloads)


class Bytes:
    """What DirectSpans hands on, in bytes; encoded by the long way where it is no plain phase."""

    def __init__(self) -> None:
        self.short: list[bytes] = []
        self.long: list[bytes] = []

    def put_span(self, span: RenderedSpan) -> None:
        self.long.append(wire.encode_span(span))

    def put_encoded(self, span_id: int, span: bytes, resource: Resource, scope: InstrumentationScope) -> None:
        del span_id, resource, scope
        self.short.append(span)

    def dropped_of(self, trace_id: int) -> int:
        del trace_id
        return 0


def a_phase(name: str = "fast_hooks", task_type: str | None = "fast_hooks", said: list[tuple[str, int, str, str, Mapping[str, object]]] | None = None) -> Record:
    run = Record(Level.RUN, "standard", run_id="run-1", workflow="standard", trace_id=7 << 100, span_id=9, started_at_ns=1_000)
    phase = Record(
        Level.PHASE, name, run_id="run-1", workflow="standard", trace_id=7 << 100, span_id=11, started_at_ns=1_000, parent=run, task_type=task_type
    )
    for event in said or []:
        phase.events.append(EventNote(*event))
    phase.result, phase.ended_at_ns = Result.SUCCESS, 2_000
    return phase


def both_ways(rendering: Rendering, phase: Record) -> Bytes:
    """The phase as it is handed on, and once more with the short way closed."""
    found = Bytes()
    sink = DirectSpans(found, rendering, sampler=ALWAYS_ON, resource=Resource({}))
    assert phase.parent is not None
    sink.opened(phase.parent)
    sink.opened(phase)
    sink.closed(phase)
    rendering.unlimited = False
    detour = DirectSpans(found, rendering, sampler=ALWAYS_ON, resource=Resource({}))
    detour.closed(phase)
    rendering.unlimited = True
    return found


@given(name=texts, task_type=st.none() | texts, said=st.lists(events, max_size=5), attempts=st.integers(1, 300), enabled=st.booleans())
def test_the_bytes_are_the_same(
    name: str, task_type: str | None, said: list[tuple[str, int, str, str, Mapping[str, object]]], attempts: int, enabled: bool
) -> None:
    phase = a_phase(name, task_type, said)
    phase.attempts = attempts
    found = both_ways(Rendering(Redactor(enabled, patterns=["xyz"], payload_allow=["api_token"])), phase)
    assert found.short == found.long


def test_what_is_remembered_is_the_same_the_second_time() -> None:
    plain = PlainPhases(Rendering(Redactor()))
    said: list[tuple[str, int, str, str, Mapping[str, object]]] = [
        ("hooks.strategy.started", 5, "e-1", "engine", {"strategy": "fast", "success": True, "duration": 0.5, "exit_code": 3, "error": f"token {SECRET}"}),
    ]
    first = plain.encode(a_phase(said=said))
    assert first is not None
    assert first == plain.encode(a_phase(said=said))
    assert SECRET.encode() not in first


@pytest.mark.parametrize("what", ["failed", "flagged", "linked", "described", "skipped", "overflowing", "a run", "an attempt"])
def test_other_records_take_the_long_way(what: str) -> None:
    phase = a_phase(said=[("e", 1, "1", "", {})])
    match what:
        case "failed":
            phase.result, phase.failure = Result.FAILURE, Failure("ValueError", "broken")
        case "flagged":
            phase.flag(Flag.AMBIGUOUS)
        case "linked":
            phase.link(Link(7 << 100, 12, names.LINK_DEPENDS_ON))
        case "described":
            phase.describe(names.PROCESS_EXIT_CODE, 0)
        case "skipped":
            phase.skip_reason = "not wanted"
        case "overflowing":
            for number in range(200):
                phase.events.append(EventNote("e", number, str(number), "", {}))
        case "a run":
            assert phase.parent is not None
            phase.parent.result, phase.parent.ended_at_ns = Result.SUCCESS, 2_000
            phase = phase.parent
        case _:
            phase.level = Level.ATTEMPT
    assert PlainPhases(Rendering(Redactor())).encode(phase) is None


@pytest.mark.parametrize("limits", [
    SpanLimits(max_span_attributes=5), SpanLimits(max_events=3), SpanLimits(max_event_attributes=2), SpanLimits(max_attribute_length=3), SpanLimits(max_span_attribute_length=3),
])
def test_limits_close_the_short_way(limits: SpanLimits) -> None:
    assert not Rendering(Redactor(), limits=limits).unlimited


def test_without_limits_of_the_user_it_is_open() -> None:
    assert Rendering(Redactor(), limits=SpanLimits()).unlimited
    assert not Rendering(Redactor(), span_events=False).unlimited
