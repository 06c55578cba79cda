"""Bus events and exceptions as OpenTelemetry log records, which is an opt-in."""

from __future__ import annotations

import pytest
from opentelemetry._logs import SeverityNumber
from rendered import PROVIDERS, SECOND, START_NS, Provider, Rendered

from spanbus._semantics import names


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


def told(rendered: Rendered) -> Rendered:
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="p")
    rendered.say(
        "conveyor.moved",
        {"name": "belt", "message": "token=abc"},
        run_id="r",
        phase="p",
        source="crane",
    )
    rendered.say(
        "workflow.phase.failed",
        {
            "error_type": "acme.ParcelLost",
            "error": "password=abc",
            "stacktrace": "Traceback: secret=abc",
        },
        run_id="r",
        phase="p",
    )
    rendered.say("workflow.failed", {"error_type": "acme.ParcelLost"}, run_id="r")
    return rendered


def exceptions_on_spans(rendered: Rendered) -> int:
    return sum(event.name == "exception" for span in rendered.spans for event in span.events)


def test_nothing_is_logged_by_default(provider: Provider) -> None:
    assert told(Rendered(provider)).logs == []


def test_each_bus_event_is_one_log_record_in_the_trace_of_its_span(provider: Provider) -> None:
    rendered = told(Rendered(provider, log_events=True))
    records = [log.log_record for log in rendered.logs]
    assert [record.event_name for record in records] == [
        "workflow.started",
        "workflow.phase.started",
        "conveyor.moved",
        "workflow.phase.failed",
        "workflow.failed",
    ]
    moved = records[2]
    context = rendered.span("p").get_span_context()
    assert (moved.trace_id, moved.span_id) == (context.trace_id, context.span_id)
    assert (moved.timestamp, moved.severity_number) == (START_NS + 3 * SECOND, SeverityNumber.INFO)
    assert dict(moved.attributes or {}) == {
        "spanbus.event.id": "e3",
        "spanbus.event.source": "crane",
        "spanbus.payload.name": "belt",
        "spanbus.payload.message": "token=REDACTED",
    }


def test_events_above_the_span_limit_are_logged(provider: Provider) -> None:
    rendered = Rendered(provider, log_events=True)
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    for _ in range(500):
        rendered.say("conveyor.moved", {}, run_id="r")
    rendered.say("workflow.completed", {}, run_id="r")
    assert len(rendered.logs) == 502
    assert len(rendered.span("RUN w").events) == 120


def test_a_late_event_is_logged_without_a_trace(provider: Provider) -> None:
    rendered = Rendered(provider, log_events=True)
    rendered.say("workflow.completed", {}, run_id="of nobody")
    [record] = [log.log_record for log in rendered.logs]
    assert (record.event_name, record.span_id) == ("workflow.completed", 0)


@pytest.mark.parametrize(
    ("on_spans", "in_logs"),
    [(True, False), (False, True), (True, True)],
    ids=["by default", "logs", "logs/dup"],
)
def test_exceptions_are_on_spans_or_in_logs_by_the_opt_in(
    provider: Provider, on_spans: bool, in_logs: bool
) -> None:
    rendered = told(Rendered(provider, exception_events=on_spans, exception_logs=in_logs))
    assert exceptions_on_spans(rendered) == int(on_spans)
    records = [log.log_record for log in rendered.logs]
    assert len(records) == int(in_logs)
    for record in records:
        assert record.event_name == "exception"
        assert record.severity_number == SeverityNumber.ERROR
        assert record.span_id == rendered.span("p").get_span_context().span_id
        assert dict(record.attributes or {}) == {
            names.EXCEPTION_TYPE: "acme.ParcelLost",
            names.EXCEPTION_MESSAGE: "password=REDACTED",
            names.EXCEPTION_STACKTRACE: "Traceback: secret=REDACTED",
        }
