"""The list of spans that a publication or task has opened: it is bounded by the number of open spans."""

from __future__ import annotations

from spanbus._attaching.opened import Opened
from spanbus._correlation.span_state import SpanState
from spanbus._semantics import Level, Result


def record(number: int) -> SpanState:
    return SpanState(
        Level.PHASE, "p", run_id="r", workflow="w", trace_id=1, span_id=number, started_at_ns=1
    )


def test_open_spans_stay_in_order_and_ended_ones_are_removed() -> None:
    opened, still_open = Opened(), list[SpanState]()
    for number in range(1_000):
        one = record(number)
        opened.add(one)
        if number % 50:
            one.finish(Result.SUCCESS, None, 2, None)
        else:
            still_open.append(one)
    assert [one for one in opened if one.result is None] == still_open
    assert len(opened) < 2 * len(still_open) + 16


def test_no_open_span_is_removed() -> None:
    opened, all_open = Opened(), [record(number) for number in range(500)]
    for one in all_open:
        opened.add(one)
    assert opened == all_open
