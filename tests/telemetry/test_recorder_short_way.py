"""What comes of plain events of our own engine is what comes of them by the long way, in any order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spanbus.telemetry import dialect_file, raw
from spanbus.telemetry.handle import Handle
from spanbus.telemetry.recorder import Recorder
from spanbus.telemetry.records import EventNote, Record
from spanbus.workflow.events import Event, WorkflowEvent

AT_NS = 1_790_000_000_000_000_000

payloads = st.fixed_dictionaries({}, optional={
    "type": st.sampled_from(["fast_hooks", "", None, 7]), "needs": st.sampled_from([[], ["lint"], ["lint", "unknown"], "lint", None]),
    "success": st.sampled_from([True, False, None]), "duration": st.sampled_from([0.0, 0.5, 3, None, "long"]), "attempts": st.integers(1, 3),
    "timestamp": st.just(1.5), "error": st.sampled_from(["broken", None]), "skipped": st.booleans(), "strategy": st.just("fast"), "workflow": st.just("w"),
})
kinds = st.sampled_from([
    *["workflow.phase.started"] * 4, *["workflow.phase.completed"] * 4, "workflow.phase.failed", "workflow.phase.retrying", "workflow.phase.skipped",
    "workflow.phase.cancelled", "config.checked", "workflow.started", "workflow.completed", "hooks.execution.started",
])
events = st.builds(
    Event, kinds.flatmap(lambda kind: st.sampled_from([kind, WorkflowEvent(kind)]) if kind != "config.checked" else st.just(kind)), st.integers(0, 60).map(lambda number: f"e{number}" if number else ""), st.integers(0, 40).map(lambda step: AT_NS + step * 250_000_000),
    payloads, st.just("engine"), st.sampled_from(["one", "one", "two", None]), st.sampled_from(["lint", "lint", "tests", "", None]), st.sampled_from([None, 1, 2]),
)


class Told:
    """What a sink is told, in words."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def opened(self, record: Record) -> None:
        self.lines.append(f"opened {words(record)}")

    def closed(self, record: Record) -> None:
        self.lines.append(f"closed {words(record)} {[*record.events]}")

    def late(self, note: EventNote) -> None:
        self.lines.append(f"late {note}")

    def noted(self, record: Record, note: EventNote) -> None:
        self.lines.append(f"noted {note} on {words(record)}")


def words(record: Record) -> str:
    kept = ("level", "name", "run_id", "workflow", "trace_id", "span_id", "started_at_ns", "ended_at_ns", "duration_ns", "result", "failure", "skip_reason",
            "task_type", "attempt", "attempts", "flags", "links", "events_in_tree", "children_total", "parent")
    return " ".join(str(getattr(record, name)) for name in kept)


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_both_ways_tell_the_same(stream: list[Event]) -> None:
    rules = dialect_file.load("spanbus")
    short, long = Told(), Told()
    by_handle, by_facts = Recorder([short], note_sinks=[short]), Recorder([long], note_sinks=[long])
    handle = Handle(by_handle, rules, label="a bus")
    begun = Event("workflow.started", "begin", AT_NS, {"workflow": "standard"}, "engine", "one")
    for event in (begun, *stream):
        handle.feed(event)
        by_facts.feed(rules.fact(raw.read(event)))
    assert handle.state().errors == 0
    assert by_handle.state() == by_facts.state()
    by_handle.close()
    by_facts.close()
    assert short.lines == long.lines
    assert by_handle.state() == by_facts.state()


def test_the_plain_ones_take_the_short_way() -> None:
    told = Told()
    recorder = Recorder([told])
    recorder.feed(dialect_file.load("spanbus").fact(raw.read(Event("workflow.started", "0", AT_NS, {}, "engine", "one"))))
    start = Event("workflow.phase.started", "1", AT_NS, {"type": "fast_hooks"}, "engine", "one", "lint", 1)
    plan = dialect_file.load("spanbus").of_phase(start.event_type)
    assert plan is not None
    assert plan.begins
    assert recorder.begin(start, plan.rule.rank, "fast_hooks", [])
    assert not recorder.begin(start, plan.rule.rank, "fast_hooks", [])  # one of that name is open
    end = Event("workflow.phase.completed", "2", AT_NS + 5, {"success": True}, "engine", "one", "lint", 1)
    assert recorder.end(end, plan.rule.rank, None)
    assert not recorder.end(end, plan.rule.rank, None)
    assert recorder.state().phases_ended == 1
