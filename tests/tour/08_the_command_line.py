"""Stop 8: workflows in TOML, run and inspected from the command line without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from command_line import Cli

WORKFLOW = """
[workflows.standard]
phases = [
  { name = "lint", action = "fast_hooks", hooks = [{ name = "ok", run = "true" }] },
  { name = "tests", action = "test_workflow", needs = ["lint"], run = "sh -c 'echo 2 of 40 failed; exit 3'" },
]
"""


def test_show_prints_the_failed_run_with_its_output(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    assert cli("run").code == 1, "a phase failed"

    run = cast("dict[str, Any]", cli("show", "--json").json())
    assert run["result"] == "failure"
    phases = [(phase["name"], phase["result"]) for phase in run["phases"]]
    assert phases == [("lint", "success"), ("tests", "failure")]

    shown = cli("show").out
    assert "2 of 40 failed" in shown
    assert "exit 3" in shown


def test_any_command_is_a_run_with_one_phase(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    done = cli("exec", "--name", "greet", "--", "sh", "-c", "echo hello; exit 7")
    assert (done.code, done.out) == (7, "hello\n")
    run = cast("dict[str, Any]", cli("show", "--json").json())
    assert [phase["name"] for phase in run["phases"]] == ["greet"]
