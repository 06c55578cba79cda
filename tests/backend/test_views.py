"""Queries of the page: lists, phases over time, usual durations, comparison of runs, kept output."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

import pytest
from command_line import Cli, Json
from embedded import Up
from servers import eventually

from spanbus._backend.outputs import Outputs
from spanbus._backend.views import Views
from spanbus._store.output_reading import newest_run
from spanbus._store.store import Store

START_NS = (int(time.time()) - 3_600) * 10**9


class Run(Protocol):
    def body(self) -> bytes: ...


class Made(Protocol):
    def __call__(self, **options: object) -> Run: ...


@pytest.fixture
def views(tmp_path: Path, failing_runs: Made) -> Iterator[Views]:
    with Store.open(tmp_path / "store.sqlite3") as store:
        for number in (1, 2):
            run = failing_runs(
                number=number, run_id=f"run-{number}", start_ns=START_NS + number * 10**10
            )
            store.ingest("traces", run.body())
        yield Views(store)


def lists(document: Json | None, name: str) -> list[Json]:
    assert document is not None
    return cast("list[Json]", document[name])


def test_a_listed_run_has_its_phases_and_first_error(views: Views) -> None:
    found = views.runs(
        workflow=None, project=None, result=None, text=None, since_s=None, limit=10, offset=0
    )
    run = lists(found, "runs")[0]
    assert [phase[0] for phase in cast("list[list[str]]", run["phases"])] == [
        "fast_hooks",
        "cleaning",
        "tests",
        "publish",
    ]
    assert (run["failed_phase"], run["error"]) == ("tests", "unsuccessful")


def test_phases_are_of_a_project_and_count_passes_on_a_retry(views: Views) -> None:
    found = views.phases(since_s=86_400, workflow=None, project=None)
    phases = {str(phase["phase"]): phase for phase in lists(found, "phases")}
    assert phases["fast_hooks"]["flaky"] == 2
    assert {phase["project"] for phase in phases.values()} == {"spanbus"}
    other = views.phases(since_s=86_400, workflow=None, project="another")
    assert lists(other, "phases") == []


def test_the_history_of_a_phase_names_its_runs(views: Views) -> None:
    found = views.phase(project="spanbus", workflow="standard", phase="tests", since_s=86_400)
    assert found is not None
    points = cast("dict[str, list[list[object]]]", found["phase"])["points"]
    assert [point[3] for point in points] == ["run-1", "run-2"]
    assert views.phase(project="x", workflow="standard", phase="tests", since_s=86_400) is None


def test_without_a_success_there_are_no_usual_durations(views: Views) -> None:
    found = views.usual(workflow="standard", project=None)
    assert (found["runs"], found["run_s"], found["phases"]) == (0, None, {})


def test_two_runs_are_compared_as_diff_does(views: Views) -> None:
    found = views.diff("run-1", "run-2")
    assert found is not None
    assert [run["run_id"] for run in lists(found, "runs")] == ["run-1", "run-2"]
    changes = {str(phase["name"]): phase["change"] for phase in lists(found, "phases")}
    assert changes == {
        "fast_hooks": "same",
        "cleaning": "same",
        "tests": "still_failing",
        "publish": "same",
    }
    assert views.diff("run-1", "none") is None
    assert views.diff("", "run-1") is None


# --- over HTTP, with a real run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    cli = Cli(tmp_path_factory.mktemp("views"))
    (cli.folder / "spanbus.toml").write_text(
        "[workflows.w]\nphases = [\n"
        '  { name = "a", run = "sh -c \'echo out of a\'" },\n'
        '  { name = "b", needs = ["a"], run = "sh -c \'echo reason; exit 3\'" },\n]\n'
    )
    assert cli("run", "-q").code == 1
    one = Up(cli)
    yield one
    one.stop()


def asked(up: Up, path: str) -> Any:
    token = up.page.partition("token=")[2]
    request = urllib.request.Request(
        f"{up.url}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_the_output_of_a_run_is_listed_and_read(up: Up) -> None:
    [run] = asked(up, "/view/runs")["runs"]
    run_id = run["run_id"]
    assert (run["failed_phase"], run["error"]) == ("b", "sh ended with exit code 3")
    found = asked(up, f"/view/outputs?run={quote(run_id, safe='')}")["outputs"]
    assert [(each["phase"], each["ended"], each["exit_code"]) for each in found] == [
        ("a", True, 0),
        ("b", True, 3),
    ]
    first = asked(up, f"/view/output?run={run_id}&file={found[1]['file']}")
    assert (first["text"], first["running"], first["left_out"]) == ("reason\n", False, False)
    rest = asked(up, f"/view/output?run={run_id}&file={found[1]['file']}&after={first['at']}")
    assert rest["text"] == ""


def test_the_newest_line_is_of_the_running_command(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    state, go = Path(cli.environment()["SPANBUS_STATE_DIR"]), tmp_path / "go"
    spoken = "echo first; printf '%5000s\\n' x; echo; echo newest; echo ' '; printf half; until test -e on; do sleep 0.05; done; echo ' and whole'; until test -e go; do sleep 0.05; done"
    (tmp_path / "spanbus.toml").write_text(
        "[workflows.w]\nphases = [\n"
        '  { name = "ended", run = "echo over" },\n'
        f'  {{ name = "talks", needs = ["ended"], run = ["sh", "-c", {json.dumps(spoken)}] }},\n]\n'
    )
    process, outputs = cli.start("run", "-q"), Outputs(state)

    def lines(of: Outputs = outputs) -> object:
        return of.newest(newest_run(state, None) or "")["lines"]

    try:
        eventually(lambda: lines() == [{"phase": "talks", "tool": "sh", "line": "newest"}])
        assert lines() == [{"phase": "talks", "tool": "sh", "line": "newest"}]
        (tmp_path / "on").touch()
        eventually(lambda: lines() == [{"phase": "talks", "tool": "sh", "line": "half and whole"}])
        assert lines(Outputs(state, most_bytes=1)) == []  # more than is read for one line
    finally:
        (tmp_path / "on").touch()
        go.touch()
        process.communicate(timeout=60)
    assert lines() == []


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../..", "/etc/passwd", "%2e%2e", "a/../../b", "x" * 5_000, "\x00", "ü"]
)
def test_an_unknown_run_has_no_output(up: Up, run: str) -> None:
    assert asked(up, f"/view/outputs?run={quote(run, safe='')}")["outputs"] == []
    assert asked(up, f"/view/newest?run={quote(run, safe='')}")["lines"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/view/output?run=last&file=../store.sqlite3",
        "/view/output?run=none&file=1",
        "/view/phase?phase=none",
        "/view/diff?baseline=x&candidate=y",
    ],
)
def test_unknown_runs_and_files_are_a_404(up: Up, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        asked(up, path)
    with error.value:
        assert error.value.code == 404


@pytest.mark.parametrize(
    "path",
    ["/view/outputs", "/view/output", "/view/newest", "/view/diff", "/view/usual", "/view/phase"],
)
def test_views_need_the_token(up: Up, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{up.url}{path}?run=last", timeout=20)
    with error.value:
        assert error.value.code == 401
