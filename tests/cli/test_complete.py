"""What a shell completes: the names that the project defines, the runs that were stored."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import Cli


def completed(cli: Cli, line: str) -> list[str]:
    env = {**cli.environment(), "_SPANBUS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    program = "import sys; sys.argv = ['spanbus']; from spanbus.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=cli.folder, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_names_of_the_project_are_completed(project: Cli) -> None:
    assert completed(project, "spanbus ru") == ["run", "runs"]
    assert completed(project, "spanbus run ") == ["standard"]
    assert completed(project, "spanbus run standard --skip c") == ["cleaning", "comprehensive"]
    assert completed(project, "spanbus run --only fast") == ["fast_hooks"]
    assert completed(project, "spanbus replay x --dialect c") == ["crackerjack"]


def test_stored_runs_are_completed(project: Cli) -> None:
    assert completed(project, "spanbus show ") == ["last"]
    project("exec", "--", "true")
    run_id = json.loads(project("runs", "--json").out)[0]["run_id"]
    for line in ("spanbus show ", "spanbus report ", "spanbus diff last "):
        assert completed(project, line) == ["last", run_id]


@pytest.mark.parametrize("toml", ["[workflows.w\n", 'bogus = 1\n', '[workflows.w]\nphases = 3\n'])
def test_settings_that_cannot_be_used_complete_to_nothing(cli: Cli, toml: str) -> None:
    (cli.folder / "spanbus.toml").write_text(toml)
    assert completed(cli, "spanbus run --only ") == []
