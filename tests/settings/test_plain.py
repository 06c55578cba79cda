"""Settings that are read without parsing the whole file are those that a parser finds."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli
from hypothesis import example, given
from hypothesis import strategies as st

from spanbus._settings import load_settings
from spanbus._settings.plain import plain_settings

LINES = (
    "[tool.spanbus]",
    "[tool.spanbus] # ours",
    "[ tool.spanbus ]",
    '["tool".spanbus]',
    "[tool.'spanbus']",
    "[tool]",
    "[tool.spanbus.workflows.a]",
    "[[tool.spanbus.workflows.b.phases]]",
    "[tool.spanbus.dialects]",
    "[tool.spanbusy]",
    "[tool.ruff]",
    "[project]",
    "[workflows.a]",
    'spanbus.events = "log"',
    'tool.spanbus.events = "log"',
    "tool = { spanbus = { events = 'log' } }",
    'events = "both"',
    'events = "both" # "all" of them',
    "events = 'log'",
    'events = "l\\u006fg"',
    '"events" = "log"',
    "redact = false",
    "redact=true# yes",
    "store_days = 12",
    "store_days = 0x12",
    "store_days = 1_2",
    "store_days = 012",
    'payload_allow = ["a", "b"]',
    "payload_allow = [",
    '  "[tool.spanbus]",',
    '  ["tool"],',
    "]",
    'text = """',
    "text = '''",
    '"""',
    "'''",
    "# [tool.spanbus]",
    "",
)
texts = st.lists(st.sampled_from(LINES), max_size=8).map("\n".join)


@given(texts, st.booleans())
@example("[tool.spanbus]\nevents = 'log'", False)
@example('[tool.spanbus]\nevents = "both"\n[tool.spanbus.workflows.a]\nx = [\n["y"]]', False)
@example('events = "both"\n[workflows.a]', True)
def test_what_is_read_plainly_is_what_a_parser_finds(text: str, whole_file: bool) -> None:
    plain = plain_settings(text, whole_file=whole_file)
    if plain is None:
        return
    try:
        table: object = tomllib.loads(text)
    except ValueError:
        return  # whoever parses it says so
    for name in () if whole_file else ("tool", "spanbus"):
        assert isinstance(table, Mapping)
        table = cast("Mapping[str, object]", table)[name]
    assert isinstance(table, Mapping)
    found = {**cast("Mapping[str, object]", table)}
    found.pop("workflows", None)
    assert plain == found


USUAL = (
    '[project]\nname = "x"\n\n[tool.spanbus]\ndefault_workflow = "check" # of two\nstore_days = 3\n'
    '[tool.spanbus.workflows.check]\nphases = [\n  { name = "a", run = "true" },\n]\n[tool.ruff]\nx = 1\n'
)


@pytest.mark.parametrize("text", [USUAL, "[tool.spanbus.workflows.check]\nphases = []\n"])
def test_the_usual_ones_need_no_parser(text: str) -> None:
    assert plain_settings(text, whole_file=False) is not None


def test_settings_without_workflows_are_those_with_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.spanbus]\nevents = "log"\n\n[tool.spanbus.workflows.check]\nphases = []\n'
    )
    whole = load_settings(env={}, cwd=tmp_path)
    plain = load_settings(env={}, cwd=tmp_path, workflows=False)
    assert (plain.events, plain.file, plain.origin["events"]) == (
        "log",
        whole.file,
        f"{tmp_path / 'pyproject.toml'}:2",
    )
    assert plain.tables == {}
    assert plain._replace(tables=whole.tables) == whole


def test_a_command_with_plain_settings_loads_no_parser(cli: Cli) -> None:
    (cli.folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\n[tool.spanbus]\nevents = "log"\n[tool.spanbus.workflows.a]\nphases = []\n'
    )
    program = (
        "import sys; sys.argv[0] = 'spanbus'; import os; leave = os._exit\n"
        "os._exit = lambda code: (print('tomllib' in sys.modules, flush=True), leave(code))\n"
        "from spanbus._cli import main; main()"
    )
    done = cli.run([sys.executable, "-c", program, "exec", "--", "true"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
