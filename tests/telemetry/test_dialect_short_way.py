"""The short way of reading an event of our own bus says what the long way says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanbus.telemetry import dialect_file, raw
from spanbus.workflow.events import Event, WorkflowEvent

values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8), st.sampled_from(["success", "failure", "skipped", "timed out", "OSError: no"]),
    st.lists(st.text(max_size=4), max_size=2), st.dictionaries(st.sampled_from(["success", "error", "message", "type"]), st.text(max_size=5), max_size=2),
)
keys = st.sampled_from([
    "type", "strategy", "phase", "step_id", "step_name", "workflow", "workflow_id", "result", "status", "success", "skipped", "error", "error_type", "reason",
    "duration", "delay", "needs", "stage", "cached", "attempts", "hook",
])
names = st.one_of(st.none(), st.sampled_from(["lint", "tests", ""]))
types = st.one_of(st.sampled_from(list(WorkflowEvent)), st.sampled_from([str(event) for event in WorkflowEvent]), st.sampled_from(["config.read", "a.started", "b.failed"]))


@pytest.mark.parametrize("name", ["spanbus", "crackerjack", "generic"])
@given(
    event_type=types, payload=st.dictionaries(keys, values, max_size=6), run_id=names, phase=names, attempt=st.one_of(st.none(), st.integers(1, 3)),
    metadata=st.sampled_from([{}, {"correlation_id": "c"}]),
)
def test_both_ways_give_the_same_fact(
    name: str, event_type: str, payload: dict[str, object], run_id: str | None, phase: str | None, attempt: int | None, metadata: dict[str, object]
) -> None:
    rules = dialect_file.load(name)
    event = Event(event_type, "id", 1_790_000_000_000_000_000, payload, "engine", run_id, phase, attempt, None, None, metadata)
    short, long = rules.of(event), rules.fact(raw.read(event))
    assert str(short) == str(long)  # NaN is not equal to itself
