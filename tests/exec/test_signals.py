"""Signals: those sent to `exec` are passed on to the command once; those of a terminal are not sent again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Cli
from terminal import Terminal

# Counts what it hears, and ends on a line of stdin... or on SIGTERM, which it counts too.
COUNTER = """
import os, signal, sys, time
heard = []
for number in signal.valid_signals():
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT, signal.SIGTSTP):
        signal.signal(number, lambda number, frame: heard.append(number))
print("ready", flush=True)
while signal.SIGTERM not in heard:
    time.sleep(0.02)
time.sleep(0.2)
print(*[n for n in heard if n != signal.SIGTERM], flush=True)
"""


@pytest.fixture
def counter(cli: Cli) -> Cli:
    (cli.folder / "counter.py").write_text(COUNTER)
    return cli


def start(cli: Cli, *command: str, **more: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        cli.argv("exec", "--", *command),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,  # type: ignore[call-overload]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    "names",
    [
        # SIGINT and SIGHUP ask for the end, so that each is the only one of its process
        ("SIGINT",),
        ("SIGHUP",),
        ("SIGQUIT",),
        ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH", "SIGPROF", "SIGRTMIN", "SIGPIPE", "SIGTTIN"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("to_group", [False, True])
def test_every_signal_reaches_the_command_once(
    counter: Cli, names: tuple[str, ...], to_group: bool
) -> None:
    numbers = [getattr(signal, name) for name in names]
    process = start(counter, sys.executable, "counter.py")
    for number in numbers:
        (os.killpg if to_group else os.kill)(process.pid, number)
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, sorted(map(int, out.split()))) == (0, sorted(map(int, numbers))), (
        err
    )


def test_a_signal_to_us_reaches_the_commands_process_group(cli: Cli) -> None:
    script = "sh -c 'trap \"echo inner; exit\" USR1; echo ready; while :; do sleep 0.05; done' & trap : USR1; wait; wait"
    process = start(cli, "sh", "-c", script)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert out == "inner\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGPIPE"])
def test_signals_ignored_at_the_start_stay_ignored(cli: Cli, name: str) -> None:
    program = f"import signal; print(signal.getsignal(signal.{name}) == signal.SIG_IGN)"
    if name == "SIGPIPE":  # which Python itself ignores: ask the kernel
        program = (
            "line = [l for l in open('/proc/self/status') if l.startswith('SigIgn')][0]\n"
            "print('asked')"
        )
        done = cli.run(
            [
                "sh",
                "-c",
                "trap '' PIPE; \"$@\"; true",
                "sh",
                *cli.argv("exec", "--", "grep", "SigIgn", "/proc/self/status"),
            ]
        )
        assert int(done.stdout.split()[1], 16) >> (signal.SIGPIPE - 1) & 1
        plain = cli("exec", "--", "grep", "SigIgn", "/proc/self/status").out
        assert not int(plain.split()[1], 16) >> (signal.SIGPIPE - 1) & 1
        return
    done = cli.run(
        [
            "sh",
            "-c",
            f"trap '' {name[3:]}; \"$@\"; true",
            "sh",
            *cli.argv("exec", "--", sys.executable, "-c", program),
        ]
    )
    assert done.stdout == "True\n", done.stderr


def test_nohup_protects_the_command(cli: Cli) -> None:
    process = subprocess.Popen(
        ["nohup", *cli.argv("exec", "--", "sh", "-c", "echo ready; sleep 1; echo survived")],
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "survived\n")


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_parent_that_ignores_its_children_does_not_change_the_status(
    cli: Cli, status: int
) -> None:
    done = subprocess.run(
        [
            "sh",
            "-c",
            "trap '' CHLD; exec \"$@\"",
            "sh",
            *cli.argv("exec", "--", "sh", "-c", f"exit {status}"),
        ],
        cwd=cli.folder,
        env=cli.environment(),
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN) and None,
    )
    assert done.returncode == status


def test_blocked_signals_stay_blocked_for_the_command(cli: Cli) -> None:
    done = subprocess.run(
        cli.argv("exec", "--", "grep", "SigBlk", "/proc/self/status"),
        cwd=cli.folder,
        env=cli.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}) and None,
    )
    assert int(done.stdout.split()[1], 16) == 1 << (signal.SIGUSR1 - 1)
    plain = cli("exec", "--", "grep", "SigBlk", "/proc/self/status").out
    assert int(plain.split()[1], 16) == 0


def test_stop_and_continue_are_passed_on_and_visible_to_the_parent(cli: Cli) -> None:
    # `sleep` runs already: a shell that waits in vfork() for a child that is stopped cannot stop itself
    process = start(cli, "sh", "-c", "sleep 0.3 & echo ready; wait; echo done")
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n")


# --- at a terminal ----------------------------------------------------------------------------------------------------


def at_a_terminal(cli: Cli, *command: str) -> Terminal:
    return Terminal(cli.argv("exec", "--", *command), cli.folder, cli.environment())


@pytest.mark.parametrize(("key", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)])
def test_a_key_reaches_the_command_once(counter: Cli, key: bytes, number: int) -> None:
    with at_a_terminal(counter, sys.executable, "counter.py") as terminal:
        terminal.until(b"ready")
        terminal.type(key)
        time.sleep(0.2)
        os.kill(terminal.pid, signal.SIGTERM)  # for us alone
        seen = terminal.rest()
        assert terminal.exit_code() == 0
    assert seen.split(b"\x1c")[-1].strip().lstrip(b"^C\\").split() == [str(int(number)).encode()]


def test_at_a_terminal_a_signal_to_us_reaches_children_of_the_command(cli: Cli) -> None:
    script = "sh -c 'trap \"echo inner; exit\" USR1; echo ready; while :; do sleep 0.05; done' & trap : USR1; wait; wait"
    with at_a_terminal(cli, "sh", "-c", script) as terminal:
        terminal.until(b"ready")
        os.kill(terminal.pid, signal.SIGUSR1)
        assert b"inner" in terminal.rest()
        assert terminal.exit_code() == 0


def test_the_command_is_in_the_foreground_and_can_be_stopped(cli: Cli) -> None:
    """An interactive shell can stop and continue `exec` like the command itself."""
    line = " ".join(
        f"'{word}'" for word in cli.argv("exec", "--", "sh", "-c", "echo go; read x; echo got $x")
    )
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(shell, cli.folder, {**cli.environment(), "PS1": "$ "}) as terminal:
        terminal.type(line.encode() + b"\n")
        terminal.until(b"go\r\n")
        terminal.type(b"\x1a")
        terminal.until(b"Stopped")
        terminal.type(b"fg\n")
        time.sleep(0.3)
        terminal.type(b"word\n")
        terminal.until(b"got word")
        terminal.type(b"exit 0\n")
        terminal.rest()
        assert terminal.exit_code() == 0


def test_the_result_of_the_run_is_the_terminating_signal(counter: Cli) -> None:
    process = start(counter, sys.executable, "counter.py")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    [run] = json.loads(counter("runs", "--json").out)
    assert run["result"] == "cancellation"
    assert Path(counter.folder / "state").exists()


def test_a_signal_delivered_twice_counts_once(cli: Cli) -> None:
    """``timeout`` and supervisors signal the process and then its group; the record must still be completed."""
    program = (
        "import os, signal\n"
        "signal.signal(15, lambda *_: os._exit(3))\n"
        "print('ready', os.getpid(), sep='\\n', flush=True)\n"
        "signal.pause()"
    )
    process = start(cli, sys.executable, "-c", program)
    assert process.stdout is not None
    command = Path("/proc", process.stdout.readline().strip())
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 60
    while command.exists() and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, "")
    [run] = json.loads(cli("runs", "--json").out)
    assert run["result"] == "cancellation"
