"""`spanbus flush` delivers waiting records, and reports success only if all were delivered."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Cli

from spanbus.testing import Answer, Receiver


def test_flush_delivers_its_own_metrics_with_any_exit_limit(
    tmp_path: Path,
) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.3))
        cli = Cli(tmp_path, {**receiver.env, "SPANBUS_EXIT_TIMEOUT_S": "0.05"})
        assert cli("exec", "--", "true").code == 0
        done = cli("flush", "--wait", "20")
        assert (done.code, done.err) == (0, "spanbus: everything is delivered\n")
        assert cli("flush").err.startswith("spanbus: nothing waits")


def test_flush_keeps_its_timeout_without_a_collector(
    tmp_path: Path,
) -> None:
    with Receiver(listening=False) as receiver:
        patient = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600000"}  # who waited for this would not end
        cli = Cli(tmp_path, {**receiver.env, **patient})
        assert cli("exec", "--", "true", env={"SPANBUS_EXIT_TIMEOUT_S": "0.25"}).code == 0
        done = cli("flush", "--wait", "1")
        assert done.code == 1
        assert "records still wait" in done.err
        assert "refused" in done.err


def test_flush_keeps_its_timeout_with_a_silent_collector_and_names_it(
    tmp_path: Path,
) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=3_600))
        cli = Cli(tmp_path, {**receiver.env, "OTEL_EXPORTER_OTLP_TIMEOUT": "1000"})
        assert cli("exec", "--", "true", env={"SPANBUS_EXIT_TIMEOUT_S": "0.25"}).code == 0
        assert (
            done := cli("flush", "--wait", "2")
        ).code == 1  # within the minute that a command has
        assert "records still wait" in done.err
        assert "no answer in time" in done.err
        assert len(done.err.splitlines()) == 1


def test_flush_waits_for_records_that_another_program_releases(tmp_path: Path) -> None:
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
        assert "RUN true" in {span.name for span in receiver.spans()}


def test_flush_delivers_to_every_configured_server(tmp_path: Path) -> None:
    with Receiver() as traces, Receiver(listening=False) as metrics:
        cli = Cli(
            tmp_path,
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{traces.url}/v1/traces",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics.url}/v1/metrics",
            },
        )
        done = cli("exec", "--", "true", env={"SPANBUS_EXIT_TIMEOUT_S": "20"})  # on a busy machine
        assert f"{metrics.url} does not take telemetry" in done.err
        assert {
            (row["destination"], row["signal"])
            for row in json.loads(cli("status", "--json").out)["waiting"]
        } == {("remote", "metrics")}
        metrics.up()
        assert cli("flush").err == "spanbus: everything is delivered\n"
        assert {metric.name for metric in metrics.metrics()} >= {"spanbus.phase.duration"}


@pytest.mark.parametrize("status", [401, 403])
def test_records_wait_for_a_valid_api_key_and_status_has_the_reason(
    tmp_path: Path, status: int
) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(status, "wrong key"))
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        assert cli("flush", "--wait", "1").code == 1
        shown = json.loads(cli("status", "--json").out)
        assert shown["refused"]["files"] == 0
        assert any(row["destination"] == "remote" for row in shown["waiting"])
        [failing] = shown["failing"]
        assert failing["destination"] == receiver.url
        assert f"HTTP {status}: wrong key" in failing["reason"]
        assert f"HTTP {status}: wrong key" in cli("status").out
        receiver.answer(Answer())
        assert cli("flush", "--wait", "20").code == 0
        assert json.loads(cli("status", "--json").out)["failing"] == []
        assert receiver.wait_for(spans=1)


def test_flush_sends_refused_records_again(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(400, "no"))
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        cli("flush", "--wait", "20")
        refused = tmp_path / "state" / "refused"
        kept = len(list(refused.iterdir()))
        assert kept > 0
        again = cli("flush", "--refused")
        assert again.code == 1
        assert "HTTP 400: no" in again.err
        assert len(list(refused.iterdir())) == kept
        receiver.answer(Answer())
        sent = cli("flush", "--refused")
        assert sent.code == 0
        assert sent.err.startswith(f"spanbus: {kept} request")
        assert list(refused.iterdir()) == []
        assert receiver.wait_for(spans=1)
        assert cli("flush", "--refused").err.startswith("spanbus: nothing that was refused lies in")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_flush_follow_runs_until_a_signal(tmp_path: Path, end: signal.Signals) -> None:
    with Receiver() as receiver:
        cli = Cli(tmp_path, receiver.env)
        dead = {**cli.env, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        follower = subprocess.Popen(
            [sys.executable, "-m", "spanbus", "flush", "--follow"],
            env=cli.environment(),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert follower.stderr is not None
            assert "until told to stop" in follower.stderr.readline()
            for count in (1, 2):
                assert cli("exec", "--", "true", env=dead).code == 0
                assert receiver.wait_for(spans=count, timeout_s=60)
            assert any(cli("status", "--json").json()["waiting"] == [] for _ in range(100))
        finally:
            follower.send_signal(end)
            _, errors = follower.communicate(timeout=60)
        assert (follower.returncode, errors) == (0, "")
