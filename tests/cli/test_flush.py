"""`spanbus flush` delivers, and says so only when it is true."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from command_line import Cli

from spanbus.testing import Answer, Receiver


def test_what_it_counts_of_itself_is_delivered_too_however_short_the_exit_limit(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.3))
        cli = Cli(tmp_path, {**receiver.env, "SPANBUS_EXIT_TIMEOUT_S": "0.05"})
        assert cli("exec", "--", "true").code == 0
        done = cli("flush", "--wait", "20")
        assert (done.code, done.err) == (0, "spanbus: everything is delivered\n")
        assert cli("flush").err.startswith("spanbus: nothing waits")


def test_a_collector_that_is_not_there_holds_it_no_longer_than_was_asked_for(tmp_path: Path) -> None:
    with Receiver(listening=False) as receiver:
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        began = time.monotonic()
        done = cli("flush", "--wait", "1")
        assert (done.code, time.monotonic() - began < 6) == (1, True)
        assert "records still wait" in done.err
        assert "refused" in done.err


def test_a_collector_that_never_answers_holds_it_no_longer_than_was_asked_for_and_is_named(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=60))
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        began = time.monotonic()
        done = cli("flush", "--wait", "3")
        assert (done.code, time.monotonic() - began < 5.5) == (1, True)
        assert "records still wait" in done.err
        assert "no answer in time" in done.err
        assert len(done.err.splitlines()) == 1


def test_it_waits_for_what_another_program_took_over_and_lets_go_of(tmp_path: Path) -> None:
    with Receiver(listening=False) as receiver:
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        receiver.up()
        lock = os.open(tmp_path / "state" / "spool" / "adopt.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        flushing = cli.start("flush", "--wait", "30")
        while len(list(Path(f"/proc/{flushing.pid}/task").iterdir())) < 2:  # it looks around by now
            time.sleep(0.01)
        os.close(lock)
        assert flushing.communicate(timeout=60)[1] == "spanbus: everything is delivered\n"
        assert flushing.returncode == 0
        assert "RUN exec" in {span.name for span in receiver.spans()}


def test_what_goes_to_another_server_is_counted_and_delivered_too(tmp_path: Path) -> None:
    with Receiver() as traces, Receiver(listening=False) as metrics:
        cli = Cli(tmp_path, {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{traces.url}/v1/traces", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics.url}/v1/metrics",
        })
        done = cli("exec", "--", "true")
        assert f"{metrics.url} does not take telemetry" in done.err
        assert {(row["destination"], row["signal"]) for row in json.loads(cli("status", "--json").out)["waiting"]} == {("remote", "metrics")}
        metrics.up()
        assert cli("flush").err == "spanbus: everything is delivered\n"
        assert {metric.name for metric in metrics.metrics()} >= {"spanbus.phase.duration"}
