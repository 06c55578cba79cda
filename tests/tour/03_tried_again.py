"""Stop 3: a retried phase is one span, with a child span for each attempt.

A phase that fails and then succeeds counts as a success with one retry, not as a failure.
"""

from __future__ import annotations

from spans import attributes, by_name

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver


async def test_failed_then_succeeded_is_a_success_with_a_retry(
    runtime: spanbus.Runtime, collector: Receiver
) -> None:
    tried: list[int] = []

    async def flaky(context: spanbus.PhaseContext) -> bool:
        tried.append(1)
        return len(tried) == 2

    phase = Phase("flaky", action=flaky, retries=2, retry_backoff_s=0.001)
    result = await runtime.run(Workflow("w", (phase,)))
    assert (result.result, result.phases[0].attempts) == ("success", 2)

    assert runtime.flush()
    flaky_span = next(span for span in collector.spans() if span.name == "flaky")
    first, second = (by_name(collector, f"flaky attempt {number}") for number in (1, 2))
    assert first.parent_span_id == second.parent_span_id == flaky_span.span_id
    assert attributes(flaky_span)["spanbus.phase.attempts"] == 2
    assert [link.span_id for link in second.links] == [first.span_id], "retry of the first"

    assert collector.wait_until(lambda seen: seen.sum_of("spanbus.phase.retries") == 1)
    assert collector.sum_of("spanbus.phase.failures") == 0
