"""The start of a command: interrupts during imports, and terminals with invalid sizes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from command_line import Cli

from spanbus._cli.console import output

# Somebody presses Ctrl-C in the moment in which a module is looked for.
INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["spanbus", *sys.argv[1:]]
from spanbus._cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("spanbus._exec.arguments", ("exec", "--", "echo", "ran")),
        ("spanbus._exec.wrapper", ("exec", "--", "echo", "ran")),
        ("spanbus._exec.launch", ("exec", "--", "echo", "ran")),
        ("spanbus._cli.runs", ("runs",)),
        ("spanbus._cli.app", ("runs", "--limt", "1")),
        ("spanbus._cli.app", ("run", "--list")),
    ],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_during_imports_ends_the_command_with_its_usual_code(
    cli: Cli, module: str, line: tuple[str, ...], ignored: bool
) -> None:
    program = [sys.executable, "-c", INTERRUPTED.format(module=module), *line]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if ignored else []
    done = cli.run([*ignoring, *program])
    if not ignored:
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    else:
        assert done.returncode != -signal.SIGINT
        assert line[0] != "exec" or done.stdout == "ran\n"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["0", "00", "-5", "", "wide", "1e3", "٣"])
def test_an_invalid_terminal_width_is_ignored(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    usual = output().width
    monkeypatch.setenv("COLUMNS", columns)
    assert output().width == usual > 0
    monkeypatch.setenv("COLUMNS", "132")
    assert output().width == 132


def test_a_terminal_with_no_columns_shows_the_same_words(cli: Cli) -> None:
    assert cli("exec", "--", "true").code == 0
    wide, none = (cli("runs", env={"COLUMNS": columns}) for columns in ("100", "0"))
    assert (none.code, none.out.split()) == (0, wide.out.split())


def test_an_exception_in_a_thread_is_one_line(cli: Cli) -> None:
    program = (
        "import threading\n"
        "from spanbus._exec.messages import log_to_stderr\n"
        "log_to_stderr()\n"
        "def work():\n"
        "    raise ValueError('a\\nreason \\x1b[31m')\n"
        "thread = threading.Thread(target=work, name='lane')\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        0,
        "spanbus: lane ended: ValueError: a\\nreason \\u001b[31m\n",
    )
