"""The Start page: its program, run in an empty folder, is found by the command that the page names next."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import prepared
from command_line import Cli

PAGE = (Path(__file__).parents[2] / "docs" / "index.md").read_text()


def test_the_first_program_is_shown_by_the_next_command(tmp_path: Path) -> None:
    program, rest = re.findall(r"^```python\n(.*?)^```$(.*)", PAGE, re.MULTILINE | re.DOTALL)[0]
    [commands] = re.findall(r"^```sh\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)[:1]
    cli = Cli(tmp_path)
    done = prepared.run(
        [],
        folder=tmp_path,
        env=cli.environment(),
        stdin=None,
        timeout_s=60,
        code=program,
        finalize=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    show = shlex.split(commands.splitlines()[0])
    assert show[:2] == ["spanbus", "show"]
    shown = cli(*show[1:])
    assert shown.code == 0, shown.err
    assert "nightly" in shown.out
    assert "2 of 40" in shown.out
