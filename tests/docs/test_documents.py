"""Python in README and docs runs; TOML in them loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{path.name}:{path.read_text()[: match.start()].count(chr(10)) + 1}", match[2])
        for path in DOCUMENTS for match in _BLOCK.finditer(path.read_text()) if match[1] == language
    ]


def test_there_are_as_many_examples_as_we_think() -> None:
    assert len(blocks("python")) >= 3
    assert blocks("pycon") == []


@pytest.mark.parametrize(("where", "code"), blocks("python"), ids=[where for where, _ in blocks("python")])
def test_python_example(where: str, code: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "SPANBUS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**env, "SPANBUS_STATE_DIR": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), where


@pytest.mark.parametrize(("where", "text"), blocks("toml"), ids=[where for where, _ in blocks("toml")])
def test_toml_example(where: str, text: str) -> None:
    assert tomllib.loads(text), where


def test_the_workflow_of_the_readme_can_be_built(tmp_path: Path) -> None:
    from spanbus.settings import load_settings

    [text] = [text for where, text in blocks("toml") if where.startswith("README") and "workflows.standard" in text]
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    assert [phase.name for phase in load_settings(file, env={}).workflow("standard").phases] == ["fast_hooks", "cleaning", "comprehensive", "tests"]


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*DOCUMENTS, *(ROOT / "docs" / "decisions").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
