"""Without extras the base commands work, and others name the extra they need."""

from __future__ import annotations

import os

import pytest
from command_line import WORKFLOW, Cli

EXTRAS = ("starlette", "uvicorn", "h11", "websockets", "prometheus_client", "mcp", "nats", "celery")
MISSING = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A folder with a workflow that ran twice, and a Python without the packages of the extras."""
    tmp_path = tmp_path_factory.mktemp("bare")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(MISSING)
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    before = os.environ.get("PYTHONPATH")
    cli = Cli(
        tmp_path,
        {"PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), *([before] if before else [])])},
    )
    assert cli("run", "--quiet").code == 1
    assert cli("run", "--quiet").code == 1
    return cli


def test_commands_that_show_runs_need_no_extra(bare: Cli) -> None:
    for command in (
        "runs",
        "runs --json",
        "show",
        "show last --json",
        "show --events",
        "show --otlp",
        "report --markdown",
        "report -o run.html",
        "status",
        "status --json",
        "flush",
        "metrics",
        "doctor --timeout 1",
        "--help",
    ):
        done = bare(*command.split())
        assert (done.code, "ModuleNotFoundError" in done.out + done.err) == (0, False), (
            command,
            done,
        )
    assert "ModuleNotFoundError" not in bare("diff", "last", "last").err
    assert "fast_hooks" in bare("show").out


@pytest.mark.parametrize(
    ("command", "extra"), [("up --port 0", "backend"), ("view", "backend"), ("mcp", "mcp")]
)
def test_commands_that_need_an_extra_name_it(bare: Cli, command: str, extra: str) -> None:
    done = bare(*command.split())
    assert done.code == 2
    assert f"pip install 'spanbus[{extra}]'" in done.err
