"""Regression test: the same streams give the same spans and counts as the correlator of 0.1.0, whose results are frozen.

The frozen file holds 160 streams of our own engine's events in all orders, the recordings of the reference bus read with three
dialects, and for each stream the calls of sinks and the counts. Intended differences of 0.2.0 are named here.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading import dialect_file, replay
from spanbus._reading.reader import Reader
from spanbus._workflow.events import Event

HERE = Path(__file__).parent
FROZEN: dict[str, Any] = json.loads(
    gzip.decompress((HERE / "frozen" / "spans_of_0_1_0.json.gz").read_bytes())
)
STREAMS: list[dict[str, Any]] = FROZEN["streams"]
RECORDED: dict[str, dict[str, Any]] = FROZEN["recordings"]
KEPT = (
    "level",
    "name",
    "run_id",
    "workflow",
    "trace_id",
    "span_id",
    "started_at_ns",
    "ended_at_ns",
    "duration_ns",
    "result",
)
REST = ("skip_reason", "task_type", "attempt", "attempts")
COUNTED = (
    "events_seen",
    "events_recorded",
    "events_duplicate",
    "events_late",
    "runs_open",
    "phases_open",
    "runs_ended",
    "phases_ended",
    "run_failures",
    "phase_failures",
    "retries",
    "orphan_ends",
    "unmatched_ends",
    "abandoned",
)
"""Names of the counts of 0.1.0, in the order of the file."""
SINCE: dict[str, object] = {"errors": 0, "last_error": None}
"""Counts added later; no stream here causes an error."""


class Recorder:
    """A sink that records its calls."""

    def __init__(self) -> None:
        self.lines: list[list[object]] = []

    def opened(self, record: SpanState) -> None:
        self.lines.append(["opened", str(record.level), record.name])

    def closed(self, record: SpanState) -> None:
        failure = record.failure
        self.lines.append(
            [
                "closed",
                *(str(getattr(record, name)) for name in KEPT),
                [None if part is None else str(part) for part in failure] if failure else None,
                *(str(getattr(record, name)) for name in REST),
                ",".join(sorted(record.flags)),
                [[f"{link.trace_id:x}", f"{link.span_id:x}", link.kind] for link in record.links],
                str(record.events_in_tree),
                str(record.children_total),
                [event.name for event in record.events],
            ]
        )

    def late(self, note: SpanEvent) -> None:
        self.lines.append(["late", note.name])

    def noted(self, record: SpanState, note: SpanEvent) -> None:
        self.lines.append(["noted", record.name, note.name, note.attempt])


def counted(state: list[int]) -> dict[str, object]:
    """Return the counts that are expected now, for the counts ``state`` of 0.1.0."""
    return {**dict(zip(COUNTED, state, strict=True)), **SINCE}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to UTC: the recordings have local times, and 0.1.0 read them in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def retried_and_started(events: list[dict[str, Any]]) -> bool:
    """Whether a phase starts after it was announced for a retry: one phase now, an additional phantom phase in 0.1.0."""
    retried = {each.get("phase") for each in events if each["event_type"].endswith("retrying")}
    return any(
        each["event_type"] == "workflow.phase.started" and each.get("phase") in retried
        for each in events
    )


PLAIN = [stream for stream in STREAMS if not retried_and_started(stream["events"])]


def test_most_streams_are_compared() -> None:
    assert len(PLAIN) > 100 and len(RECORDED) == 21


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_a_stream_of_our_engine_gives_the_same_spans(number: int) -> None:
    told = Recorder()
    reader = Reader(dialect_file.load("spanbus"))
    correlator = Correlator([told], note_sinks=[told], policy=reader.dialect.policy)
    for each in PLAIN[number]["events"]:
        correlator.apply(
            reader.read(
                Event(
                    each["event_type"],
                    each["event_id"],
                    each["at_ns"],
                    each["payload"],
                    each["source"],
                    each.get("run_id"),
                    each.get("phase"),
                    each.get("attempt"),
                )
            )
        )
    correlator.close()
    assert told.lines == PLAIN[number]["told"]
    assert correlator.state()._asdict() == counted(PLAIN[number]["state"])


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_gives_the_same_spans(name: str) -> None:
    stream, dialect = name.split("/")
    told = Recorder()
    reader = Reader(dialect_file.load(dialect))
    correlator = Correlator([told], note_sinks=[told], policy=reader.dialect.policy)
    for fact in replay.facts(HERE.parent / "recordings" / f"{stream}.jsonl", reader):
        correlator.apply(fact)
    correlator.close()
    if stream == "hook_orchestrator":  # nobody announced that run: a success now, with its flag
        *lines, last = told.lines
        assert lines == RECORDED[name]["told"][:-1]
        assert last[1:3] == ["run", "implicit"] and last[10] == "success"
        before = counted(RECORDED[name]["state"])
        assert (before["abandoned"], before["run_failures"]) == (1, 1)
        assert correlator.state()._asdict() == {**before, "abandoned": 0, "run_failures": 0}
        return
    assert told.lines == RECORDED[name]["told"]
    assert correlator.state()._asdict() == counted(RECORDED[name]["state"])
