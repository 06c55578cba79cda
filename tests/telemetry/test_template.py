"""The table of attributes gives the same encoded spans and attributes as the frozen rendering, for every level and result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import cast

import frozen_rendering
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, TraceState

from spanbus._correlation.span_state import AttributeValue, Link, SpanEvent, SpanState
from spanbus._otlp import encode as wire
from spanbus._semantics import ErrorType, Failure, Flag, Level, Result, names
from spanbus._telemetry.redaction import PAYLOAD_KEYS, Redactor
from spanbus._telemetry.template import Template

SECRET = "gh" + "p_" + "a1B2" * 9
KEYS = (*sorted(PAYLOAD_KEYS), "password", "api_token", "not_allowed", "summary", "counts", "")

texts = st.text() | st.sampled_from(
    [
        "",
        "x" * 128,
        "x" * 129,
        "x" * 5_000,
        f"token {SECRET}",
        f"password={SECRET}",
        "\x1b[31mred\x1b[0m",
        "\ud800",
        "ü" * 70,
    ]
)
values = (
    texts
    | st.booleans()
    | st.none()
    | st.integers()
    | st.floats()
    | st.sampled_from([2**63, -(2**63), 2**63 - 1, 127, 128, 10**30])
    | st.lists(st.text(max_size=5) | st.integers(), max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), st.integers() | st.text(max_size=5), max_size=3)
    | st.just(datetime(2026, 1, 1))  # noqa: DTZ001 (payloads have such)
    | st.builds(object)
    | st.just(ValueError("broken"))
)
payloads = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=6)
events = st.builds(
    SpanEvent,
    texts.map(lambda text: text[:300]),
    st.integers(0, 2**63 - 1),
    texts,
    st.sampled_from(["", "engine", "ü"]),
    payloads,
)
failures = st.none() | st.builds(
    Failure,
    st.sampled_from(["builtins.ValueError", *ErrorType]),
    st.none() | texts,
    st.none() | texts,
)
described = st.dictionaries(
    st.sampled_from(
        [names.PROCESS_EXECUTABLE, names.HOOK_NAME, names.OUTPUT_TAIL, names.PIPELINE_NAME, "own"]
    ),
    texts | st.integers(-5, 5) | st.booleans() | st.lists(texts, max_size=3).map(tuple),
    max_size=4,
)
links = st.lists(
    st.builds(
        Link, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.sampled_from(["retry_of"])
    ),
    max_size=2,
)


@st.composite
def records(draw: st.DrawFn) -> SpanState:
    """Generate an ended record of any level and result, with a parent as such a record has."""
    level = draw(st.sampled_from([level for level in Level if level is not Level.EXECUTION]))
    run = a_record(Level.RUN, "standard", None)
    phase = a_record(Level.PHASE, "tests", run)
    parent = None if level is Level.RUN else run if level is Level.PHASE else phase
    record = a_record(level, draw(texts), parent)
    record.task_type = draw(st.none() | texts)
    record.attempt = draw(st.integers(1, 300))
    record.attempts = draw(st.integers(1, 300))
    record.result = draw(st.sampled_from(list(Result)))
    record.failure = draw(failures) if record.result.failed else None
    record.ended_at_ns = draw(st.integers(1_000, 2**62))
    record.skip_reason = draw(st.none() | texts)
    for flag in draw(st.sets(st.sampled_from([Flag.AMBIGUOUS, Flag.ORPHAN_END, Flag.CLOCK]))):
        record.flag(flag)
    for key, value in draw(described).items():
        record.describe(key, cast("AttributeValue", value))
    for link in draw(links):
        record.link(link)
    for number, event in enumerate(draw(st.lists(events, max_size=5))):
        name = f"{event.name} {number}"  # no two say the same
        record.events.append(
            SpanEvent(name, event.at_ns, event.event_id, event.source, event.payload)
        )
    for number in range(draw(st.sampled_from([0, 0, 0, 200]))):
        record.events.append(SpanEvent(f"type {number % 40}", number, str(number), "", {}))
    return record


@given(found=records(), phase=st.none() | texts)
def test_an_execution_is_a_consumer_with_the_same_bytes_and_attributes(
    found: SpanState, phase: str | None
) -> None:
    """The frozen rendering does not have executions, so the attributes are compared with each other."""
    record, template = a_record(Level.EXECUTION, found.name, None), Template(Redactor())
    record.of_phase, record.result, record.failure = phase, found.result, found.failure
    record.ended_at_ns, record.attributes = found.ended_at_ns, found.attributes
    attributes = template.attributes(record)
    assert {**template.opening(record), **template.closing(record)} == attributes
    if names.TASK_NAME not in record.attributes:
        assert attributes[names.TASK_NAME] == (phase or found.name)
    span = as_message(template.encode(record))
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert len(span.attributes) == len(attributes)


def a_record(level: Level, name: str, parent: SpanState | None) -> SpanState:
    return SpanState(
        level,
        name,
        run_id="run-1",
        workflow="standard",
        trace_id=7 << 100,
        span_id=9 + list(Level).index(level),
        started_at_ns=1_000,
        parent=parent,
    )


def as_message(span: bytes) -> Span:
    """Decode a span, and sort its attributes by key, because their order has no meaning."""
    found = Span.FromString(span)
    for holder in (found, *found.events, *found.links):
        pairs = sorted(holder.attributes, key=lambda pair: pair.key)
        del holder.attributes[:]
        holder.attributes.extend(pairs)
    return found


def now_named(record: SpanState, name: str, redactor: Redactor) -> tuple[str, Status]:
    """Return the expected name and status, which differ from the frozen rendering on purpose."""
    level, result, failure = record.level, record.result, record.failure
    assert result is not None
    if (level is Level.PHASE and result is Result.SKIP) or (
        level is Level.RUN and result in (Result.SKIP, Result.CANCELLATION)
    ):
        name = f"{name} ({result})"
    if not result.failed:
        return name, Status(StatusCode.UNSET)
    room = 16 if level is Level.RUN else 0
    text = None if failure is None else str(failure.error_type)
    if failure is not None and failure.message:
        text = redactor.text(failure.message, names.ERROR_TEXT_LIMIT - room)
    if level is Level.RUN:
        text = str(result) if text is None else f"{result}: {text}"
    return name, Status(StatusCode.ERROR, text)


@given(
    record=records(),
    enabled=st.booleans(),
    span_events=st.booleans(),
    exception_events=st.booleans(),
    remote=st.booleans(),
    state=st.sampled_from([None, TraceState([("vendor", "1")])]),
    sampler_attributes=st.sampled_from([None, {"sampler": "yes", names.PIPELINE_NAME: "theirs"}]),
    dropped_records=st.sampled_from([0, 3]),
)
def test_encoded_spans_equal_the_frozen_rendering(
    record: SpanState,
    enabled: bool,
    span_events: bool,
    exception_events: bool,
    remote: bool,
    state: TraceState | None,
    sampler_attributes: Mapping[str, AttributeValue] | None,
    dropped_records: int,
) -> None:
    redactor = Redactor(enabled, patterns=["xyz"], payload_allow=["api_token"])
    frozen = frozen_rendering.Rendering(
        redactor, span_events=span_events, exception_events=exception_events
    )
    template = Template(redactor, span_events=span_events, exception_events=exception_events)
    parent = SpanContext(7 << 100, 5, True, TraceFlags(1)) if remote else None
    expected = frozen_rendering.span_of(
        frozen,
        record,
        parent=parent,
        state=state,
        sampler_attributes=sampler_attributes,
        dropped_records=dropped_records,
    )
    name, status = now_named(record, expected.name, redactor)
    expected = cast(
        "ReadableSpan", SimpleNamespace(**{**vars(expected), "name": name, "status": status})
    )
    span = template.encode(
        record,
        parent=parent,
        state=state,
        sampler_attributes=sampler_attributes or {},
        dropped_records=dropped_records,
    )
    assert as_message(span) == as_message(wire.encode_span(expected))
    assert span == template.encode(
        record,
        parent=parent,
        state=state,
        sampler_attributes=sampler_attributes or {},
        dropped_records=dropped_records,
    )


@given(record=records())
def test_attributes_and_events_equal_the_frozen_rendering(record: SpanState) -> None:
    redactor = Redactor()
    frozen, template = frozen_rendering.Rendering(redactor), Template(redactor)
    own = record.attributes  # known at the start at every level now
    assert {key: value for key, value in template.opening(record).items() if key not in own} == {
        key: value for key, value in frozen.opening(record).items() if key not in own
    }
    assert template.attributes(record) == {**frozen.opening(record), **frozen.closing(record)}
    assert {**template.opening(record), **template.closing(record)} == template.attributes(record)
    assert list(template.events(record)) == list(frozen.events(record))
    name, expected = now_named(record, frozen.name(record), redactor)
    status = template.status(record)
    assert template.name(record) == name
    assert (status.status_code, status.description) == (expected.status_code, expected.description)


@pytest.mark.parametrize(
    "limits",
    [
        SpanLimits(max_span_attributes=5),
        SpanLimits(max_events=3),
        SpanLimits(max_event_attributes=2),
        SpanLimits(max_attribute_length=3),
        SpanLimits(max_span_attribute_length=3),
    ],
)
def test_span_limits_of_the_user_hold_in_the_encoded_span(limits: SpanLimits) -> None:
    record = a_record(Level.PHASE, "tests", a_record(Level.RUN, "standard", None))
    record.result, record.ended_at_ns = Result.FAILURE, 2_000
    record.failure = Failure("builtins.ValueError", "a text")
    payload = {"reason": "not wanted", "step": "a step", "status": "done"}
    for number in range(6):
        record.events.append(SpanEvent("e", number, str(number), "source", payload))
    found = Span.FromString(Template(Redactor(), limits=limits).encode(record))
    whole = Span.FromString(Template(Redactor()).encode(record))
    if limits.max_span_attributes == 5:
        assert len(found.attributes) == 5
        assert found.dropped_attributes_count == len(whole.attributes) - 5
    if limits.max_events == 3:
        assert [event.name for event in found.events] == ["e", "e", "exception"]
        assert found.dropped_events_count == 4
    if limits.max_event_attributes == 2:
        assert {len(event.attributes) for event in found.events} == {2}
        assert found.events[0].dropped_attributes_count == 3
    if limits.max_attribute_length == 3:
        texts = [pair.value.string_value for event in found.events for pair in event.attributes]
        assert max(map(len, texts)) == 3
    if limits.max_span_attribute_length == 3:
        assert max(len(pair.value.string_value) for pair in found.attributes) == 3


def say(record: SpanState, name: str, number: int, **payload: object) -> None:
    record.events.append(SpanEvent(name, number, f"e-{number}", f"speaker {number % 2}", payload))


def test_repeated_events_of_a_second_announcer_are_left_out_of_a_failed_phase() -> None:
    record = a_record(Level.PHASE, "tests", a_record(Level.RUN, "standard", None))
    say(record, "step.started", 1, step_id="tests", step_name="Tests")
    say(record, "step.started", 2, step_id="tests", timestamp=5.0)
    say(record, "step.failed", 3, step_id="tests", duration=0.1)
    say(record, "step.failed", 4, step_id="tests", duration=0.2, error="1 test failed")
    record.result, record.failure = Result.FAILURE, Failure(ErrorType.UNSUCCESSFUL, "1 test failed")
    record.ended_at_ns = 2_000
    template = Template(Redactor())
    found = Span.FromString(template.encode(record))
    assert [event.name for event in found.events] == ["step.started", "step.failed"]
    assert [event.time_unix_nano for event in found.events] == [1, 4]
    assert [event[0] for event in template.events(record)] == ["step.started", "step.failed"]
    assert template.attributes(record)[names.EVENTS_TOTAL] == 4


def test_different_events_of_a_second_announcer_stay_on_a_failed_phase() -> None:
    record = a_record(Level.PHASE, "tests", a_record(Level.RUN, "standard", None))
    say(record, "hook.failed", 1, hook="ruff", error="found 2")
    say(record, "hook.failed", 2, hook="mypy", error="found 2")
    say(record, "beat", 3)
    say(record, "beat", 4)
    record.result, record.failure, record.ended_at_ns = Result.FAILURE, Failure("x"), 2_000
    assert [event[1] for event in Template(Redactor()).events(record)][:4] == [1, 2, 3, 4]


def test_error_and_output_come_before_ids_in_an_event() -> None:
    event = SpanEvent(
        "hook.failed",
        1,
        "e-1",
        "engine",
        {"step_id": "tests", "output_tail": "1 failed", "error": "exit 1", "type": "command"},
    )
    record = a_record(Level.PHASE, "tests", a_record(Level.RUN, "standard", None))
    record.events.append(event)
    record.result, record.ended_at_ns = Result.SUCCESS, 2_000
    template = Template(Redactor())
    order = [f"spanbus.payload.{key}" for key in ("type", "error", "output_tail", "step_id")] + [
        names.EVENT_SOURCE,
        names.EVENT_ID,
    ]
    assert list(template.event(event)) == order
    [found] = Span.FromString(template.encode(record)).events
    assert [pair.key for pair in found.attributes] == order


def test_the_second_encoding_of_a_record_is_redacted_too() -> None:
    template = Template(Redactor())
    record = a_record(Level.PHASE, "tests", a_record(Level.RUN, "standard", None))
    record.result, record.ended_at_ns = Result.FAILURE, 2_000
    record.failure = Failure("builtins.ValueError", f"token {SECRET}", f"password={SECRET}")
    record.events.append(SpanEvent("e", 5, "e-1", "engine", {"error": f"token {SECRET}"}))
    first = template.encode(record)
    assert first == template.encode(record)
    assert SECRET.encode() not in first
