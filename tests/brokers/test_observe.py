"""One observer of a stream: spans of runs that no process of ours made, through kills, hand-overs and what is no event."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from brokers import Nats
from observing import (
    EXPECTED,
    SECOND,
    SMALL,
    START_NS,
    Observing,
    Start,
    once,
    publish,
    run,
    total,
    unique,
)
from picture import picture
from servers import ROOT, eventually
from spans import attributes

from spanbus.integrations import nats_stream
from spanbus.testing import Receiver


def command(
    nats: Nats, collector: Receiver, folder: Path, *words: str
) -> tuple[list[str], dict[str, str]]:
    env = {
        **os.environ,
        **collector.env,
        "SPANBUS_STATE_DIR": str(folder),
        "SPANBUS_LOCAL": "off",
        "SPANBUS_EXIT_TIMEOUT_S": "3",
        "PYTHONPATH": str(ROOT / "src"),
    }
    return [sys.executable, "-m", "spanbus", "observe", nats.url, *words], env


Follow = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def follow(nats: Nats, collector: Receiver) -> Generator[Follow]:
    """Starts observers on a host of their own, and kills those that are still there."""
    started: list[subprocess.Popen[str]] = []

    def following(folder: Path, *words: str) -> subprocess.Popen[str]:
        argv, env = command(nats, collector, folder, *words)
        process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None and "until told to stop" in process.stderr.readline()
        return process

    try:
        yield following
    finally:
        for process in started:
            process.kill()
            process.communicate(timeout=20)


def test_a_run_that_is_half_there_is_whole_the_next_time(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    lines = run("r-1")
    publish(nats.url, lines[:5])
    assert "5 events up to message 5; 1 run is open" in once(nats, collector, tmp_path / "a")
    assert [span.name for span in collector.spans()] == ["lint", "tests attempt 1"]
    publish(nats.url, lines[5:])
    # on another host, which has nothing but the stream and the checkpoint
    assert "0 runs are open" in once(nats, collector, tmp_path / "b")
    assert picture(collector.spans()) == EXPECTED
    assert len(collector.spans()) == len({span.span_id for span in collector.spans()})
    whole = next(span for span in collector.spans() if span.name == "RUN w")
    assert whole.start_time_unix_nano == START_NS + SECOND
    assert "0 events" in once(nats, collector, tmp_path / "b"), "nothing twice"
    assert len(collector.spans()) == 5
    assert collector.sum_of("spanbus.phase.failures") == 1
    assert collector.sum_of("spanbus.phase.retries") == 1
    # another group is another observer of everything, with the same ids
    once(nats, collector, tmp_path / "c", "--group", "other")
    assert len(collector.spans()) == 10
    assert len({span.span_id for span in collector.spans()}) == 5


def test_what_is_counted_elsewhere_and_what_is_no_event(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    mine, theirs = run("mine"), run("theirs", telemetry="here")
    publish(nats.url, theirs[:3])
    publish(nats.url, [], b"no json", b'{"neither": "type"}', b"[]")
    said = once(nats, collector, tmp_path / "s")
    assert "no event" in said and "0 events" in said
    publish(nats.url, [*theirs[3:], *mine, *mine[:2]])  # and doubles of a run that is over
    once(nats, collector, tmp_path / "s")
    assert picture(collector.spans()) == EXPECTED
    assert {attributes(one)["cicd.pipeline.run.id"] for one in collector.spans()} == {"mine"}


COUNTED = {
    "spanbus.phase.failures": 40,
    "spanbus.phase.retries": 40,
    "spanbus.phase.duration": 80,
    "cicd.pipeline.run.duration": 40,
}


def test_an_observer_that_is_killed_four_times_tells_everything_once(
    nats: Nats, collector: Receiver, follow: Follow, tmp_path: Path
) -> None:
    runs = [run(f"r-{number}") for number in range(40)]
    for part in range(5):
        process = follow(tmp_path / "s")
        mixed = [
            line
            for step in range(7)
            for one in runs[part * 8 : part * 8 + 8]
            for line in one[step : step + 1]
        ]
        before = len(collector.spans())
        publish(nats.url, mixed[: len(mixed) * 2 // 3])
        eventually(lambda n=before: len(collector.spans()) > n, 30.0)
        if part < 4:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
        publish(nats.url, mixed[len(mixed) * 2 // 3 :])
    assert collector.wait_until(lambda _: len(unique(collector)) == 40 * 5, 60.0), len(
        unique(collector)
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and "0 runs are open" in errors, errors
    # Killed between the collector's answer and its note of it, a sender sends that batch again: spans may come twice. What an
    # observer tells twice it counts twice.
    known = unique(collector)
    spans = list({span.span_id: span for span in collector.spans()}.values())
    assert len(spans) == 200
    assert [
        one.name for one in spans if one.parent_span_id and one.parent_span_id not in known
    ] == []
    assert {span.status.code for span in spans if span.name == "RUN w"} == {2}
    counted = {name: total(collector, name) for name in COUNTED}
    assert counted == COUNTED


def test_who_took_over_is_the_only_one(
    nats: Nats, collector: Receiver, follow: Follow, tmp_path: Path
) -> None:
    first, second = follow(tmp_path / "a"), follow(tmp_path / "b", "--take")
    publish(nats.url, run("r"))
    _, errors = first.communicate(timeout=30)
    assert first.returncode == 1
    assert "somebody else observes as group main now; this observer lets go" in errors
    assert collector.wait_until(lambda got: any(one.name == "RUN w" for one in got.spans()), 30.0)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=20)
    assert second.returncode == 0


def test_a_server_that_is_restarted_under_an_observer(
    nats: Nats, collector: Receiver, follow: Follow, tmp_path: Path
) -> None:
    process, lines = follow(tmp_path / "s"), run("r")
    publish(nats.url, lines[:4])
    eventually(lambda: len(collector.spans()) == 1, 30.0)
    nats.kill()
    assert process.stderr is not None
    assert "reading goes on when it is back" in process.stderr.readline()
    nats.start()
    publish(nats.url, lines[4:])
    assert collector.wait_until(lambda got: len(got.spans()) == 5, 30.0)
    assert picture(collector.spans()) == EXPECTED
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert process.returncode == 0


def test_a_server_that_was_restarted_and_messages_that_were_deleted(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    publish(nats.url, run("r-1"))
    once(nats, collector, tmp_path / "s")
    publish(nats.url, run("r-2"))
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.PURGE.SPANBUS", {"seq": 11})
    nats.kill()
    nats.start()
    assert "3 messages were deleted before they were read" in once(nats, collector, tmp_path / "s")
    nats.kill()
    argv, env = command(nats, collector, tmp_path / "s", "--once")
    away = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert away.returncode == 1
    assert len(away.stderr.strip().splitlines()) == 1 and nats.url in away.stderr


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"subject_transform": None}, "subject_transform is None"),
        ({"retention": "workqueue"}, "retention is 'workqueue', wanted 'limits'"),
    ],
)
def test_a_stream_that_was_made_otherwise_is_refused_in_one_line(
    nats: Nats, tmp_path: Path, other: dict[str, object], words: str
) -> None:
    config = {**SMALL.config(), **other}
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.DELETE.SPANBUS", None)
        asking.ask("STREAM.CREATE.SPANBUS", {k: v for k, v in config.items() if v is not None})
    publish(nats.url, run("r"))
    one = Observing(nats, None, tmp_path, "--once", env={"OTEL_SDK_DISABLED": "true"})
    done = subprocess.run(
        one.argv, env=one.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr and "remove it and make it with `spanbus nats setup`" in done.stderr


def test_a_copy_of_a_stream_is_observed_as_the_stream(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    publish(nats.url, run("r"))
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.CREATE.COPY", {"name": "COPY", "mirror": {"name": "SPANBUS"}})
        eventually(lambda: asking.stream("COPY")["state"]["messages"] == 7, 30.0)
    once(nats, collector, tmp_path, "--stream", "COPY")
    assert picture(collector.spans()) == EXPECTED


@pytest.mark.parametrize("bucket", ["purged", "removed", "of publishers removed"])
def test_a_bucket_that_is_lost_under_an_observer(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path, bucket: str
) -> None:
    lines = run("r")
    publish(nats.url, lines[:4])
    observer = observe(tmp_path)
    assert collector.wait_for(spans=1, timeout_s=40.0)
    with nats_stream.Admin(nats.url, None) as asking:
        if bucket == "purged":
            asking.ask("STREAM.PURGE.KV_spanbus_observe", {})
        else:
            name = "spanbus_observe" if bucket == "removed" else "spanbus_alive"
            asking.ask(f"STREAM.DELETE.KV_{name}", None)
            observer.wait_for("nobody answers for JetStream")
    publish(nats.url, lines[4:])
    if bucket == "removed":
        nats_stream.set_up(nats.url, SMALL)
    assert collector.wait_until(lambda got: len(got.spans()) == 5, 60.0)
    with nats_stream.Admin(nats.url, None) as asking:
        eventually(lambda: asking.stream("KV_spanbus_observe")["state"]["messages"] == 64, 40.0)
    assert observer.end(signal.SIGTERM) == 0, observer.said
    assert picture(collector.spans()) == EXPECTED
    assert len(collector.spans()) == 5, "nothing twice"
    assert len([line for line in observer.said if "nobody answers" in line]) <= 1, observer.said
    assert "0 events" in once(nats, collector, tmp_path / "next"), "the checkpoints are there again"
