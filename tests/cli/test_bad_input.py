"""Invalid input is one line and exit code 2, without a traceback or loss of data."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli

OK = '[workflows.w]\nphases = [ { name = "a", run = "true" } ]\n'


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("spanbus: ")
    return lines[0]


@pytest.mark.parametrize(
    ("toml", "line", "said"),
    [
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true" needs = [] },\n]\n',
            3,
            "is not TOML",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true", neds = [] },\n]\n',
            3,
            "did you mean 'needs'",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true", needs = ["b"] },\n  { name = "b", run = "true", needs = ["a"] },\n]\n',
            3,
            "cycle",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true" },\n  { name = "a", run = "true" },\n]\n',
            4,
            "two phases named 'a'",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true", needs = ["bb"] },\n  { name = "b", run = "true" },\n]\n',
            3,
            "did you mean 'b'",
        ),
        ('[workflows.w]\nphases = [\n\n  { name = "a" },\n]\n', 4, "nothing to do"),
        (
            '[workflows.w]\nphases = [\n  { name = "a", action = "test_workflow" },\n]\n',
            3,
            "nothing to do: run is missing",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", action = "fast_hooks" },\n]\n',
            3,
            "nothing to do: hooks are missing",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "echo \'open" },\n]\n',
            3,
            "cannot be split",
        ),
        (
            '[workflows.w]\nphases = [\n  { name = "a", run = "true", timeout = "soon" },\n]\n',
            3,
            "timeout",
        ),
        ('[[workflows.w.phases]]\nname = "a"\nrun = "true"\nretries = "two"\n', 4, "whole number"),
        (
            '[[workflows.w.phases]]\nname = "a"\naction = "fast_hoks"\nrun = "true"\n',
            3,
            "did you mean 'fast_hooks'",
        ),
    ],
)
def test_invalid_settings_are_reported_with_file_line_and_key(
    cli: Cli, toml: str, line: int, said: str
) -> None:
    (cli.folder / "spanbus.toml").write_text(toml)
    done = cli("run")
    assert done.code == 2
    assert f"spanbus.toml:{line}:" in one_line(done.err)
    assert said in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SPANBUS_EVENT": "span"}, "did you mean SPANBUS_EVENTS"),
        ({"SPANBUS_EVENTS": "spans"}, "span, log or both"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "long"}, "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "gamma"}, "cumulative"),
    ],
)
def test_invalid_variables_are_reported_with_a_remedy(
    cli: Cli, env: dict[str, str], said: str
) -> None:
    (cli.folder / "spanbus.toml").write_text(OK)
    refused = cli("status", env=env)
    assert refused.code == 2
    assert said in one_line(refused.err)
    done = cli("run", env=env)
    assert done.code == 0
    assert said in done.err.splitlines()[0]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('evnts = "span"\n' + OK, "did you mean events"),
        ('events = "never"\n' + OK, "span, log or both"),
    ],
)
def test_a_run_needs_only_the_table_of_its_workflow(cli: Cli, toml: str, said: str) -> None:
    (cli.folder / "spanbus.toml").write_text(toml)
    refused = cli("status")
    assert refused.code == 2
    assert "spanbus.toml:1:" in one_line(refused.err)
    assert said in refused.err
    done = cli("run")
    assert done.code == 0
    assert said in one_line(done.err)


def test_unknown_names_and_files_are_one_line_and_exit_code_2(project: Cli) -> None:
    for *arguments, missing in (
        ["run", "nightly"],
        ["run", "--only", "tsts"],
        ["run", "--file", "nowhere.toml"],
        ["replay", "nowhere.jsonl"],
        ["replay", "spanbus.toml", "--dialect", "klingon"],
        ["run", "--record", "no/such/folder/x"],
    ):
        done = project(*arguments, missing)
        assert done.code == 2, arguments
        assert missing in one_line(done.err)


def test_an_unknown_run_is_one_line_and_exit_code_1(project: Cli) -> None:
    empty = project("show")
    assert (empty.code, "spanbus run" in one_line(empty.err)) == (1, True)
    project("run", "-q")
    done = project("show", "nothing-like-this")
    assert done.code == 1
    assert "nothing-like-this" in one_line(done.err)


def test_without_any_workflow_the_error_has_a_remedy(cli: Cli) -> None:
    done = cli("run", "--file", str(_written(cli.folder / "spanbus.toml", 'events = "span"\n')))
    assert done.code == 2
    assert "spanbus exec" in one_line(done.err)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_that_cannot_be_replayed_is_one_line(cli: Cli) -> None:
    (cli.folder / "garbage").write_bytes(bytes(range(256)) * 40)
    (cli.folder / "empty").write_bytes(b"")
    (cli.folder / "half.gz").write_bytes(gzip.compress(b'{"type": "a.started"}\n' * 1_000)[:40])
    for name in ("garbage", "empty", "half.gz"):
        done = cli("replay", name)
        assert (done.code, done.out) == (2, "")
        assert one_line(done.err).startswith(f"spanbus: {name}")


def test_a_broken_line_is_reported_and_the_rest_is_replayed(cli: Cli) -> None:
    good = [
        json.dumps({"type": "task.started", "event_id": "1", "payload": {"task": "lint"}}),
        json.dumps({"type": "task.failed", "event_id": "2", "payload": {"task": "lint"}}),
    ]
    (cli.folder / "s.jsonl").write_text(f"{good[0]}\n{{broken\n\n[1, 2]\n{good[1]}\n")
    done = cli("replay", "s.jsonl", "--dialect", "generic", "--json", "--dry-run")
    assert done.code == 0
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["s.jsonl:2", "s.jsonl:4"]
    totals = done.json()["totals"]
    assert isinstance(totals, dict)
    assert (totals["events_recorded"], totals["phase_failures"]) == (2, 1)


@pytest.mark.parametrize("content", ["garbage", "newer"])
def test_an_unusable_store_is_unchanged_and_no_run_is_lost(project: Cli, content: str) -> None:
    state = project.folder / "state"
    state.mkdir()
    store = state / "store.sqlite3"
    if content == "garbage":
        store.write_bytes(b"this is no database" * 100)
    else:
        with sqlite3.connect(store) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
    before = store.read_bytes()
    for command in ("show", "runs", "status"):
        done = project(command)
        assert done.code == 2
        assert "store.sqlite3" in one_line(done.err)
        assert (command == "status") == ("state directory" in done.out)
    ran = project("run", "--json")
    assert ran.code == 1
    assert store.read_bytes() == before
    store.unlink()
    shown = project("show", "--json")
    assert shown.json()["run_id"] == ran.json()["runs"][0]["run_id"]  # type: ignore[index]


def test_a_broken_workflow_does_not_affect_others(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        WORKFLOW + '\n[workflows.broken]\nphases = [ { name = "x" } ]\n'
    )
    assert cli("run", "standard", "-q").code == 1
    assert cli("show").code == 0
    broken = cli("run", "broken")
    assert (broken.code, "workflows.broken.phases[0]" in one_line(broken.err)) == (2, True)


def test_markup_and_control_characters_in_names_are_escaped(cli: Cli) -> None:
    name = "[red]x[/red]\x1b[31m\u202eevil\x07"
    (cli.folder / "spanbus.toml").write_text(
        f"[workflows.w]\nphases = [ {{ name = {json.dumps(name)}, run = ['sh', '-c', 'printf \"\\\\033[2J\"; exit 1'] }} ]\n"
    )
    done = cli("run")
    assert done.code == 1
    for text in (done.out, done.err, cli("show").out, cli("show", "--events").out, cli("runs").out):
        assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "[red]x[/red]" in done.out


UNREACHABLE = "a" * 300
"""No name of a folder may be so long: the system refuses it as it refuses root nothing else."""


@pytest.mark.parametrize(
    "words", ["runs", "show", "logs", "status", "flush", "report -o -", "diff last last~1"]
)
def test_an_unreachable_state_directory_is_one_line(cli: Cli, words: str) -> None:
    done = cli(*words.split(), env={"SPANBUS_STATE_DIR": f"/tmp/{UNREACHABLE}"})
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err).endswith(": File name too long")


def test_a_workflow_runs_without_a_reachable_state_directory(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(OK)
    done = cli("run", env={"SPANBUS_STATE_DIR": f"/tmp/{UNREACHABLE}"})
    assert done.code == 0
    assert "success" in done.out
    lines = done.err.splitlines()  # what it means for the run, and at the end what is lost
    assert len(lines) <= 2
    assert all(line.startswith("spanbus: ") and "File name too long" in line for line in lines)
