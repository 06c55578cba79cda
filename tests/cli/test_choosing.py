"""Selection of workflows, phases, arguments and projects."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli, Json

WORKFLOW = """
[workflows.w]
description = "what CI runs"
phases = [
  { name = "package", run = "touch package", needs = ["tests", "lint"] },
  { name = "lint", run = "touch lint", description = "static checks" },
  { name = "build", run = "touch build" },
  { name = "tests", run = "sh -c 'echo \\"$@\\" > tests' sh {args:-q}", needs = ["build"], retries = 2, timeout = "1m" },
]
[workflows.broken]
phases = [ { name = "a", run = "true && false" } ]
"""


@pytest.fixture
def day(cli: Cli) -> Cli:
    (cli.folder / "spanbus.toml").write_text(WORKFLOW)
    cli.env["COLUMNS"] = "80"
    return cli


def made(cli: Cli) -> set[str]:
    return {path.name for path in cli.folder.iterdir()} & {"package", "lint", "build", "tests"}


def results(cli: Cli) -> dict[str, str]:
    phases = cast("list[Json]", cli("show", "--json").json()["phases"])
    return {str(phase["name"]): str(phase["result"]) for phase in phases}


def test_list_shows_workflows_and_phases_and_runs_nothing(day: Cli) -> None:
    listed = day("run", "--list")
    assert listed.code == 0
    assert "build, lint, tests, package" not in listed.out.splitlines()[0]
    assert "lint, build, tests, package  what CI runs" in listed.out
    assert "needs a shell" in listed.out
    one = day("run", "w", "--list").out
    assert "static checks" in one
    order = [
        line.split()[1] for line in day("run", "w", "--dry-run").out.splitlines() if ". " in line
    ]
    assert order == ["lint", "build", "tests", "package"]
    document = day("run", "w", "--dry-run", "--json").json()
    phases = cast("list[Json]", document["phases"])
    assert [phase["name"] for phase in phases] == order
    assert phases[2]["commands"] == [["sh", "-c", 'echo "$@" > tests', "sh", "-q"]]
    assert phases[2]["timeout_s"] == 60
    assert made(day) == set()
    assert not (day.folder / "state").exists()


def test_only_runs_a_phase_with_its_needs_and_reports_the_rest_in_one_line(day: Cli) -> None:
    done = day("run", "w", "--only", "tests", "--with-needs")
    assert made(day) == {"build", "tests"}
    assert done.out.count("package") == 2
    assert done.out.splitlines()[0] == "left out: package, lint"
    assert "left out: lint, package" in day("show").out
    assert results(day) == {
        "package": "skip",
        "lint": "skip",
        "build": "success",
        "tests": "success",
    }
    plan = day("run", "w", "--only", "tests", "--with-needs", "--dry-run").out
    assert "touch lint" not in plan
    assert "left out: package, lint" in plan


def test_arguments_replace_the_placeholder_of_a_phase(day: Cli) -> None:
    day("run", "w", "--only", "tests", "--", "-k", "a b", "--x")
    assert (day.folder / "tests").read_text() == "-k a b --x\n"
    day("run", "w", "--only", "tests")
    assert (day.folder / "tests").read_text() == "-q\n"
    (day.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = "true" } ]\n'
    )
    refused = day("run", "--", "x")
    assert (refused.code, "{args}" in refused.err) == (2, True)


def test_jobs_limits_the_concurrent_phases(cli: Cli) -> None:
    alone = "sh -c 'mkdir busy && sleep 0.05 && rmdir busy'"
    phases = ", ".join(f'{{ name = "p{n}", run = "{alone}" }}' for n in range(4))
    (cli.folder / "spanbus.toml").write_text(f"[workflows.w]\nphases = [ {phases} ]\n")
    assert cli("run", "-q", "-j", "1").code == 0
    assert cli("run", "-j", "0").code == 2


def test_the_description_of_a_phase_is_in_the_tree(day: Cli) -> None:
    assert "static checks" in day("run", "w", "-q", "--only", "lint").out
    assert "static checks" in day("show").out


def test_an_unknown_key_is_an_error_that_lists_the_known_ones(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = "true", timout = 1, } ]\n'.replace(
            ", }", " }"
        )
    )
    said = cli("run").err
    assert "unknown key 'timout'; did you mean 'timeout'?; known are name, action, hooks" in said
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", action = "tst", run = "true" } ]\n'
    )
    assert "unknown action 'tst'; there are fast_hooks, code_cleaning" in cli("run").err


def test_the_first_attempt_of_a_retryable_phase_is_shown_from_the_start(day: Cli) -> None:
    day("run", "w", "-q")
    phases = {str(p["name"]): p for p in cast("list[Json]", day("show", "--json").json()["phases"])}
    [attempt] = cast("list[Json]", phases["tests"]["children"])
    assert attempt["kind"] == "attempt"
    assert [child["kind"] for child in cast("list[Json]", attempt["children"])] == ["command"]
    assert "attempt" not in day("show").out
    assert [child["kind"] for child in cast("list[Json]", phases["lint"]["children"])] == [
        "command"
    ]


@pytest.fixture
def projects(tmp_path: Path) -> tuple[Cli, Cli]:
    """Two projects of one user, each with a workflow ``default``."""
    made: list[Cli] = []
    for name in ("shop", "bank"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\n[tool.spanbus.workflows.default]\nphases = [ {{ name = "check", run = "echo {name}" }} ]\n'
        )
        made.append(Cli(folder, {"SPANBUS_STATE_DIR": str(tmp_path / "state")}))
    return made[0], made[1]


def listed(cli: Cli, *arguments: str) -> list[Json]:
    return cast("list[Json]", json.loads(cli("runs", "--json", *arguments).out))


def test_projects_with_equal_workflow_names_are_kept_apart(projects: tuple[Cli, Cli]) -> None:
    shop, bank = projects
    assert shop("run", "-q").code == 0
    nothing = bank("show")
    assert (nothing.code, "--all" in nothing.err, "bank" in nothing.err) == (1, True, True)
    assert bank("runs").code == 1
    bank("run", "-q")
    bank("run", "-q")
    assert [run["project"] for run in listed(shop)] == ["shop"]
    assert [run["project"] for run in listed(bank)] == ["bank", "bank"]
    assert [run["project"] for run in listed(shop, "--all")] == ["bank", "bank", "shop"]
    assert shop("show", "--json").json()["run_id"] == listed(shop)[0]["run_id"]
    assert shop("show", "last~1").code == 1
    assert shop("show", "--all", "--json").json()["run_id"] == listed(bank)[0]["run_id"]
    assert shop("show", str(listed(bank)[0]["run_id"]), "--json").code == 0
    assert shop("logs").out == "shop\n"
    assert bank("logs").out == "bank\n"
    assert shop("diff", "last~1", "last").code == 1
    assert bank("diff", "--fail-on", "none", "last~1", "last").code == 0
    assert "bank  " in shop("runs", "--all").out


def test_the_service_name_is_the_project(projects: tuple[Cli, Cli]) -> None:
    shop, _ = projects
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(shop.folder)], check=True)
    shop("run", "-q", "--attr", "team=core", "--attr", "a.b=c=d")
    spans = cast("list[Json]", shop("show", "--otlp").json()["resourceSpans"])
    resource = cast("Json", spans[0]["resource"])
    said = {
        str(pair["key"]): next(iter(cast("dict[str, object]", pair["value"]).values()))
        for pair in cast("list[Json]", resource["attributes"])
    }
    assert said["service.name"] == "shop"
    assert said["vcs.ref.head.name"] == "trunk"
    assert (said["team"], said["a.b"]) == ("core", "c=d")
    assert said["host.name"]
    assert int(str(said["process.pid"])) > 0
    shop("run", "-q", env={"OTEL_SERVICE_NAME": "given"})
    assert listed(shop, "--all")[0]["project"] == "given"
    assert shop("run", "--attr", "nonsense").code == 2


def test_a_nightly_job_is_a_new_run_each_time(cli: Cli) -> None:
    events: list[Json] = []
    for day, word in enumerate(("failed", "completed")):
        at = 1_764_324_000 + 86_400 * day
        for after, kind, said in [
            (0, "job.started", {}),
            (1, "task.started", {"task": "fetch"}),
            (5, f"task.{word}", {"task": "fetch"}),
            (6, f"job.{word}", {}),
        ]:
            payload = {"job_id": "nightly", "job": "backup", **said}
            events.append({"event_type": kind, "timestamp": at + after, "payload": payload})
    stream = cli.folder / "events.jsonl"
    stream.write_text("\n".join(json.dumps(event) for event in events))
    assert cli("replay", "events.jsonl", "--dialect", "generic").code == 0
    runs = cast("list[Json]", json.loads(cli("runs", "--all", "--json").out))
    told = [(run["run_id"], run["workflow"], run["result"]) for run in runs]
    assert told == [("nightly", "backup", "success"), ("nightly", "backup", "failure")]
    assert len({str(run["trace_id"]) for run in runs}) == 2
    assert cli("show", "nightly", "--json").json()["result"] == "success"  # the last of that id
