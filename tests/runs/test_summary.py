"""A run read back from spans that anybody may have sent."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._runs.documents import run_document
from spanbus._runs.summary import SpanSummary, from_spans


def _span(number: int, parent: int, level: str) -> Span:
    span = Span(
        trace_id=bytes(15) + b"\1",
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=f"n{number}",
    )
    span.start_time_unix_nano, span.end_time_unix_nano = 1_000 + number, 2_000_000
    span.attributes.add(key="spanbus.level").value.string_value = level
    span.attributes.add(key="cicd.pipeline.task.name").value.string_value = f"n{number}"
    return span


def _count(spans: tuple[SpanSummary, ...]) -> int:
    return sum(1 + _count(span.children) for span in spans)


def test_a_trace_of_five_thousand_levels_is_read_and_loses_no_span() -> None:
    run = from_spans(
        [_span(1, 0, "run"), *(_span(number, number - 1, "phase") for number in range(2, 5_002))]
    )
    assert run is not None
    assert _count(run.phases) == 5_000
    assert run_document(run)["phases"]


def test_what_a_workflow_nests_stays_as_it_was_sent() -> None:
    run = from_spans(
        [_span(1, 0, "run"), *(_span(number, number - 1, "phase") for number in range(2, 52))]
    )
    assert run is not None
    at, depth = run.phases, 0
    while at:
        assert len(at) == 1
        at, depth = at[0].children, depth + 1
    assert depth == 50


def test_spans_that_are_their_own_ancestors_end() -> None:
    spans = [_span(1, 0, "run"), _span(2, 1, "phase"), _span(3, 4, "phase"), _span(4, 3, "phase")]
    run = from_spans(spans)
    assert run is not None
    assert [phase.name for phase in run.phases] == ["n2"]
    inner = from_spans(spans, (3).to_bytes(8, "big"))
    assert inner is not None
    assert _count(inner.phases) == 1
