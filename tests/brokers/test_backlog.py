"""A backlog worked off by one observer and by two: the spans and counts of one that read along, in memory that does not grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from hashlib import blake2b
from pathlib import Path

import pytest
from brokers import Nats
from observing import START_NS, Line, Observing, Start, line_of, total

from spanbus.integrations import nats_stream
from spanbus.integrations._nats_client import Client
from spanbus.integrations._nats_wire import Message, subject
from spanbus.testing import Receiver

EVENTS = int(os.environ.get("TESTS_BACKLOG_EVENTS", "66000"))
"""In one test; ``make test-backlog`` takes 300,000."""
PHASES = 10
RUNS = EVENTS // (2 * PHASES + 2)
LIMIT_S = 300.0 + EVENTS / 100
"""However busy the machine is."""
COUNTS = (
    "spanbus.phase.duration",
    "spanbus.phase.failures",
    "spanbus.phase.retries",
    "cicd.pipeline.run.duration",
)


def nightly(number: int) -> list[Line]:
    """Ten phases in 22 events; in each tenth run one of them fails at its second attempt, with an event more."""
    run_id, fails = f"nightly-{number}", number % 10 == 0
    failed = {"success": False, "result": "failure", "error_type": "E", "error": "no"}
    made: list[tuple[str, str | None, dict[str, object]]] = [
        ("started", None, {"workflow": "nightly"})
    ]
    for phase in range(PHASES):
        name = f"phase-{phase}"
        made.append(("phase.started", name, {"type": "command"}))
        if fails and phase == PHASES - 1:
            made.append(("phase.retrying", name, {"next_attempt": 2, **failed}))
            made.append(("phase.failed", name, {"attempts": 2, **failed}))
        else:
            made.append(("phase.completed", name, {"success": True}))
    made.append(
        ("failed", None, {"workflow": "nightly", **failed})
        if fails
        else ("completed", None, {"workflow": "nightly", "success": True})
    )
    return [
        line_of(run_id, place, kind, phase, START_NS + (number * 30 + place) * 1_000_000, **payload)
        for place, (kind, phase, payload) in enumerate(made)
    ]


def messages(runs: range) -> list[Message]:
    """Two of each run, side by side with those of others, as the outbox of a busy host packs them."""
    halves: list[list[Message]] = [[], []]
    for number in runs:
        lines = nightly(number)
        for half, part in zip(halves, (lines[:11], lines[11:]), strict=True):
            body = "\n".join(map(json.dumps, part)).encode()
            where = subject("nightly", f"nightly-{number}")
            half.append(Message(where, f"{part[0]['event_id']}.{len(part)}", body, len(part)))
    return halves[0] + halves[1]


class Picture:
    """Spans by their id, each as a digest of all that it says, and what was counted."""

    def __init__(self, collector: Receiver) -> None:
        spans = collector.spans()
        self.doubled = len(spans) - len({span.span_id for span in spans})
        self.spans = {
            span.span_id: blake2b(
                span.SerializeToString(deterministic=True), digest_size=8
            ).digest()
            for span in spans
        }
        self.results = Counter((span.name, span.status.code) for span in spans)
        self.counted = {name: total(collector, name) for name in COUNTS}


Work = Callable[..., Observing]
"""Starts an observer that reads to the end of the stream, with its state in a folder, by words of its command line."""


@pytest.fixture
def working(nats: Nats, collector: Receiver) -> Generator[Work]:
    started: list[Observing] = []

    def start(folder: Path, *words: str) -> Observing:
        started.append(Observing(nats, collector, folder, "--once", *words))
        started[-1].process = subprocess.Popen(
            started[-1].argv, env=started[-1].env, stderr=subprocess.PIPE
        )
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.kill()


def ended(observers: Sequence[Observing]) -> None:
    for each in observers:
        assert each.end(timeout_s=LIMIT_S) == 0, each.said
        assert "0 runs are open" in each.said[-1], each.said


def resident_mib(observing: Observing) -> float:
    assert observing.process is not None
    status = Path(f"/proc/{observing.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.timeout(2 * LIMIT_S)
def test_a_backlog_gives_what_reading_along_gave(
    nats: Nats, collector: Receiver, observe: Start, working: Work, tmp_path: Path
) -> None:
    nats_stream.set_up(nats.url, nats_stream.Wanted(max_bytes=512 * 2**20))
    along = observe(tmp_path / "along", "--group", "along")
    publisher = Client([nats.url], None)
    try:
        for first in range(0, RUNS, 50):
            sent = messages(range(first, min(first + 50, RUNS)))
            publisher.run(publisher.store(sent, "a host"), 60.0)
    finally:
        publisher.close()
    failures = len(range(0, RUNS, 10))
    spans = RUNS * (PHASES + 1) + 2 * failures  # those with two attempts have a span for each
    assert collector.wait_for(spans=spans, timeout_s=LIMIT_S)
    assert along.end(signal.SIGTERM) == 0, along.said
    live = Picture(collector)
    collector.clear()
    assert (live.doubled, len(live.spans)) == (0, spans)
    assert live.counted == {
        "spanbus.phase.duration": RUNS * PHASES,
        "spanbus.phase.failures": failures,
        "spanbus.phase.retries": failures,
        "cicd.pipeline.run.duration": RUNS,
    }

    one = working(tmp_path / "one", "--group", "one")
    resident: list[float] = []
    for part in (0.3, 0.9):
        assert collector.wait_for(spans=int(spans * part), timeout_s=LIMIT_S)
        resident.append(resident_mib(one))
    ended([one])
    alone = Picture(collector)
    collector.clear()
    assert resident[1] < resident[0] * 1.25 + 16, "its memory does not grow with the backlog"

    ended([working(tmp_path / k, "--group", "two", "--share", f"{k}/2") for k in "01"])
    shared = Picture(collector)

    for found in (alone, shared):
        assert found.doubled == 0
        assert found.results == live.results
        assert found.spans == live.spans
        assert found.counted == live.counted
