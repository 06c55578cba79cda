"""Output of a command: passed on byte for byte, and kept if configured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import cast

import pytest
from command_line import Cli, Json
from terminal import Terminal

from spanbus.testing import Receiver

KEEP = ("exec", "--keep-output", "--")
SECRET = "ghp_" + "a1B2" * 9


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_output_is_kept_redacted_and_its_end_is_in_every_view(cli: Cli) -> None:
    program = (
        "for n in range(3000): print('line', n, '€' * (n % 7))\n"
        f"print('token {SECRET}')\n"
        "print('THE-REASON')\n"
        "raise SystemExit(3)"
    )
    ran = cli(*KEEP, *python(program))
    assert ran.code == 3
    assert ran.out.count("\n") == 3002
    assert SECRET in ran.out  # what passes through is not ours to change
    logged = cli("logs").out
    assert SECRET not in logged
    assert all(f"line {n} {'€' * (n % 7)}".rstrip() in logged for n in range(3000))
    run = cli("show", "--json").json()
    [phase] = cast("list[Json]", run["phases"])
    for tail in (str(run["output_tail"]), str(phase["output_tail"])):
        assert tail.endswith("THE-REASON")
        assert len(tail) == 4_096
        assert SECRET not in tail
    for shown in (cli("show").out, cli("report", "--markdown").out, cli("report", "-o", "-").out):
        assert "THE-REASON" in shown
    assert cli("logs", "--failed").out == logged


def test_both_streams_are_kept_separately(cli: Cli) -> None:
    done = cli(*KEEP, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert sorted(cli("logs").out.split()) == ["err", "out"]


def test_output_is_kept_only_if_configured(cli: Cli) -> None:
    command = ("exec", "--", "sh", "-c", "echo said; exit 1")
    for value, kept, told in (
        ("true", True, ""),
        ("", False, ""),
        ("no", False, ""),
        ("perhaps", False, "spanbus: SPANBUS_KEEP_OUTPUT='perhaps': must be true or false\n"),
    ):
        done = cli(*command, env={"SPANBUS_KEEP_OUTPUT": value})
        assert (done.code, done.out, done.err) == (1, "said\n", told)
        assert (cli("logs").out == "said\n") is kept
    done = cli(*KEEP, "sh", "-c", "echo said", env={"OTEL_SDK_DISABLED": "true"})
    assert (done.code, done.out, done.err) == (0, "said\n", "")


def test_settings_select_whether_output_is_kept(cli: Cli) -> None:
    with Receiver() as receiver:
        env = {**receiver.env, "SPANBUS_OUTPUT": "logs"}
        assert cli(*KEEP, "sh", "-c", "echo a; echo b", env=env).code == 0
        assert [record.body.string_value for record in receiver.logs()] == ["a", "b"]
        spans = {(span.trace_id, span.span_id) for span in receiver.spans()}
        assert {(record.trace_id, record.span_id) for record in receiver.logs()} <= spans
    assert cli(*KEEP, "echo", "c", env={"SPANBUS_OUTPUT": "off"}).out == "c\n"
    assert cli("logs").out == ""


def test_an_invalid_command_line_is_a_usage_error_of_exec(cli: Cli) -> None:
    assert cli("exec", "--keep-output=x", "--", "true").code == 2
    assert "--keep-output" in cli("exec", "--help").out


# --- streams ----------------------------------------------------------------------------------------------------------


def start(cli: Cli, argv: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        cli.argv(*KEEP, *argv),
        cwd=cli.folder,
        env=cli.environment(),
        **streams,  # pyright: ignore[reportCallIssue]
    )


def test_a_slow_reader_of_a_nonblocking_stream_gets_all_output(cli: Cli) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = start(cli, ["head", "-c", "400000", "/dev/zero"], stdout=writing)
    os.close(writing)
    time.sleep(0.3)
    got = 0
    while data := os.read(reading, 1_000):
        got += len(data)
    os.close(reading)
    assert (got, process.wait(60)) == (400_000, 0)


def test_a_closed_pipe_reaches_the_command(cli: Cli) -> None:
    for program in (
        "yes",
        "printf x; exec tail -f /dev/null",
    ):  # one writes on, one watches its output
        process = start(cli, ["sh", "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE


def test_a_stalled_stdout_does_not_block_stderr(cli: Cli) -> None:
    program = "import os\nos.write(2, b'a')\nos.write(1, b'x' * 60_000)\nos.write(2, b'b')\nwhile True: os.write(1, b'x')"
    process = start(cli, python(program), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.read(2) == b"ab"
    process.kill()
    process.communicate()


def test_both_streams_to_one_place_keep_their_order(cli: Cli) -> None:
    program = "import os\nfor n in range(500): os.write(1 + n % 2, b'%d\\n' % n)"
    done = subprocess.run(
        cli.argv(*KEEP, *python(program)),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert done.stdout.split() == [b"%d" % n for n in range(500)]
    assert cli("logs").out.split() == [str(n) for n in range(500)]


def test_background_processes_of_the_command_are_not_waited_for(cli: Cli) -> None:
    with start(cli, ["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=60)
    os.kill(int(out), signal.SIGKILL)  # it is still there
    assert process.returncode == 0


def test_a_full_disk_behind_the_output_is_reported_and_reaches_the_command(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        process = start(cli, ["yes"], stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert err == b"spanbus: the output cannot be written: No space left on device\n"


def test_output_of_a_terminated_command_is_kept(cli: Cli) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('tidied', flush=True), sys.exit(5)))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    process = start(cli, python(program), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"tidied\n", 5)
    assert cli("logs").out == "ready\ntidied\n"
    run = cli("show", "--json").json()
    assert (run["result"], run["output_tail"]) == ("cancellation", "ready\ntidied")


# --- at a terminal ----------------------------------------------------------------------------------------------------

LOOK = (
    "import os, signal, sys, termios, time\n"
    "def say(*_):\n"
    "    size = os.get_terminal_size(1)\n"
    "    print(os.isatty(0), os.isatty(1), os.isatty(2), size.columns, size.lines, flush=True)\n"
    "signal.signal(signal.SIGWINCH, say)\n"
    "say()\nprint('\\x1b[31mred\\x1b[0m', 'é€𝄞', flush=True)\n"
    "input()\nprint('read', file=sys.stderr, flush=True)\nraise SystemExit(7)"
)


def at_a_terminal(cli: Cli, *argv: str) -> Terminal:
    return Terminal(cli.argv(*argv), cli.folder, cli.environment())


def test_at_a_terminal_the_command_has_a_terminal(cli: Cli) -> None:
    with at_a_terminal(cli, *KEEP, *python(LOOK)) as terminal:
        terminal.until("𝄞\r\n".encode())
        terminal.resize(columns=77, lines=33)
        terminal.until(b"True True True 77 33\r\n")
        terminal.type(b"\n")
        terminal.until(b"read\r\n")
        terminal.rest()
        assert terminal.exit_code() == 7
    logged = cli("logs").out
    assert "red é€𝄞\n" in logged or "\x1b[31mred\x1b[0m é€𝄞\n" in logged
    assert logged.endswith("read\n")


@pytest.mark.parametrize("keys", [b"\x03", b"\x1a"])
def test_keys_reach_the_command(cli: Cli, keys: bytes) -> None:
    program = (
        "import os, signal\n"
        "def told(number, frame): os.write(1, signal.Signals(number).name.encode()); os._exit(4)\n"
        "signal.signal(signal.SIGINT, told); signal.signal(signal.SIGTSTP, told)\n"
        "os.write(1, b'ready')\nwhile True: signal.pause()"
    )
    with at_a_terminal(cli, *KEEP, *python(program)) as terminal:
        terminal.until(b"ready")
        terminal.type(keys)
        seen = terminal.rest()
        assert terminal.exit_code() == 4
    assert seen.count(b"SIG") == 1


def test_a_redirected_stream_is_not_a_terminal(cli: Cli) -> None:
    line = " ".join(f"'{word}'" for word in cli.argv(*KEEP, "sh", "-c"))
    look = "test -t 1; a=$?; test -t 2; echo $a $?; echo seen >&2"
    with Terminal(
        ["sh", "-c", f"{line} '{look}' >file; cat file"], cli.folder, cli.environment()
    ) as terminal:
        assert terminal.rest() == b"seen\r\n1 0\r\n"
