"""Property test: a stream that is cut and resumed from the start of its open runs gives the same spans as an uncut one."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading import dialect_file
from spanbus._reading.reader import Reader
from spanbus._semantics import Level
from spanbus._workflow.events import Event

PHASES = ("lint", "tests", "build")


class Recorder:
    """A sink that records ended spans, and spans or parents that end without having been opened."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.ended: list[tuple[object, ...]] = []
        self.unopened: list[str] = []

    def opened(self, record: SpanState) -> None:
        if record.parent is not None and id(record.parent) not in self.open:
            self.unopened.append(f"parent of {record!r}")
        self.open.add(id(record))

    def closed(self, record: SpanState) -> None:
        if id(record) not in self.open:
            self.unopened.append(repr(record))
        failure = record.failure
        self.ended.append(
            (
                str(record.level), record.name, record.run_id, record.workflow,
                record.trace_id, record.span_id, record.parent_span_id,
                record.started_at_ns, record.ended_at_ns, record.duration_ns,
                str(record.result), failure and (failure.error_type, failure.message),
                record.attempt, record.attempts, record.task_type, record.links,
                tuple(record.flags), record.events.total,
                tuple((each.name, each.at_ns) for each in record.events.kept()),
            )
        )  # fmt: skip

    def late(self, note: SpanEvent) -> None:
        """Do nothing: the correlator counts late events."""


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Generate interleaved events of several engine runs, with retries, failures, skips, hooks and unfinished runs."""
    runs: list[list[tuple[str, str | None, dict[str, object]]]] = []
    for _ in range(draw(st.integers(1, 4))):
        said: list[tuple[str, str | None, dict[str, object]]] = [
            ("workflow.started", None, {"workflow": "w", "phases": list(PHASES)})
        ]
        for phase in draw(st.lists(st.sampled_from(PHASES), unique=True, max_size=3)):
            kind = draw(st.sampled_from(["completed", "failed", "cancelled", "skipped", "retried"]))
            if kind == "skipped":
                said.append(("workflow.phase.skipped", phase, {"reason": "not needed"}))
                continue
            said.append(("workflow.phase.started", phase, {"type": "command", "needs": ["lint"]}))
            if draw(st.booleans()):
                said.append(("hooks.execution.started", phase, {"hook": "ruff"}))
                said.append(("something.happened", phase, {"count": 1}))
                said.append(("hooks.execution.completed", phase, {"hook": "ruff"}))
            if kind == "retried":
                failed = {"success": False, "result": "failure", "error_type": "E", "error": "no"}
                said.append(("workflow.phase.retrying", phase, {**failed, "next_attempt": 2}))
                said.append(("something.happened", phase, {"count": 2}))
                kind = draw(st.sampled_from(["completed", "failed"]))
            more = {"error_type": "E", "error": "no"} if kind == "failed" else {}
            said.append((f"workflow.phase.{kind}", phase, {"duration": 0.5, **more}))
        said.append(("something.happened", None, {"count": 3}))
        end = draw(st.sampled_from(["completed", "failed", "interrupted"]))
        said.append((f"workflow.{end}", None, {"workflow": "w"}))
        runs.append(said[: draw(st.integers(1, len(said)))])
    order = draw(st.permutations([n for n, said in enumerate(runs) for _ in said]))
    events: list[Event] = []
    for number, run in enumerate(order):
        kind, phase, payload = runs[run].pop(0)
        at_ns = 1_700_000_000_000_000_000 + number * draw(
            st.sampled_from([1, 10**6, 10**9, 40 * 10**9])
        )
        attempt = 1 if phase is not None else None
        events.append(
            Event(kind, f"{number:06d}", at_ns, payload, "x", f"run-{run}", phase, attempt)
        )
    return events


def made(sinks: Sequence[Recorder]) -> tuple[Correlator, Reader]:
    rules = dialect_file.load("spanbus")
    return Correlator(sinks, policy=rules.policy, live=False), Reader(rules)


@given(events=streams(), part=st.floats(0, 1))
def test_a_resumed_stream_gives_the_same_spans_as_an_uncut_one(
    events: list[Event], part: float
) -> None:
    cut = int(part * len(events))
    whole = Recorder()
    correlator, reader = made([whole])
    for event in events:
        correlator.apply(reader.read(event))

    first = Recorder()
    before, reader = made([first])
    for event in events[:cut]:
        before.apply(reader.read(event))
    open_runs = {one.run_id for one in before.open_records() if one.level is Level.RUN}

    second = Recorder()
    after, reader = made([])
    for event in events[:cut]:
        if event.run_id in open_runs:
            after.apply(reader.read(event))
    after.resume([second])
    for event in events[cut:]:
        after.apply(reader.read(event))

    assert first.unopened == second.unopened == []
    assert sorted(first.ended + second.ended, key=repr) == sorted(whole.ended, key=repr)
    still = {one.span_id for one in correlator.open_records()}
    assert {one.span_id for one in after.open_records()} == still
