"""Interrupts: a command on our terminal gets Ctrl-C once, and decides itself how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import Cli
from terminal import Terminal

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


def test_ctrl_c_in_a_terminal_reaches_the_command_once_and_its_exit_code_is_ours(
    child: Cli,
) -> None:
    argv = child.argv("exec", "--", sys.executable, "child.py")
    with Terminal(argv, child.folder, child.environment()) as terminal:
        terminal.until(b"ready")
        terminal.type(b"\x03")
        seen = terminal.rest()
        assert terminal.exit_code() == 7
    assert b"heard SIGINT\r\n" in seen
    assert recorded(child) == ("cancellation", "cancellation")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sent_to_exec_only_is_passed_on(child: Cli, number: signal.Signals) -> None:
    process = child.start("exec", "--", sys.executable, "child.py")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, f"heard {number.name}\n")
    assert recorded(child) == ("cancellation", "cancellation")


def test_a_command_killed_by_a_signal_gives_128_plus_its_number(child: Cli) -> None:
    process = child.start("exec", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_an_unknown_option_of_exec_is_a_usage_error(child: Cli) -> None:
    done = child("exec", "--nmae", "x", "--", "true")
    assert done.code == 2
    assert "--nmae" in done.err
    assert child("exec", "sh", "-c", "exit 5").code == 5


def test_a_narrow_terminal_still_shows_the_whole_id_of_a_run(child: Cli) -> None:
    child("exec", "--", "true")
    run_id = json.loads(child("runs", "--json").out)[0]["run_id"]
    narrow = child.environment({"COLUMNS": "40", "NO_COLOR": "1"})
    with Terminal(child.argv("runs"), child.folder, narrow) as terminal:
        shown = terminal.rest().decode()
        assert terminal.exit_code() == 0
    assert run_id in shown.splitlines()[0]


def test_a_second_interrupt_kills_the_tools(child: Cli) -> None:
    (child.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "stubborn", run = ["sh", "-c", "trap \'\' TERM; echo $$ > pid; while :; do sleep 1; done"] } ]\n'
    )
    process = child.start("run")
    assert process.stdout is not None and process.stderr is not None
    pid_file = child.folder / "pid"
    while not pid_file.exists() or not pid_file.read_text().strip():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "SIGINT" in process.stderr.readline()
    while process.poll() is None:  # two signals so close together may count as one
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.communicate(timeout=60)
    assert process.returncode == 130
    stubborn = int(pid_file.read_text())
    end = time.monotonic() + 10
    while running(stubborn) and time.monotonic() < end:
        time.sleep(0.01)
    assert not running(stubborn)


# Sends itself a signal when the interpreter takes its modules down, after it has taken its signal handlers away.
INTERRUPTED_AT_ITS_END = """
import os, signal, sys

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv.pop(1))):
        kill(pid, number)

late = Late()
from spanbus._cli import main
main()
"""


@pytest.mark.parametrize(
    ("first", "late"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGHUP),
    ],
)
def test_a_signal_during_interpreter_exit_does_not_change_the_exit_code(
    child: Cli, first: signal.Signals, late: signal.Signals
) -> None:
    (child.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "long", run = ["sh", "-c", "echo ready; exec sleep 60"] } ]\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_AT_ITS_END, str(int(late)), "run"],
        cwd=child.folder,
        env=child.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(first)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + first, errors


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
