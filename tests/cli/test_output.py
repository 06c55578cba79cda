"""Problems with the output do not affect the run: a closed pipe, a full disk, a terminal without Unicode."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import pytest
from command_line import Cli

WORKFLOW = """
[workflows.main]
phases = [
  { name = "größe ✓", run = ["sh", "-c", "read go < gate; i=0; while [ $i -lt 200 ]; do echo line $i ✓; i=$((i+1)); done; echo through > done"] },
  { name = "after", needs = ["größe ✓"], run = "true" },
]
"""


@pytest.fixture
def gated(tmp_path: Path) -> Cli:
    """Write a workflow whose first phase waits for a line in ``gate``."""
    (tmp_path / "spanbus.toml").write_text(WORKFLOW, encoding="utf-8")
    (tmp_path / "gate").write_text("go\n", encoding="utf-8")
    return Cli(tmp_path)


def test_a_run_continues_when_its_stdout_is_closed(gated: Cli) -> None:
    process = subprocess.Popen(
        gated.argv("run"),
        cwd=gated.folder,
        env=gated.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert (gated.folder / "done").exists()
    assert said == ""
    assert [run["result"] for run in json.loads(gated("runs", "--json").out)] == ["success"]


@pytest.mark.parametrize("words", ["show --json", "logs", "replay - --json", "show nowhere"])
def test_closed_standard_streams_cause_no_error(gated: Cli, words: str) -> None:
    assert gated("run").code == 0
    usual = gated(*words.split(), stdin="")
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = gated.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *gated.argv(*words.split())], stdin=""
        )
        assert done.returncode == usual.code
        assert done.stdout == ("" if ">&-" in closed.split() else usual.out)
        assert done.stderr == ("" if "2>&-" in closed else usual.err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_that_cannot_be_printed_causes_no_traceback(gated: Cli) -> None:
    done = gated.run(["sh", "-c", '"$@" 2>/dev/full', "sh", *gated.argv("show", "nowhere")])
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line_and_the_run_continues(gated: Cli) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done, listed = (
            subprocess.run(
                gated.argv(command),
                cwd=gated.folder,
                env=gated.environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            for command in ("run", "runs")
        )
    assert (done.returncode, done.stderr) == (
        0,
        "spanbus: stdout cannot be written and is left: No space left on device\n",
    )
    assert (gated.folder / "done").exists()
    assert (listed.returncode, listed.stderr) == (
        1,
        "spanbus: the output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_outside_the_terminals_encoding_are_escaped(gated: Cli, encoding: str) -> None:
    for command in ("run", "show", "runs"):
        done = subprocess.run(
            gated.argv(command),
            cwd=gated.folder,
            env=gated.environment({"PYTHONIOENCODING": encoding}),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr and done.stderr == b""
        if command != "runs":
            assert b"\\u2713" in done.stdout


def in_a_terminal(
    cli: Cli, *arguments: str, term: str = "xterm", code: int = 0, columns: int | None = None
) -> bytes:
    master, terminal = pty.openpty()
    if columns is not None:
        termios.tcsetwinsize(terminal, (40, columns))
        cli.env["COLUMNS"] = ""
    process = subprocess.Popen(
        cli.argv(*arguments),
        cwd=cli.folder,
        env=cli.environment({"TERM": term}),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while data := os.read(master, 65_536):
            shown += data
    except OSError:  # the other side is closed
        pass
    os.close(master)
    assert process.wait(60) == code, shown[-2_000:]
    return shown


def test_the_tree_is_not_redrawn_for_each_line_of_output(
    tmp_path: Path,
) -> None:
    (tmp_path / "spanbus.toml").write_text(
        '[workflows.main]\nphases = [ { name = "a", run = "sh -c \'yes abc | head -n 30000; printf end\'" } ]\n',
        encoding="utf-8",
    )
    shown = in_a_terminal(Cli(tmp_path), "run")
    assert shown.count(b"abc\r\n") == 30_000
    assert b"end\r\n" in shown
    assert len(shown) < 30_000 * 40  # the tree alone is more than 100 bytes


def test_tools_have_a_terminal_unless_tty_is_off(tmp_path: Path) -> None:
    asks = """["sh", "-c", 'echo "<$0 ${FORCE_COLOR-none} ${MYPY_FORCE_COLOR-none} ${COLUMNS-none}>"', "%s"]"""
    (tmp_path / "spanbus.toml").write_text(
        "[workflows.main]\nphases = [\n"
        f'  {{ name = "on", run = {asks % "on"} }},\n'
        f'  {{ name = "off", needs = ["on"], tty = false, run = {asks % "off"} }},\n'
        f'  {{ name = "mixed", needs = ["off"], action = "fast_hooks", tty = false, hooks = [{{ run = {asks % "hook"} }}] }},\n'
        "]\n",
        encoding="utf-8",
    )
    cli = Cli(tmp_path)
    shown = in_a_terminal(cli, "run", columns=100).decode()
    told = re.findall(r"<(\w+) (\S+) (\S+) (\S*)>", shown)
    [(_, colours, mypy, columns)] = [each for each in told if each[0] == "on"]
    assert (colours, mypy) == ("1", "1") and 40 <= int(columns) < 100
    assert ("off", "none", "none", "") in told
    assert ("hook", "none", "none", "") in told


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(gated: Cli) -> None:
    shown = in_a_terminal(gated, "run", term="dumb")
    assert b"after: started\r\n" in shown
    assert b"\x1b" not in shown


def test_results_of_phases_are_shown_on_a_narrow_terminal(tmp_path: Path) -> None:
    (tmp_path / "spanbus.toml").write_text(
        f'[workflows.main]\nphases = [ {{ name = "{"long_" * 12}", run = "test -e ok" }} ]\n'
    )
    cli = Cli(tmp_path)
    (tmp_path / "ok").touch()
    first = cli("run", "--json").json()["runs"][0]["run_id"]  # type: ignore[index]
    (tmp_path / "ok").unlink()
    assert cli("run", "-q").code == 1
    for columns in (40, 80):
        shown = in_a_terminal(cli, "diff", str(first), "last", code=1, columns=columns).decode()
        lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()[1:]
        assert len(lines) == 2  # the phase and its run
        assert all("newly failing" in line and len(line) <= columns for line in lines), lines


def test_event_names_are_shown_on_a_narrow_terminal(tmp_path: Path) -> None:
    (tmp_path / "spanbus.toml").write_text(
        '[workflows.main]\nphases = [ { name = "a phase with quite a long name", run = "true" } ]\n'
    )
    cli = Cli(tmp_path)
    assert cli("run", "-q").code == 0
    shown = in_a_terminal(cli, "show", "--events", columns=50).decode()
    assert "workflow.phase.completed" in shown
    assert all(len(line) <= 50 for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())


def test_running_times_are_shown_on_a_narrow_terminal(tmp_path: Path) -> None:
    (tmp_path / "spanbus.toml").write_text(
        f'[workflows.main]\nphases = [ {{ name = "{"日本" * 15}", run = "sleep 0.5" }} ]\n'
    )
    shown = in_a_terminal(Cli(tmp_path), "run", columns=40).decode()
    assert re.search(r"日本.*running +0\.\d+ s", shown), shown


def test_runs_of_an_empty_store_is_not_an_error(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert cli("exec", "--", "true", env={"OTEL_TRACES_SAMPLER": "always_off"}).code == 0
    assert "no run of project 'spanbus' is stored yet" in cli("runs").err
    assert "no run is stored yet" in cli("runs", "--all").err
    assert "like that" in cli("runs", "-w", "nobody").err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_listing_like_sigpipe(tmp_path: Path, unbuffered: str) -> None:
    phases = ", ".join(f'{{ name = "p{number}", run = "true" }}' for number in range(30))
    (tmp_path / "spanbus.toml").write_text(f"[workflows.main]\nphases = [ {phases} ]\n")
    cli = Cli(tmp_path)
    assert cli("run", "-q").code == 0
    for arguments in (
        ("show",),
        ("show", "--events"),
        ("show", "--otlp"),
        ("diff", "last", "last"),
        ("report", "-o", "-"),
        ("status", "--json"),
    ):
        process = subprocess.Popen(
            cli.argv(*arguments),
            cwd=tmp_path,
            env=cli.environment({"PYTHONUNBUFFERED": unbuffered}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60), said) == (141, ""), arguments
