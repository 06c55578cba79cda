"""Kept output of commands: the tail is the real end, and all of it is kept."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli, Json

from spanbus._otlp.decode import attributes
from spanbus.testing import Receiver

PROGRAMS = {
    "lines": "for n in range(300): print('line', n)\nprint('THE-REASON')",
    "one": "print('x' * 70_000 + 'THE-REASON')",
    "much": "for n in range(60_000): print('a line of much output, number', n)\nprint('THE-REASON')",
    "wide": "print('ä€𝄞' * 3_000 + 'THE-REASON')",
    "open": "import sys; sys.stdout.write('y' * 9_000 + 'THE-REASON')",
}


def write(cli: Cli, program: str, more: str = "") -> None:
    argv = json.dumps(
        [sys.executable, "-c", f"{PROGRAMS[program]}\nraise SystemExit(3)"], ensure_ascii=False
    )
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.w]\nphases = [ {{ name = "a", run = {argv}{more} }} ]\n'
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_end_of_the_output_is_in_every_view(cli: Cli, program: str) -> None:
    write(cli, program)
    ran = cli("run", "-q")
    assert ran.code == 1
    run = cli("show", "--json").json()
    [phase] = cast("list[Json]", run["phases"])
    tail = str(phase["output_tail"])
    assert tail.endswith("THE-REASON")
    whole = cli("logs").out.rstrip("\n")
    assert len(tail) == min(4_096, len(whole))
    assert whole.endswith(tail)
    for shown in (ran.out, cli("show").out):
        last = tail.splitlines()[-1]
        assert last in shown
        assert tail.splitlines()[0] in shown
    assert tail in cli("report", "--markdown").out
    assert "THE-REASON" in cli("report", "-o", "-").out


def test_show_runs_and_json_have_what_is_needed_after_a_failure(cli: Cli) -> None:
    write(cli, "lines")
    cli("run", "-q")
    run = cli("show", "--json").json()
    [phase] = cast("list[Json]", run["phases"])
    [command] = cast("list[Json]", phase["children"])
    for document in (phase, command):
        assert document["exit_code"] == 3
        assert cast("list[str]", document["command"])[0] == sys.executable
        assert str(document["output_tail"]).endswith("THE-REASON")
        assert cast("float", document["start_offset_s"]) >= 0
        log = Path(str(document["log"]))
        assert gzip.decompress(log.read_bytes()).decode().endswith("line 299\nTHE-REASON\n")
    assert "exit code 3" in str(phase["error"])
    [listed] = cast("list[Json]", json.loads(cli("runs", "--json").out))
    for key in ("error", "exit_code", "command", "output_tail", "log"):
        assert listed[key] == run[key] is not None


def test_logs_selects_a_run_a_phase_a_hook_or_failures(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        """[workflows.w]
phases = [
  { name = "lint", hooks = [ { name = "good", run = "echo fine" }, { name = "bad", run = "sh -c 'echo broken; exit 1'" } ] },
  { name = "tests", run = "sh -c 'echo attempt; exit 1'", retries = 1, retry_backoff = 0 },
]
"""
    )
    cli("run", "-q")
    everything = cli("logs").out
    assert everything.count("attempt\n") == 2
    assert "==> lint / good <==\nfine\n" in everything
    assert "==> tests / sh attempt 2 exit 1 <==" in everything
    assert cli("logs", "last", "lint", "bad").out == "broken\n"
    assert "fine" not in cli("logs", "--failed").out
    run_id = str(cli("show", "--json").json()["run_id"])
    assert cli("logs", run_id[:-1], "lint", "good").out == "fine\n"
    nothing = cli("logs", "last", "lint", "worse")
    assert (nothing.code, nothing.out) == (1, "")
    assert "lint bad" in nothing.err
    assert cli("logs", "nope").code == 1


def test_kept_output_is_redacted_and_private(cli: Cli) -> None:
    secret = "ghp_" + "a1B2" * 9
    key = (
        "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\\n-----END PRIVATE KEY-----"
    )
    (cli.folder / "spanbus.toml").write_text(
        f"[workflows.w]\nphases = [ {{ name = 'a', run = ['printf', 'token {secret}\\n{key}\\nend'] }} ]\n"
    )
    cli("run", "-q")
    out = cli("logs").out
    assert out.endswith("end\n")
    assert secret not in out
    assert "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" not in out
    logs = cli.folder / "state" / "logs"
    for path in (logs, *logs.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_logs_follow_shows_output_while_it_is_written(cli: Cli) -> None:
    program = "import time, pathlib\nprint('first', flush=True)\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\nprint('last')"
    argv = json.dumps([sys.executable, "-c", program])
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.w]\nphases = [ {{ name = "a", run = {argv} }} ]\n'
    )
    running = cli.start("run", "-q")
    index = cli.folder / "state" / "logs"
    end = time.monotonic() + 30
    while not list(index.glob("*/0001.log.gz")) and time.monotonic() < end:
        time.sleep(0.02)
    follower = cli.start("logs", "-f")
    assert follower.stdout is not None
    lines = [follower.stdout.readline() for _ in range(2)]
    assert lines[1] == "first\n"
    (cli.folder / "go").touch()
    rest, _ = follower.communicate(timeout=60)
    assert rest.endswith("last\n")
    running.communicate(timeout=60)
    assert (running.returncode, follower.returncode) == (0, 0)


def test_output_of_a_killed_run_is_kept(cli: Cli) -> None:
    argv = json.dumps(
        [sys.executable, "-c", "import time; print('first', flush=True); time.sleep(60)"]
    )
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.w]\nphases = [ {{ name = "a", run = {argv} }} ]\n'
    )
    running = cli.start("run", "-q")
    end = time.monotonic() + 30
    logs = cli.folder / "state" / "logs"
    while not list(logs.glob("*/0001.log.gz")) and time.monotonic() < end:
        time.sleep(0.02)
    [folder] = logs.iterdir()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert cli("logs", folder.name).out == "first\n"


def test_kept_output_is_bounded_and_the_newest_is_kept(cli: Cli) -> None:
    program = "import base64, os\nfor n in range(6): print(base64.b64encode(os.urandom(200_000)).decode())\nprint('END')"
    argv = json.dumps([sys.executable, "-c", program])
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.w]\nphases = [ {{ name = "a", run = {argv} }} ]\n'
    )
    env = {"SPANBUS_STORE_LOGS_BYTES": "1MiB"}
    for _ in range(2):
        assert cli("run", "-q", env=env).code == 0
    files = list((cli.folder / "state" / "logs").glob("*/*.log.gz"))
    assert sum(path.stat().st_size for path in files) <= 2**20
    out = cli("logs", env=env).out
    assert "some output was deleted here" in out
    assert out.endswith("END\n")


@pytest.mark.usefixtures("by_each_delivery")
def test_output_is_exported_as_logs_with_its_span_if_configured(cli: Cli) -> None:
    write(cli, "lines")
    with Receiver() as receiver:
        cli("run", "-q", env={**receiver.env, "SPANBUS_OUTPUT": "logs"})
        cli("flush", env=receiver.env)
        assert receiver.wait_until(lambda got: len(got.logs()) >= 301)
        spans = {span.span_id: span for span in receiver.spans()}
        records = receiver.logs()
    said = [record.body.string_value for record in records]
    assert said[0] == "line 0"
    assert "THE-REASON" in said
    for record in records:
        assert attributes(spans[record.span_id].attributes)["spanbus.level"] == "command"
        assert record.trace_id == spans[record.span_id].trace_id


@pytest.mark.parametrize("setting", ["off", "local"])
def test_output_is_neither_sent_nor_kept_unless_configured(cli: Cli, setting: str) -> None:
    write(cli, "lines")
    with Receiver() as receiver:
        cli("run", "-q", env={**receiver.env, "SPANBUS_OUTPUT": setting})
        cli("flush", env=receiver.env)
        assert receiver.wait_until(lambda got: bool(got.spans()))
        assert receiver.logs() == []
    assert (cli.folder / "state" / "logs").exists() == (setting == "local")


def test_earlier_runs_can_be_named_and_listed_since_a_time(cli: Cli) -> None:
    for name in ("one", "two", "three"):
        cli("exec", "--workflow", name, "--", "true")
    assert [
        cli("show", run, "--json").json()["workflow"] for run in ("last", "last~1", "last~2")
    ] == ["three", "two", "one"]
    assert cli("show", "last~3").code == 1
    assert len(json.loads(cli("runs", "--since", "2h", "--json").out)) == 3
    assert json.loads(cli("runs", "--since", "2099-01-01", "--json").out) == []
    wrong = cli("runs", "--since", "soon")
    assert (wrong.code, "2h" in wrong.err) == (2, True)


def test_replay_prints_the_id_of_the_stored_run(cli: Cli) -> None:
    write(cli, "lines")
    cli("run", "-q", "--record", "events.jsonl")
    run_id = str(cli("show", "--json").json()["run_id"])
    assert f"stored as run {run_id}" in cli("replay", "events.jsonl").out
    assert "stored as" not in cli("replay", "events.jsonl", "--dry-run").out


def test_a_full_disk_affects_only_the_kept_output(cli: Cli) -> None:
    write(cli, "lines")
    logs = cli.folder / "state" / "logs"
    logs.parent.mkdir()
    logs.write_text("no folder")
    assert os.path.isfile(logs)
    ran = cli("run")
    assert ran.code == 1
    assert "THE-REASON" in ran.out
