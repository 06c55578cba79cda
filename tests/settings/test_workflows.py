"""Workflows in TOML: selection of one, and errors with file, key and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from spanbus._settings import load_settings
from spanbus.errors import SettingsError

HEAD = """\
[project]
name = "x"

[tool.spanbus.workflows.good]
phases = [{ name = "lint", run = "ruff check ." }]

"""


def failing(folder: Path, text: str, name: str | None = "bad") -> str:
    (folder / "pyproject.toml").write_text(HEAD + text, encoding="utf-8")
    settings = load_settings(cwd=folder, env={})
    assert settings.workflow("good").phases[0].name == "lint"
    with pytest.raises(SettingsError) as caught:
        settings.workflow(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  { name = "a", run = "true", needs = ["b"] },\n  { name = "b", run = "true", needs = ["a"] },\n]\n',
            (9, 10),
            "has a dependency cycle",
        ),
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  { name = "a", run = "true" },\n  { name = "b", run = "true", needs = ["c"] },\n]\n',
            (10,),
            "needs 'c'",
        ),
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  { name = "a", run = "true" },\n\n  { name = "a", run = "true" },\n]\n',
            (11,),
            "two phases named 'a'",
        ),
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  { name = "a", run = "true", tiemout = "1m" },\n]\n',
            (9,),
            "did you mean 'timeout'?",
        ),
        (
            '[[tool.spanbus.workflows.bad.phases]]\nname = "a"\nrun = "true"\n\n[[tool.spanbus.workflows.bad.phases]]\nname = "b"\nrun = "true"\nretries = "two"\n',
            (14,),
            "retries",
        ),
        (
            (
                '[[tool.spanbus.workflows.bad.phases]]\nname = "a"\naction = "fast_hooks"\n\n[[tool.spanbus.workflows.bad.phases.hooks]]\nname = "r"\nrun = "ruff"\n\n'
                '[[tool.spanbus.workflows.bad.phases.hooks]]\nname = "s"\ntimout = 3\nrun = "x"\n'
            ),
            (17,),
            "did you mean 'timeout'?",
        ),
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  # a comment with ] and { in it\n  { name = "a", run = """\ntrue\n""", when = "never" },\n]\n',
            (12,),
            "when must be",
        ),
        (
            '[tool.spanbus.workflows.bad]\nphases = [\n  { name = "a" },\n]\n',
            (9,),
            "run is missing",
        ),
        ("[tool.spanbus.workflows.bad]\n", (7,), "list of tables named phases"),
        ('[tool.spanbus.workflows]\nbad = "text"\n', (8,), "not a table"),
    ],
)
def test_a_broken_workflow_is_reported_with_its_line_and_others_work(
    tmp_path: Path, text: str, line: tuple[int, ...], expected: str
) -> None:
    message = failing(tmp_path, text)
    assert message.startswith(tuple(f"{tmp_path / 'pyproject.toml'}:{one}: " for one in line)), (
        message
    )
    assert expected in message


def test_an_unknown_workflow_lists_the_names(tmp_path: Path) -> None:
    assert "no workflow 'god'; did you mean good?; there are good" in failing(tmp_path, "", "god")


def workflows(folder: Path, *names: str, head: str = "") -> Path:
    (folder / "spanbus.toml").write_text(
        head
        + "".join(
            f'[workflows."{name}"]\nphases = [{{ name = "p", run = "true" }}]\n' for name in names
        ),
        encoding="utf-8",
    )
    return folder


def test_the_only_workflow_needs_no_name(tmp_path: Path) -> None:
    assert load_settings(cwd=workflows(tmp_path, "my.flow"), env={}).workflow().name == "my.flow"


def test_the_workflow_named_default_is_the_default(tmp_path: Path) -> None:
    assert (
        load_settings(cwd=workflows(tmp_path, "a", "default"), env={}).workflow().name == "default"
    )


def test_default_workflow_overrides_the_one_named_default(tmp_path: Path) -> None:
    assert (
        load_settings(
            cwd=workflows(tmp_path, "a", "default", head='default_workflow = "a"\n'), env={}
        )
        .workflow()
        .name
        == "a"
    )


def test_several_workflows_without_a_default_are_an_error_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"which workflow\? There are a, b"):
        load_settings(cwd=workflows(tmp_path, "a", "b"), env={}).workflow()


def test_a_missing_default_workflow_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no workflow 'nights'; did you mean night"):
        load_settings(
            cwd=workflows(tmp_path, "night", head='default_workflow = "nights"\n'), env={}
        ).workflow()


def test_without_any_workflow_it_says_how_to_add_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no workflow is defined; add .*spanbus exec"):
        load_settings(cwd=tmp_path, env={}).workflow()


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ('celery = "build"', "must name a task as \"module:task\", not 'build'"),
        ('celery = "tasks.py:build"', None),
        ('celery = "../tasks:build"', 'must name a task as "module:task"'),
        ("celery = 3", 'must name a task as "module:task", not 3'),
        ('celery = "tasks:build", run = "true"', "a phase whose work a task does has no run"),
        ('celery = "tasks:build", action = "command"', "has no action"),
        ('celery = "tasks:build", args = "main"', "must be an array"),
        ('celery = "tasks:build", kwargs = []', "must be a table"),
        ('celery = "tasks:build", queue = 3', "must be the name of a queue"),
        (
            'run = "true", queue = "builders"',
            'queue is for a task; name it by celery = "module:task"',
        ),
    ],
)
def test_a_task_is_named_by_module_and_name(
    phase: str, expected: str | None, tmp_path: Path
) -> None:
    text = f'[tool.spanbus.workflows.bad]\nphases = [{{ name = "build", {phase} }}]\n'
    if expected is not None:
        assert expected in failing(tmp_path, text)
        return
    (tmp_path / "pyproject.toml").write_text(HEAD + text, encoding="utf-8")
    [found] = load_settings(cwd=tmp_path, env={}).workflow("bad").phases
    assert found.type == "celery", "nothing is imported before a run"
