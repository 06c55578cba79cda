"""Property test: any shuffled, duplicated stream ends with nothing open, each record closed once, nothing counted twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._semantics import Flag, Level

START_NS = 1_790_000_000_000_000_000
WORDS = "started running failed completed retry skipped cancelled timeout progress".split()
events = st.fixed_dictionaries(
    {
        "type": st.builds(
            "{}.{}".format,
            st.sampled_from(["pipeline", "job", "task", "task", "task", "config"]),
            st.sampled_from(WORDS),
        ),
        "event_id": st.integers(0, 200).map(str),
        "at_ns": st.integers(0, 900).map(lambda second: START_NS + second * 10**9),
        "payload": st.fixed_dictionaries(
            {},
            optional={
                "run_id": st.sampled_from(["a", "b"]),
                "task": st.sampled_from(["fetch", "build"]),
                "attempts": st.integers(0, 4),
                "error": st.just("ValueError: no"),
                "duration": st.sampled_from([0.0, 2.5]),
            },
        ),
    }
)


class Watch:
    """A sink that asserts the guarantees that every sink relies on."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.closed_records: list[SpanState] = []
        self.late_events = 0

    def opened(self, record: SpanState) -> None:
        assert record.parent is None or id(record.parent) in self.open
        self.open.add(id(record))

    def closed(self, record: SpanState) -> None:
        self.open.remove(id(record))
        self.closed_records.append(record)
        assert record.ended_at_ns is not None and record.ended_at_ns >= record.started_at_ns

    def late(self, note: SpanEvent) -> None:
        del note
        self.late_events += 1


@settings(max_examples=examples(300), deadline=None)
@given(
    stream=st.lists(events, max_size=30),
    each=st.booleans(),
    tasks=st.lists(st.sampled_from([None, "A", "B"]), min_size=60, max_size=60),
    data=st.data(),
)
def test_any_stream_ends_with_nothing_open(
    stream: list[dict[str, object]], each: bool, tasks: list[str | None], data: st.DataObject
) -> None:
    mixed = data.draw(st.permutations(stream * data.draw(st.integers(1, 2))))
    reader = Reader(load({"extends": "generic", "run": "each" if each else "announced"}))
    watch, errors, runs = Watch(), list[Exception](), list[SpanState]()
    correlator = Correlator(
        [watch],
        policy=reader.dialect.policy,
        on_run_ended=runs.append,
        on_sink_error=errors.append,
    )
    for event, task in zip(mixed, tasks, strict=False):
        correlator.apply(reader.read(event), None, task)
    correlator.close()
    state = correlator.state()
    assert errors == []
    assert (watch.open, state.runs_open, state.phases_open) == (set(), 0, 0)
    assert state.events_seen == len(mixed)
    assert state.events_recorded + state.events_duplicate + state.events_late == len(mixed)
    assert watch.late_events == state.events_late
    assert len(runs) == state.runs_ended
    phases = [record for record in watch.closed_records if record.level is Level.PHASE]
    assert state.phases_ended == len(phases)
    assert state.phase_failures == sum(
        phase.result is not None and phase.result.failed for phase in phases
    )
    for run in runs:
        if Flag.INFERRED in run.flags:
            assert Flag.ABANDONED not in run.flags
            assert run.children or run.result is None or not run.result.failed
