"""Reading of a partition: events of several hosts in any order, duplicates, held ends, clock offsets, dead publishers."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading import dialect_file
from spanbus._reading.reader import Reader
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_partition_reader import ENDS_WAITING, PartitionReader, StreamMessage

SECOND = 1_000_000_000
START_NS = 1_767_225_600 * SECOND
Line = dict[str, object]


class Ended:
    """A sink that records the results of ended spans and their numbers of events."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.events = 0

    def opened(self, record: SpanState) -> None:
        """Only ends are looked at."""

    def closed(self, record: SpanState) -> None:
        self.results[f"{record.level} {record.name}"] = str(record.result)
        self.events += record.events.total

    def late(self, note: SpanEvent) -> None:
        raise AssertionError(note)


def line(number: int, kind: str, phase: str | None = None, **payload: object) -> Line:
    found: Line = {
        "event_type": kind,
        "event_id": f"e-{number}",
        "at_ns": START_NS + number * 1_000_000,
        "run_id": "r",
        "payload": payload,
    }
    return {**found, "phase": phase} if phase is not None else found


def read(number: int, *lines: Line, stamp_ns: int | None = None, **more: object) -> StreamMessage:
    body = b"\n".join(json.dumps(each).encode() for each in lines)
    stamp = stamp_ns if stamp_ns is not None else START_NS + number * 1_000_000
    return StreamMessage(number, stamp, body, **more)  # type: ignore[arg-type]


def reading_of(sink: Ended, **more: object) -> tuple[PartitionReader, Correlator]:
    correlator = Correlator((sink,), live=False)
    reader = Reader(dialect_file.load("spanbus"))

    def feed(event: object) -> None:
        correlator.apply(reader.read(event, live=False))

    return PartitionReader(feed, say=lambda told: None, **more), correlator  # type: ignore[arg-type]


PHASES = ("lint", "tests", "build")
ENGINE = [
    ("workflow.started", None, {"workflow": "w", "phases": list(PHASES)}),
    *[
        step
        for phase in PHASES
        for step in (
            ("workflow.phase.started", phase, {}),
            (
                ("workflow.phase.failed", phase, {"error_type": "E", "error": "no"})
                if phase == "tests"
                else ("workflow.phase.completed", phase, {"success": True})
            ),
        )
    ],
    ("workflow.failed", None, {"workflow": "w", "error_type": "E", "error": "tests"}),
]
WANTED = {
    "run w": "failure",
    "phase lint": "success",
    "phase tests": "failure",
    "phase build": "success",
}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(ENGINE)), st.sampled_from(PHASES)), max_size=12))
def test_events_of_workers_in_any_order_give_right_results(
    inserted: list[tuple[int, str]],
) -> None:
    """Workers add events before, between and after those of the engine; those after the end come before it has settled."""
    lines: list[Line] = []
    for place in range(len(ENGINE) + 1):
        for number, (where, phase) in enumerate(inserted):
            if where == place:
                lines.append(line(1_000 + number, "worker.did", phase, count=number))
        if place < len(ENGINE):
            kind, of, payload = ENGINE[place]
            lines.append(line(place, kind, of, **payload))
    sink = Ended()
    reading, correlator = reading_of(sink)
    for number, each in enumerate(lines):
        reading.take(read(number, each))
    assert reading.open and not reading.ended
    reading.settle(START_NS + 3 * SECOND)
    assert (sink.results, reading.counts.late) == (WANTED, 0)
    assert not reading.open and list(reading.ended) == ["r"]
    assert sink.events == len(lines)
    assert correlator.state().events_late == 0


def test_the_number_of_held_ends_is_bounded() -> None:
    sink = Ended()
    reading, _ = reading_of(sink)
    waiting: list[int] = []
    for number in range(1, 1_001):  # a thousand runs within a millisecond of the stream
        named = {"run_id": f"r-{number}"}
        lines = [
            line(2 * number, "workflow.started", workflow="w"),
            line(2 * number + 1, "workflow.completed"),
        ]
        released_ns = reading.take(
            read(number, *({**each, **named} for each in lines), stamp_ns=START_NS + number)
        )
        waiting.append(len(reading.open))
        assert released_ns == (START_NS + number - ENDS_WAITING if number > ENDS_WAITING else 0)
    assert max(waiting) == ENDS_WAITING
    reading.settle(START_NS + 3 * SECOND)
    assert (reading.counts.fed, reading.counts.late, len(reading.open)) == (2_000, 0, 0)


def test_events_after_a_settled_end_are_late_or_duplicates() -> None:
    sink = Ended()
    reading, _ = reading_of(sink)
    lines = [line(number, kind, of, **more) for number, (kind, of, more) in enumerate(ENGINE)]
    for number, each in enumerate([*lines[:3], *lines[:3], *lines[3:], lines[-1]]):
        reading.take(read(number, each))
    assert reading.counts.doubled == 4
    reading.take(read(50, line(99, "worker.did", "lint"), stamp_ns=START_NS + 10 * SECOND))
    assert reading.counts.late == 1, "the message itself says that ten seconds have passed"
    assert sink.results == WANTED


def test_duplicates_are_detected_after_a_thousand_events() -> None:
    fed: list[object] = []
    reading = PartitionReader(fed.append, say=lambda told: None)
    many = [line(number, "worker.did") for number in range(3_000)]
    for number, each in enumerate([*many, *many[:2_000]]):
        reading.take(read(number, each))
    assert (len(fed), reading.counts.doubled) == (3_000, 2_000)


def test_runs_are_assigned_to_the_publisher_that_announced_them() -> None:
    reading = PartitionReader(lambda event: None, say=lambda told: None)
    ours = {**line(1, "workflow.started"), "event_id": "0198f0aabbcc-1a2b3c4d-0000000007"}
    theirs = {**line(2, "workflow.started"), "run_id": "s"}
    nobodys = {**line(3, "workflow.started"), "run_id": "t"}
    reading.take(read(1, ours, publisher="the-next-process"))
    reading.take(read(2, theirs, publisher="shell-1"))
    reading.take(read(3, nobodys))
    assert reading.announced_by({"0198f0aabbcc-1a2b3c4d"}) == ["r"]
    assert reading.announced_by({"shell-1", "the-next-process"}) == ["s"]
    reading.take(read(4, {**line(4, "workflow.completed"), "run_id": "s"}, publisher="shell-1"))
    assert reading.announced_by({"shell-1"}) == [], "its end is there and settles"
    reading.forget("r")
    reading.take(read(5, line(5, "worker.did")))
    assert reading.counts.late == 1


def test_the_clock_offset_is_the_smallest_difference_of_a_minute() -> None:
    clocks = Clocks()
    reading = PartitionReader(lambda event: None, say=lambda told: None, clocks=clocks)
    for number, delay_ms in enumerate((900, 3, 250, 40)):
        stamp_ns = START_NS + number * SECOND
        for name, seconds in (("ahead", 5), ("behind", -5), ("right", 0)):
            at_ns = stamp_ns - delay_ms * 1_000_000 + seconds * SECOND
            each = {**line(number, "worker.did"), "event_id": f"{name}{number}", "at_ns": at_ns}
            reading.take(read(number, each, stamp_ns=stamp_ns, publisher=name))
    assert {name: round(value, 3) for name, value in clocks.wrong().items()} == {
        "ahead": 4.997,
        "behind": -5.003,
    }
    assert round(clocks.largest_s(), 3) == 5.003


def test_clock_offsets_come_from_send_times_and_not_from_old_events() -> None:
    clocks = Clocks()
    clocks.record("backfill", START_NS, START_NS - 7_200 * SECOND, sent=False)
    clocks.record("late", START_NS, START_NS - 7_200 * SECOND, sent=True)
    clocks.record("future", START_NS, START_NS + 7_200 * SECOND, sent=False)
    assert set(clocks.wrong()) == {"late", "future"}
    clocks.record("late", START_NS + 30 * SECOND, START_NS + 30 * SECOND, sent=True)
    assert not clocks.is_wrong("late")
    for minute in range(1, 4):  # and a clock that goes wrong is noticed within two minutes
        stamp_ns = START_NS + minute * 61 * SECOND
        clocks.record("late", stamp_ns, stamp_ns - 3 * SECOND, sent=True)
    assert round(clocks.offset_s("late"), 6) == -3.0
    assert not clocks.is_wrong("nobody") and clocks.offset_s("nobody") == 0.0
