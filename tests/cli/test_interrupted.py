"""A command that shares our terminal decides itself how it ends on Ctrl-C, and is told once."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import Cli

# Says what it heard, and goes on for a while after the first signal, as servers and terraform do.
CHILD = """
import signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: heard.append(signal.Signals(number).name))
print("ready", flush=True)
while not heard:
    signal.pause()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.05)
print("heard", *heard, flush=True)
sys.exit(7)
"""


@pytest.fixture
def child(tmp_path: Path) -> Cli:
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    return Cli(tmp_path)


def recorded(cli: Cli) -> tuple[object, object]:
    shown = json.loads(cli("show", "--json").out)
    return shown["result"], shown["phases"][0]["result"]


def test_ctrl_c_in_a_terminal_reaches_the_command_once_and_its_exit_code_is_ours(child: Cli) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(child.folder)
        argv = child.argv("exec", "--", sys.executable, "child.py")
        os.execve(argv[0], argv, child.environment())
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    try:
        while data := os.read(terminal, 1024):
            seen += data
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert b"heard SIGINT\r\n" in seen
    assert recorded(child) == ("cancellation", "cancellation")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_exec_alone_is_passed_on(child: Cli, number: signal.Signals) -> None:
    process = child.start("exec", "--", sys.executable, "child.py")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, f"heard {number.name}\n")
    assert recorded(child) == ("cancellation", "cancellation")


def test_a_command_that_dies_of_the_signal_gives_128_and_its_number(child: Cli) -> None:
    process = child.start("exec", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_an_option_that_exec_does_not_have_is_bad_usage(child: Cli) -> None:
    done = child("exec", "--nmae", "x", "--", "true")
    assert done.code == 2
    assert "--nmae" in done.err
    assert child("exec", "sh", "-c", "exit 5").code == 5


def test_a_narrow_terminal_still_shows_the_whole_id_of_a_run(child: Cli) -> None:
    child("exec", "--", "true")
    run_id = json.loads(child("runs", "--json").out)[0]["run_id"]
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        child.argv("runs"), cwd=child.folder, env=child.environment({"COLUMNS": "40", "NO_COLOR": "1"}), stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    assert process.wait(60) == 0
    shown = os.read(master, 65_536).decode()
    os.close(master)
    assert run_id in shown.splitlines()[0]


def test_who_insists_ends_the_tools_too(child: Cli) -> None:
    (child.folder / "spanbus.toml").write_text(
        "[workflows.w]\nphases = [ { name = \"stubborn\", run = [\"sh\", \"-c\", \"trap '' TERM; echo $$ > pid; while :; do sleep 1; done\"] } ]\n"
    )
    process = child.start("run")
    assert process.stdout is not None and process.stderr is not None
    pid_file = child.folder / "pid"
    while not pid_file.exists() or not pid_file.read_text().strip():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "SIGINT" in process.stderr.readline()
    began = time.monotonic()
    while process.poll() is None:  # two signals so close together may count as one
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    assert time.monotonic() - began < 2.5  # well within the grace of three seconds
    process.communicate(timeout=60)
    assert process.returncode == 130
    stubborn = int(pid_file.read_text())
    end = time.monotonic() + 10
    while running(stubborn) and time.monotonic() < end:
        time.sleep(0.01)
    assert not running(stubborn)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
