"""Replay of recorded lines without timestamps."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading import dialect_file, replay
from spanbus._reading.reader import Reader

RECORDING = Path(__file__).parent.parent / "recordings" / "engine_fast_fails_then_ok.jsonl"
STEPS = [
    ("config", "success", 1),
    ("fast_hooks", "success", 2),
    ("cleaning", "success", 1),
    ("comprehensive", "success", 1),
]


def replayed(path: Path) -> SpanState:
    runs: list[SpanState] = []
    correlator = Correlator(on_run_ended=runs.append)
    for fact in replay.facts(path, Reader(dialect_file.load("crackerjack"))):
        correlator.apply(fact)
    correlator.close()
    assert len(runs) == 1
    return runs[0]


def phases(run: SpanState) -> list[tuple[str, str, int]]:
    return [(phase.name, str(phase.result), phase.attempts) for phase in run.children]


def stripped(
    path: Path, *, payload_times: bool, timed_ids: bool = True, shuffled: bool = False
) -> Path:
    events: list[dict[str, object]] = [
        json.loads(line) for line in RECORDING.read_text().splitlines()
    ]
    for number, event in enumerate(events):
        del event["metadata_timestamp"]
        if not timed_ids:
            event["event_id"] = f"event-{number}"
        payload = event["payload"]
        assert isinstance(payload, dict)
        if not payload_times:
            payload.pop("timestamp", None)  # pyright: ignore[reportUnknownMemberType]
    if shuffled:
        random.Random(3).shuffle(events)
    path.write_text("\n".join(json.dumps(event) for event in events))
    return path


def test_lines_before_the_first_timestamp_get_that_timestamp(tmp_path: Path) -> None:
    run = replayed(stripped(tmp_path / "stream.jsonl", payload_times=True, timed_ids=False))
    assert (str(run.result), phases(run)) == ("success", STEPS)
    straight = replayed(RECORDING)
    assert abs(run.started_at_ns - straight.started_at_ns) < 10_000_000


def test_a_stream_without_timestamps_starts_now(tmp_path: Path) -> None:
    before_ns = time.time_ns()
    run = replayed(stripped(tmp_path / "stream.jsonl", payload_times=False, timed_ids=False))
    assert before_ns <= run.started_at_ns <= time.time_ns()
    assert (str(run.result), phases(run)) == ("success", STEPS)


@pytest.mark.parametrize("shuffled", [False, True])
def test_without_timestamps_the_times_in_the_event_ids_are_used(
    tmp_path: Path, shuffled: bool
) -> None:
    run = replayed(stripped(tmp_path / "stream.jsonl", payload_times=False, shuffled=shuffled))
    assert (str(run.result), phases(run)) == ("success", STEPS)
    assert abs(run.started_at_ns - replayed(RECORDING).started_at_ns) < 2_000_000
    assert abs(run.duration_s - replayed(RECORDING).duration_s) < 0.003
