"""Spans in detail: names, kinds, attributes, links, events, ids, sampling, limits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from rendered import PROVIDERS, SECOND, START_NS, Provider, Rendered

from spanbus._correlation.correlator import Correlator
from spanbus._reading import dialect_file
from spanbus._reading import read as raw
from spanbus._semantics import names
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.template import Template
from spanbus._telemetry.tracer_spans import TracerSpans
from spanbus._workflow import identity

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


def told(
    rendered: Rendered, *phases: str, started: dict[str, object] | None = None, **identity: object
) -> Rendered:
    """Feed a run whose phases succeed one after the other."""
    rendered.say("workflow.started", {"workflow": "w", **(started or {})}, run_id="r", **identity)
    for phase in phases:
        rendered.say("workflow.phase.started", {"type": "command"}, run_id="r", phase=phase)
        rendered.say(
            "workflow.phase.completed", {"success": True, "duration": 0.5}, run_id="r", phase=phase
        )
    rendered.say("workflow.completed", {"success": True}, run_id="r")
    return rendered


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_names_and_kinds(provider: Provider) -> None:
    rendered = told(Rendered(provider), "lint")
    assert [(span.name, span.kind) for span in rendered.spans] == [
        ("RUN w", SpanKind.SERVER),
        ("lint", SpanKind.INTERNAL),
    ]


def test_attributes_of_a_run_and_a_phase(provider: Provider) -> None:
    rendered = told(Rendered(provider), "lint")
    run, phase = rendered.spans
    assert attributes(run) == {
        names.PIPELINE_NAME: "w",
        names.PIPELINE_RUN_ID: "r",
        names.LEVEL: "run",
        names.PIPELINE_ACTION_NAME: "RUN",
        names.PIPELINE_RESULT: "success",
        names.EVENTS_TOTAL: 2,
    }
    assert attributes(phase) == {
        names.PIPELINE_NAME: "w",
        names.PIPELINE_RUN_ID: "r",
        names.LEVEL: "phase",
        names.TASK_NAME: "lint",
        names.TASK_TYPE: "command",
        names.TASK_RUN_ID: attributes(phase)[names.TASK_RUN_ID],
        names.TASK_RESULT: "success",
        names.PHASE_ATTEMPTS: 1,
        names.EVENTS_TOTAL: 2,
    }
    assert len(str(attributes(phase)[names.TASK_RUN_ID])) == 16
    if provider != "theirs":
        assert attributes(phase)[names.TASK_RUN_ID] == f"{phase.get_span_context().span_id:016x}"


def test_times_are_those_of_the_events_and_the_monotonic_duration(provider: Provider) -> None:
    run, phase = told(Rendered(provider), "lint").spans
    assert (run.start_time, run.end_time) == (START_NS + SECOND, START_NS + 4 * SECOND)
    assert (phase.start_time, phase.end_time) == (
        START_NS + 2 * SECOND,
        START_NS + 2 * SECOND + SECOND // 2,
    )


def test_a_phase_is_a_child_of_its_run(provider: Provider) -> None:
    run, phase = told(Rendered(provider), "lint").spans
    assert run.parent is None
    assert phase.parent is not None
    assert phase.parent.span_id == run.get_span_context().span_id
    assert phase.get_span_context().trace_id == run.get_span_context().trace_id


@pytest.mark.parametrize("delivery", ["spool", "sdk"])
def test_ids_are_functions_of_the_events(delivery: Provider) -> None:
    first, second = (told(Rendered(delivery), "lint").spans for _ in range(2))
    assert [span.get_span_context() for span in first] == [
        span.get_span_context() for span in second
    ]
    assert first[0].get_span_context().trace_id == identity.trace_id_of("r")


def test_a_traceparent_makes_the_run_a_child(provider: Provider) -> None:
    run, phase = told(Rendered(provider), "lint", traceparent=PARENT, tracestate="rojo=1").spans
    assert run.parent is not None
    assert (run.parent.trace_id, run.parent.span_id, run.parent.is_remote) == (
        TRACE_ID,
        SPAN_ID,
        True,
    )
    assert {span.get_span_context().trace_id for span in (run, phase)} == {TRACE_ID}
    assert run.get_span_context().trace_state.get("rojo") == "1"


def test_a_phase_links_to_the_phases_it_needs(provider: Provider) -> None:
    rendered = Rendered(provider)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    for phase, needs in (("a", []), ("b", []), ("c", ["a", "b"])):
        rendered.say("workflow.phase.started", {"needs": needs}, run_id="r", phase=phase)
        rendered.say("workflow.phase.completed", {}, run_id="r", phase=phase)
    rendered.say("workflow.completed", {}, run_id="r")
    wanted = {rendered.span(name).get_span_context().span_id for name in "ab"}
    assert {link.context.span_id for link in rendered.span("c").links} == wanted
    assert [dict(link.attributes or {}) for link in rendered.span("c").links] == [
        {names.LINK_TYPE: "depends_on"}
    ] * 2


def test_a_rerun_links_to_the_first_run(provider: Provider) -> None:
    run = told(Rendered(provider), started={"rerun_of": PARENT}).span("RUN w")
    [link] = run.links
    assert (link.context.trace_id, link.context.span_id, dict(link.attributes or {})) == (
        TRACE_ID,
        SPAN_ID,
        {names.LINK_TYPE: "rerun_of"},
    )
    assert run.get_span_context().trace_id != TRACE_ID


def test_hooks_are_children_of_their_phase(provider: Provider) -> None:
    rendered = Rendered(provider)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="fast")
    rendered.say(
        "hooks.execution.started",
        {"hook": "ruff", "command": ["ruff", "--token", "abc"]},
        run_id="r",
        phase="fast",
    )
    rendered.say(
        "hooks.execution.failed",
        {"hook": "ruff", "exit_code": 2, "output_tail": "password=abc is bad"},
        run_id="r",
        phase="fast",
    )
    rendered.correlator.close()
    hook = rendered.span("hook ruff")
    assert hook.parent is not None
    assert hook.parent.span_id == rendered.span("fast").get_span_context().span_id
    found = attributes(hook)
    assert (found[names.HOOK_NAME], found[names.HOOK_RESULT], found[names.PROCESS_EXIT_CODE]) == (
        "ruff",
        "failure",
        2,
    )
    assert "abc" not in str(found)
    assert [
        attribute
        for span in rendered.spans
        for attribute in attributes(span)
        if attribute.endswith("failures")
    ] == []


# --- events -----------------------------------------------------------------------------------------------------------


def test_every_bus_event_is_a_span_event_with_its_name_time_and_allowed_payload(
    provider: Provider,
) -> None:
    rendered = Rendered(provider)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="p")
    rendered.say(
        "conveyor.moved",
        {"name": "belt 3", "count": 7, "secret": "x", "message": "token=abc"},
        run_id="r",
        phase="p",
        source="crane",
    )
    rendered.correlator.close()
    [event] = [event for event in rendered.span("p").events if event.name == "conveyor.moved"]
    assert event.timestamp == START_NS + 3 * SECOND
    assert dict(event.attributes or {}) == {
        "spanbus.event.id": "e3",
        "spanbus.event.source": "crane",
        "spanbus.payload.name": "belt 3",
        "spanbus.payload.count": 7,
        "spanbus.payload.message": "token=REDACTED",
    }
    assert [event.name for event in rendered.span("RUN w").events] == ["workflow.started"]


def test_span_events_can_be_switched_off(provider: Provider) -> None:
    rendered = told(Rendered(provider, span_events=False), "lint")
    assert [event for span in rendered.spans for event in span.events] == []
    assert attributes(rendered.span("lint"))[names.EVENTS_TOTAL] == 2


def flooded(rendered: Rendered, count: int) -> ReadableSpan:
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="p")
    for number in range(count):
        rendered.say(
            "even" if number % 2 == 0 else "odd",
            {"number": number},
            after_s=0.001,
            run_id="r",
            phase="p",
        )
    rendered.say("workflow.phase.completed", {}, run_id="r", phase="p")
    rendered.say("workflow.completed", {}, run_id="r")
    return rendered.span("p")


def test_120_events_are_all_kept(provider: Provider) -> None:
    span = flooded(Rendered(provider), 118)
    assert len(span.events) == 120
    assert names.EVENTS_DROPPED not in attributes(span)


def test_above_the_limit_the_first_and_the_last_60_are_kept_and_the_rest_is_counted_by_type(
    provider: Provider,
) -> None:
    rendered = Rendered(provider)
    span = flooded(rendered, 498)
    assert len(span.events) == 120
    numbers = [(event.attributes or {}).get("spanbus.payload.number") for event in span.events]
    assert numbers[:60] == [None, *range(59)]
    assert numbers[60:] == [*range(439, 498), None]
    found = attributes(span)
    assert (found[names.EVENTS_TOTAL], found[names.EVENTS_DROPPED]) == (500, 380)
    assert (found["spanbus.events.count.even"], found["spanbus.events.count.odd"]) == (190, 190)
    assert (
        rendered.numbers(names.EVENTS)[("recorded", "even")]
        + rendered.numbers(names.EVENTS)[("dropped", "even")]
        == 249
    )
    assert rendered.numbers(names.EVENTS)[("dropped", "odd")] == 190


def test_a_lower_event_limit_of_the_sdk_keeps_the_first_and_last(provider: Provider) -> None:
    span = flooded(Rendered(provider, limits=SpanLimits(max_events=10)), 30)
    assert [(event.attributes or {}).get("spanbus.payload.number") for event in span.events] == [
        None,
        0,
        1,
        2,
        3,
        26,
        27,
        28,
        29,
        None,
    ]
    if provider == "spool":
        assert span.dropped_events == 22


def test_a_low_attribute_limit_keeps_the_identifying_attributes(provider: Provider) -> None:
    span = told(Rendered(provider, limits=SpanLimits(max_span_attributes=3)), "lint").span("lint")
    assert len(attributes(span)) == 3
    if provider == "spool":
        assert list(attributes(span)) == [names.PIPELINE_NAME, names.PIPELINE_RUN_ID, names.LEVEL]


def test_the_sdks_length_limit_cuts_texts(provider: Provider) -> None:
    rendered = Rendered(
        provider, limits=SpanLimits(max_span_attribute_length=4, max_attribute_length=4)
    )
    assert attributes(told(rendered, "a long name").span("a long name"))[names.TASK_NAME] == "a lo"


# --- flags ------------------------------------------------------------------------------------------------------------


def test_an_end_without_a_start_has_the_orphan_attribute(provider: Provider) -> None:
    rendered = Rendered(provider)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.completed", {"success": True}, run_id="r", phase="p")
    rendered.correlator.close()
    assert attributes(rendered.span("p"))[names.ORPHAN] == "end"


def test_an_end_before_its_start_is_clamped_and_has_the_clock_attribute(provider: Provider) -> None:
    rendered = Rendered(provider)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="p")
    rendered.say("workflow.phase.completed", {"success": True}, after_s=-5, run_id="r", phase="p")
    rendered.correlator.close()
    span = rendered.span("p")
    assert attributes(span)[names.CLOCK] == "clamped"
    assert (span.end_time or 0) >= (span.start_time or 0)


# --- sampling ---------------------------------------------------------------------------------------------------------


class ByName(Sampler):
    """A sampler that samples runs of one workflow and records its arguments."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object], int]] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.asked.append((name, dict(attributes or {}), len(links or ())))
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if name != "RUN quiet" else Decision.DROP,
            {"sampler.said": "yes"},
        )

    def get_description(self) -> str:
        return "ByName"


def test_a_sampler_sees_the_attributes_and_links_of_the_start(provider: Provider) -> None:
    sampler = ByName()
    rendered = Rendered(provider, sampler=sampler)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {"type": "command"}, run_id="r", phase="a")
    rendered.say("workflow.phase.completed", {}, run_id="r", phase="a")
    rendered.say(
        "workflow.phase.started", {"type": "command", "needs": ["a"]}, run_id="r", phase="b"
    )
    assert [(name, found[names.LEVEL], links) for name, found, links in sampler.asked] == [
        ("RUN w", "run", 0),
        ("a", "phase", 0),
        ("b", "phase", 1),
    ]
    assert sampler.asked[2][1][names.TASK_NAME] == "b"
    rendered.correlator.close()
    assert attributes(rendered.span("b"))["sampler.said"] == "yes"


def test_an_unsampled_run_exports_nothing_and_is_counted(provider: Provider) -> None:
    rendered = told(Rendered(provider, sampler=ALWAYS_OFF), "lint")
    assert [span for span in rendered.spans if span.get_span_context().trace_flags.sampled] == []
    assert rendered.numbers(names.PHASE_FAILURES) == {("w", "lint"): 0}


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_default_sampler_follows_the_parent(provider: Provider, flags: str) -> None:
    rendered = told(
        Rendered(
            provider, sampler=ParentBased(ALWAYS_OFF if flags == "01" else TraceIdRatioBased(1.0))
        ),
        "lint",
        traceparent=PARENT[:-2] + flags,
    )
    sampled = [span.name for span in rendered.spans if span.get_span_context().trace_flags.sampled]
    assert sampled == (["RUN w", "lint"] if flags == "01" else [])


# --- a provider of the application ------------------------------------------------------------------------------------


def test_processors_of_the_application_see_attributes_at_the_start_and_parents_open() -> None:
    class Seen(SpanProcessor):
        def __init__(self) -> None:
            self.started: list[tuple[str, str]] = []
            self.open: set[int] = set()

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            context = span.get_span_context()
            assert context is not None
            assert span.parent is None or span.parent.span_id in self.open
            self.open.add(context.span_id)
            self.started.append((span.name, str((span.attributes or {})[names.LEVEL])))

        def on_end(self, span: ReadableSpan) -> None:
            context = span.get_span_context()
            assert context is not None
            self.open.discard(context.span_id)

    seen = Seen()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(seen)
    correlator = Correlator([TracerSpans(tracers.get_tracer("t"), Template(Redactor()))])
    rules = dialect_file.load("spanbus")
    for number, (event_type, phase) in enumerate(
        [
            ("workflow.started", None),
            ("workflow.phase.started", "p"),
            ("workflow.phase.completed", "p"),
            ("workflow.completed", None),
        ]
    ):
        correlator.apply(
            rules.fact(
                raw.read(
                    {
                        "event_type": event_type,
                        "event_id": f"{number}",
                        "at_ns": START_NS + number,
                        "run_id": "r",
                        "phase": phase,
                        "payload": {"workflow": "w"},
                    }
                )
            )
        )
    assert seen.started == [("RUN w", "run"), ("p", "phase")]
    assert seen.open == set()


def test_event_attributes_are_limited_and_dropped_ones_counted() -> None:
    rendered = Rendered(limits=SpanLimits(max_event_attributes=2, max_attribute_length=4))
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say(
        "workflow.phase.started",
        {"type": "fast_hooks", "strategy": "comprehensive"},
        run_id="r",
        phase="p",
    )
    rendered.say("workflow.phase.completed", {"success": True}, run_id="r", phase="p")
    rendered.say("workflow.completed", {}, run_id="r")
    span = rendered.span("p")
    started = span.events[0]
    assert started.attributes is not None
    assert len(started.attributes) == 2
    assert all(len(value) <= 4 for value in started.attributes.values() if isinstance(value, str))
    assert started.dropped_attributes == 1
