"""Stop 1: one line on a bus, and each phase is a span.

A workflow publishes its progress on an event bus. After ``spanbus.instrument(bus)`` the run is a root span, each phase is a
child span of it, and each bus event is a span event.
"""

from __future__ import annotations

from spans import by_name, event_names

import spanbus
from spanbus.testing import Receiver


async def test_each_phase_is_a_span_and_each_event_a_span_event(
    runtime: spanbus.Runtime, collector: Receiver
) -> None:
    async with spanbus.WorkflowEventBus() as bus:
        handle = runtime.instrument(bus)  # spanbus.instrument(bus), where there is one runtime
        await bus.publish("workflow.started", {"workflow_id": "nightly"})
        for phase in ("lint", "tests"):
            said = {"workflow_id": "nightly", "step_id": phase, "phase": phase}
            await bus.publish("workflow.quality.started", said)
            await bus.publish("workflow.quality.completed", {**said, "success": True})
        await bus.publish("workflow.completed", {"workflow_id": "nightly"})

    state = handle.state()
    assert (state.runs_ended, state.phases_ended, state.events_recorded) == (1, 2, 6)

    assert runtime.flush()
    run, lint, tests = (by_name(collector, name) for name in ("RUN nightly", "lint", "tests"))
    assert lint.parent_span_id == tests.parent_span_id == run.span_id
    assert {run.trace_id} == {lint.trace_id, tests.trace_id}
    assert event_names(lint) == ["workflow.quality.started", "workflow.quality.completed"]
