"""What a publication or a task has opened: all that is open, and not much more."""

from __future__ import annotations

from spanbus._attaching.opened import Opened
from spanbus._correlation.span_state import SpanState
from spanbus._semantics import Level, Result


def record(number: int) -> SpanState:
    return SpanState(
        Level.PHASE, "p", run_id="r", workflow="w", trace_id=1, span_id=number, started_at_ns=1
    )


def test_what_is_open_stays_in_order_and_what_has_ended_goes() -> None:
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


def test_nothing_is_let_go_while_all_is_open() -> None:
    opened, all_open = Opened(), [record(number) for number in range(500)]
    for one in all_open:
        opened.add(one)
    assert opened == all_open
