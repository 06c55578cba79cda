"""Parsing only the part of a file that has the settings gives the same result as parsing the whole file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spanbus._settings import load_settings
from spanbus._settings.part import settings_part

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
@example('[tool.spanbus]\npayload_allow = [\n["a"],\n]', False)
@example('events = "both"\n[workflows.a]', True)
@example('[project] # \u2028[tool.spanbus]\u2028events = "log"', False)
def test_the_parsed_part_has_the_same_settings_as_the_whole_file(
    text: str, whole_file: bool
) -> None:
    part = settings_part(text, whole_file=whole_file)
    try:
        whole = tomllib.loads(text)
        found = tomllib.loads(part) if part is not None else whole
    except ValueError:
        return  # then the whole is parsed, and what is wrong with it told
    table = _ours(whole, whole_file=whole_file)
    if table is not None and part is not None:
        table = {key: value for key, value in table.items() if key != "workflows"}
    assert _ours(found, whole_file=whole_file) == table


def _ours(document: Mapping[str, object], *, whole_file: bool) -> Mapping[str, object] | None:
    if whole_file:
        return document
    tool = document.get("tool")
    table = cast("Mapping[str, object]", tool).get("spanbus") if isinstance(tool, dict) else None
    return cast("Mapping[str, object] | None", table)


USUAL = (
    '[project]\nname = "x"\n\n[tool.spanbus]\ndefault_workflow = "check" # of two\npayload_allow = ["a"]\n'
    '[tool.spanbus.workflows.check]\nphases = [\n  { name = "a", run = "true" },\n]\n[tool.ruff]\nx = 1\n'
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (USUAL, '[tool.spanbus]\ndefault_workflow = "check" # of two\npayload_allow = ["a"]'),
        ("[tool.spanbus.workflows.check]\nphases = []\n", "[tool.spanbus]"),
        ("[project]\n", None),
    ],
)
def test_usual_files_are_parsed_in_part(text: str, part: str | None) -> None:
    assert settings_part(text, whole_file=False) == part


def test_settings_are_the_same_with_and_without_workflows(tmp_path: Path) -> None:
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
