"""Python in README and docs runs; TOML in them loads."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import prepared
import pytest
from command_line import Cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{path.name}:{path.read_text()[: match.start()].count(chr(10)) + 1}", match[2])
        for path in DOCUMENTS
        for match in _BLOCK.finditer(path.read_text())
        if match[1] == language
    ]


def test_there_are_as_many_examples_as_we_think() -> None:
    assert len(blocks("python")) >= 3
    assert blocks("pycon") == []


def test_every_example_asserts_what_came_of_it() -> None:
    silent = [where for where, code in blocks("python") if "assert " not in code]
    assert silent == []


@pytest.mark.parametrize(
    ("where", "code"), blocks("python"), ids=[where for where, _ in blocks("python")]
)
def test_python_example(where: str, code: str, tmp_path: Path) -> None:
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "SPANBUS_"))
    }
    done = prepared.run(
        [],
        folder=tmp_path,
        env={**env, "SPANBUS_STATE_DIR": str(tmp_path)},
        stdin=None,
        timeout_s=60,
        code=f"import warnings; warnings.simplefilter('error')\n{code}",
        finalize=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), where


@pytest.mark.parametrize(
    ("where", "text"), blocks("toml"), ids=[where for where, _ in blocks("toml")]
)
def test_toml_example(where: str, text: str) -> None:
    assert tomllib.loads(text), where


def test_the_workflow_of_the_start_page_can_be_built(tmp_path: Path) -> None:
    from spanbus._settings import load_settings

    [text] = [
        text
        for where, text in blocks("toml")
        if where.startswith("index.md") and "workflows.standard" in text
    ]
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    assert [phase.name for phase in load_settings(file, env={}).workflow("standard").phases] == [
        "fast_hooks",
        "cleaning",
        "comprehensive",
        "tests",
    ]


def test_links_between_documents_lead_somewhere() -> None:
    followed = 0
    for path in [*DOCUMENTS, *(ROOT / "docs" / "decisions").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target:
                followed += 1
                assert (path.parent / target).exists(), f"{path.name}: {target}"
    assert followed > 100


def test_the_index_lists_every_decision() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (folder / "index.md").read_text(), re.MULTILINE)
    there = {path.name: path for path in folder.glob("[0-9]*.md")}
    assert [name for _, name in listed] == sorted(there)
    for title, name in listed:
        assert there[name].read_text().startswith(f"# {title}\n")


def commands() -> list[tuple[str, list[str]]]:
    """Every ``spanbus`` command of the shell blocks, its words up to a comment, an operator or the command that it runs."""
    found: list[tuple[str, list[str]]] = []
    for where, code in blocks("sh"):
        for line in re.findall(
            r"\bspanbus ([^\n]*)", re.sub(r"<<'END'\n.*?\nEND\n", "\n", code, flags=re.DOTALL)
        ):
            words = shlex.split(line, comments=True)
            ends = [words.index(each) for each in ("--", "|", "||", "&&", ">") if each in words]
            found.append((where, words[: min(ends, default=len(words))]))
    return [(where, words) for where, words in found if words]


@cache
def help_of(*command: str) -> str:
    env = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = Cli(ROOT, env)(*command, "--help")
    assert done.code == 0, (command, done.err)
    return done.out


def test_every_command_and_option_of_the_shell_blocks_exists() -> None:
    shown = commands()
    assert len(shown) > 30
    for where, (name, *words) in shown:
        command = [name, *words[:1]] if name in ("stack", "dialect") else [name]
        options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(*command)))
        asked = {word.split("=")[0] for word in words if word.startswith("-")}
        assert asked <= options, f"{where}: spanbus {' '.join([name, *words])}"
