"""The wall clock is set during a run of our engine: durations and order come from the monotonic clock."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._workflow import bus as bus_module
from spanbus._workflow import current
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Phase, Workflow
from spanbus._workflow.engine import BasicWorkflowEngine
from spanbus._workflow.events import new_event_id

YEAR_S = 365 * 86_400
SETS_S = [-56 * YEAR_S, -3_600.0, 3_600.0, 400 * 86_400.0]


class WallClock:
    """The machine's clock with an offset."""

    def __init__(self) -> None:
        self.off_ns = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.off_ns


@pytest.mark.anyio
@pytest.mark.parametrize("set_by_s", SETS_S)
async def test_setting_the_wall_clock_during_a_run_does_not_change_durations(
    set_by_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock()
    monkeypatch.setattr(current, "time_ns", clock.time_ns)
    tried: list[int] = []

    async def set_the_clock() -> None:
        clock.off_ns += round(set_by_s * 1e9)
        await anyio.lowlevel.checkpoint()

    async def fails_once() -> bool:
        tried.append(len(tried))
        await bus.publish("config.checked", {"size": 3})
        return len(tried) > 1

    workflow = Workflow(
        "w",
        [
            Phase("before", action=fails_once, retries=1, retry_backoff_s=0.0),
            Phase("sets", action=set_the_clock, needs=("before",)),
            Phase("after", action=fails_once, needs=("sets",)),
        ],
    )
    bus = WorkflowEventBus()
    runs: list[SpanState] = []
    reader = Reader(load("spanbus"))
    correlator = Correlator(policy=reader.dialect.policy, on_run_ended=runs.append)
    handle = attach(bus, Handle(correlator, reader, label="a bus"))
    began_ns = time.time_ns()
    for _ in range(2):  # the second run starts at the new time
        result = await BasicWorkflowEngine(bus).run(workflow)
        assert result.result == "success"
        tried.clear()
    took_s = (time.time_ns() - began_ns) / 1e9
    handle.detach()
    state = handle.state()
    assert (state.run_failures, state.phase_failures, state.abandoned, state.orphan_ends) == (
        0,
    ) * 4
    first, second = runs
    for run in runs:
        assert [(phase.name, str(phase.result), phase.attempts) for phase in run.children] == [
            ("before", "success", 2),
            ("sets", "success", 1),
            ("after", "success", 1),
        ]
        assert 0 < run.duration_s <= took_s
        assert not run.flags
        ends = [record.ended_at_ns or 0 for record in (*run.children, run)]
        assert ends == sorted(ends)
        assert all(
            run.started_at_ns
            <= phase.started_at_ns
            <= (phase.ended_at_ns or 0)
            <= (run.ended_at_ns or 0)
            for phase in run.children
        )
    assert abs(first.started_at_ns - began_ns) < 60e9
    expected_ns = max(1, first.started_at_ns + round(set_by_s * 1e9))  # never before 1970
    assert abs(second.started_at_ns - expected_ns) < 60e9


@pytest.mark.anyio
async def test_no_duration_reaches_beyond_the_end_event_if_the_publisher_is_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays_s = iter([0, 0.05])  # the second event is the start of the phase

    def slowly() -> str:
        time.sleep(next(delays_s, 0))
        return new_event_id()

    monkeypatch.setattr(bus_module, "new_event_id", slowly)
    bus = WorkflowEventBus()
    runs: list[SpanState] = []
    reader = Reader(load("spanbus"))
    correlator = Correlator(policy=reader.dialect.policy, on_run_ended=runs.append)
    handle = attach(bus, Handle(correlator, reader, label="a bus"))
    await BasicWorkflowEngine(bus).run(Workflow("w", [Phase("only", action=lambda: True)]))
    handle.detach()
    [run] = runs
    [phase] = run.children
    assert (
        run.started_at_ns < phase.started_at_ns < (phase.ended_at_ns or 0) < (run.ended_at_ns or 0)
    )


@pytest.mark.anyio
async def test_an_exception_whose_str_raises_is_a_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def broken() -> None:
        raise Broken

    seen: list[str] = []
    workflow = Workflow(
        "w",
        [
            Phase("broken", action=broken),
            Phase("always", action=lambda: seen.append("ran"), needs=("broken",), when="always"),
        ],
    )
    bus = WorkflowEventBus()
    runs: list[SpanState] = []
    reader = Reader(load("spanbus"))
    handle = attach(bus, Handle(Correlator(on_run_ended=runs.append), reader, label="a bus"))
    result = await BasicWorkflowEngine(bus).run(workflow)
    handle.detach()
    assert (result.result, seen) == ("failure", ["ran"])
    assert [(phase.name, str(phase.result)) for phase in runs[0].children] == [
        ("broken", "failure"),
        ("always", "success"),
    ]
    failure = runs[0].children[0].failure
    assert failure is not None and failure.error_type.endswith("Broken")
    assert handle.state().phase_failures == 1
