"""docs/settings.md lists every setting, and its example can be loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spanbus._settings import OTEL_VARIABLES, SETTINGS, Setting, load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_its_row(setting: Setting) -> None:
    variable = f"`{setting.env}`" if setting.env is not None else "–"
    assert f"| `{setting.name}` | {variable} | {setting.default} | {setting.brief} |" in PAGE


def test_every_row_has_its_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`SPANBUS_\w+`|–) \|", PAGE, re.MULTILINE)
    assert rows == [*(setting.name for setting in SETTINGS), "workflows"]


@pytest.mark.parametrize("variable", OTEL_VARIABLES)
def test_every_checked_variable_is_on_the_page(variable: str) -> None:
    assert f"`{variable}`" in PAGE


def test_the_example_can_be_loaded(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(example)
    settings = load_settings(cwd=tmp_path, env={})
    assert (settings.redact_patterns, settings.ignored) == (("ACME-[0-9]{6}",), ())
    assert [phase.name for phase in settings.workflow().phases] == ["lint", "tests"]
