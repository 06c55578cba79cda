"""A stream with malicious publishers: no line stops the observer, and its memory is bounded."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spanbus
from spanbus._runtime import Runtime
from spanbus.errors import BackendError
from spanbus.integrations._nats_checkpoints import Checkpoint
from spanbus.integrations._nats_partition_reader import (
    RUNS_OPEN,
    RUNS_REMEMBERED,
    PartitionReader,
    StreamMessage,
    key_of,
)
from spanbus.integrations._nats_progress_file import ProgressFile

SECOND = 1_000_000_000
FIRST = {"event_type": "workflow.started", "event_id": "1", "run_id": "r", "at_ns": SECOND}
LAST = {"event_type": "workflow.completed", "event_id": "2", "run_id": "r", "at_ns": 2 * SECOND}
NO_EVENTS = [
    b"[" * 200_000,
    b'{"event_type":"workflow.started","run_id":' + b"[" * 100_000,
    b'{"type":' + b'{"a":' * 50_000,
    b'{"event_type":"x","run_id":' + b"9" * 10_000 + b"}",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 1_000,
    b'"event_type"',
    b'["event_type"]',
    b'{"event_typ":1}',
    b"\xef\xbb\xbf{}",
    b'{"event_type": []}',
    b'{"event_type": {"a": 1}, "run_id": "r"}',
    b'{"event_type": 7, "run_id": "r"}',
    b'{"event_type": null, "type": ["workflow.completed"], "run_id": "r"}',
]
ODD_EVENTS: list[Mapping[str, object]] = [
    {"event_type": "workflow.started", "run_id": {"a": [1] * 1_000}},
    {"event_type": "workflow.started", "run_id": "x" * 200_000},
    {"event_type": "workflow.started", "run_id": "\ud800"},
    {"event_type": "workflow.started", "run_id": True, "metadata": {"telemetry": "here"}},
    {"event_type": "workflow.started", "metadata": {"telemetry": "here"}},
    {"event_type": "workflow.completed"},
    {"event_type": "workflow.started", "run_id": "a", "metadata": "here"},
    {"event_type": "workflow.started", "run_id": "b", "at_ns": 10**300, "payload": [1]},
    {"event_type": "workflow.started", "run_id": "c", "at_ns": -1, "payload": {"workflow": {}}},
    {"event_type": "workflow.phase.started", "run_id": "b", "phase": {}, "attempt": 10**300},
    {"event_type": "workflow.phase.started", "run_id": "b", "phase": "p", "attempt": -(10**30)},
    {
        "event_type": "workflow.phase.completed",
        "run_id": "b",
        "phase": "p",
        "payload": {"duration": 1e308},
    },
    {
        "event_type": "workflow.started",
        "run_id": "d",
        "traceparent": "x" * 100_000,
        "tracestate": 3,
    },
    {"event_type": "\u202e\x1b[2J" * 100, "run_id": "b", "event_id": ["1"]},
]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with spanbus.open_runtime_sync(
        env={
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        }
    ) as opened:
        yield opened


class Followed:
    """A partition reader whose events go to a correlator with all sinks of a runtime, as in an observer."""

    def __init__(self, runtime: Runtime) -> None:
        self.said: list[str] = []
        self.handle = runtime.replaying(lambda record: None)
        self.reading = PartitionReader(self.handle.feed, say=self.said.append)
        self.number = 0

    def take(self, body: bytes) -> None:
        self.number += 1
        self.reading.take(StreamMessage(self.number, self.number * SECOND, body))


def test_invalid_lines_are_counted_and_the_next_one_is_read(runtime: Runtime) -> None:
    followed = Followed(runtime)
    for body in NO_EVENTS:
        followed.take(body)
    followed.take(json.dumps(FIRST).encode())
    assert followed.reading.counts.broken == len(NO_EVENTS)
    assert followed.reading.counts.fed == 1
    assert list(followed.reading.open) == ["r"]
    assert len(followed.said) == 1


def test_malformed_events_do_not_affect_others(runtime: Runtime) -> None:
    followed = Followed(runtime)
    followed.take(json.dumps(FIRST).encode())
    for event in ODD_EVENTS:
        followed.take(json.dumps(event).encode())
    followed.take(json.dumps(LAST).encode())
    followed.reading.release_ends(2**63)
    assert followed.reading.counts.broken == followed.reading.counts.elsewhere == 0
    assert "r" in followed.reading.ended and "r" not in followed.reading.open
    assert followed.handle.state().errors == 0


def test_events_without_a_run_do_not_block_the_checkpoint_or_affect_runs() -> None:
    fed: list[object] = []
    reading = PartitionReader(fed.append, say=lambda line: None)
    nobodys = [
        {"event_type": "workflow.started", "metadata": {"telemetry": "here"}},
        {"event_type": "workflow.completed"},
        {"event_type": "note"},
    ]
    for number, event in enumerate(nobodys * 2):
        reading.take(StreamMessage(number, number * SECOND, json.dumps(event).encode()))
    reading.release_ends(2**63)
    assert len(fed) == 6
    assert not reading.open and not reading.elsewhere and not reading.ended


@pytest.mark.parametrize("kind", ["workflow.started", "workflow.completed", "note"])
def test_a_checkpoint_stays_small_for_any_events(kind: str) -> None:
    """NATS takes messages of a megabyte: a larger checkpoint would be refused for ever."""
    reading = PartitionReader(lambda event: None, say=lambda line: None)
    here = {"event_type": "workflow.started", "metadata": {"telemetry": "here"}}
    for number in range(RUNS_OPEN + RUNS_REMEMBERED + 100):
        name = f"{number:06}" + '\u20ac"\x00' * 400
        lines = [{"event_type": kind, "run_id": name}, {**here, "run_id": f"here{name}"}]
        reading.take(
            StreamMessage(number, number, b"\n".join(json.dumps(line).encode() for line in lines))
        )
    assert len(reading.open) <= RUNS_OPEN
    reading.release_ends(2**63)
    runs = {run: (opened.bucket, opened.first) for run, opened in reading.open.items()}
    elsewhere, ended = tuple(reading.elsewhere), tuple(reading.ended)
    checkpoint = Checkpoint("2026", 2**53, 2**63, runs, elsewhere, ended, "host/1/" + "a" * 64)
    assert len(checkpoint.encode()) < 900_000


def test_a_run_dropped_at_the_bound_is_not_opened_again() -> None:
    reading = PartitionReader(lambda event: None, say=lambda line: None)
    for number in range(RUNS_OPEN + 1):
        reading.take(
            StreamMessage(number, number, json.dumps({**FIRST, "run_id": f"r{number}"}).encode())
        )
    assert min(opened.first for opened in reading.open.values()) == 1


def test_short_ids_are_used_as_keys() -> None:
    assert [key_of(each) for each in ("nightly-42", 42, "x" * 90)] == ["nightly-42", "42", "x" * 90]
    assert key_of("x" * 200) != key_of("x" * 201)
    assert key_of(None) == key_of(True) == key_of(["r"]) == ""


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_events = st.fixed_dictionaries(
    {
        "event_type": st.one_of(
            st.sampled_from(["workflow.started", "workflow.phase.started", "workflow.failed"]),
            _json,
        )
    },
    optional={
        key: st.one_of(_json, st.sampled_from(["r", "s", 1]))
        for key in "run_id runid event_id at_ns time phase attempt metadata payload traceparent tracestate source".split()
    },
)


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")), deadline=None)
@given(st.lists(st.one_of(_events.map(json.dumps), st.text(max_size=30)), max_size=8))
def test_any_lines_are_read_without_an_error(lines: list[str]) -> None:
    fed: list[object] = []
    reading = PartitionReader(fed.append, say=lambda line: None)
    for number, line in enumerate(lines):
        reading.take(StreamMessage(number, number * SECOND, line.encode("utf-8", "surrogatepass")))
    reading.release_ends(2**63)
    counts = reading.counts
    assert counts.fed == len(fed)
    assert not reading.holds


# --- the observer's own file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a link", "a dangling link", "a pipe", "a folder"])
def test_the_mark_file_of_an_observer_must_be_a_regular_file(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "observe" / "SPANBUS-main", tmp_path / "other"
    path.parent.mkdir()
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case _:
            if what == "a link":
                other.write_bytes(b"of somebody" * 10)
            path.symlink_to(other)
    with pytest.raises(BackendError, match="SPANBUS-main"):
        ProgressFile(path).open("now")
    assert not other.exists() or other.read_bytes() == b"of somebody" * 10
    assert what != "a pipe" or stat.S_ISFIFO(path.stat().st_mode)
