"""`spanbus report` and `spanbus diff` as CI jobs use them: files, exit codes, JSON and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import pytest
from command_line import Cli, Json
from terminal import Terminal

from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000


class Run(Protocol):
    run_id: str

    def body(self) -> bytes: ...

    def span(
        self, level: str, name: str, start_ms: float, length_ms: float, **more: object
    ) -> object: ...


Made = Callable[..., Run]
Phases = dict[str, tuple[float, str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def keep(cli: Cli, *runs: Run) -> None:
    with Store.open(cli.folder / "state" / "store.sqlite3") as store:
        for run in runs:
            store.ingest("traces", run.body())


def run_of(empty_runs: Made, number: int, phases: Phases) -> Run:
    """Return the run `run-N` from phases by name with milliseconds and result."""
    run = empty_runs(number=number, run_id=f"run-{number}", start_ns=START_NS + number * 10**11)
    failed = any(result == "failure" for _, result in phases.values())
    top = run.span(
        "run",
        "standard",
        0,
        sum(length for length, _ in phases.values()),
        result="failure" if failed else "success",
    )
    at = 0.0
    for name, (length, result) in phases.items():
        run.span("phase", name, at, length, parent=top, result=result)
        at += length
    return run


OK = "success"
USUAL: Phases = {"lint": (1_000, OK), "tests": (5_000, OK)}


@pytest.mark.parametrize(("after", "options", "code", "regressions", "change"), [
    (USUAL, [], 0, [], "same"),
    ({"lint": (1_000, OK), "tests": (9_000, OK)}, [], 1, ["tests"], "slower"),
    ({"lint": (1_000, OK), "tests": (9_000, OK)}, ["--threshold", "90%"], 0, [], "same"),
    ({"lint": (1_000, OK), "tests": (9_000, OK)}, ["--at-least", "5"], 0, [], "same"),
    ({"lint": (1_000, OK), "tests": (9_000, OK)}, ["--fail-on", "failing"], 0, [], "slower"),
    ({"lint": (1_000, OK), "tests": (5_000, "failure")}, [], 1, ["tests"], "newly_failing"),
    ({"lint": (1_000, OK), "tests": (5_000, "failure")}, ["--fail-on", "slower"], 0, [], "newly_failing"),
    ({"lint": (1_000, OK), "tests": (5_000, "failure")}, ["--fail-on", "none"], 0, [], "newly_failing"),
    ({"lint": (1_000, OK), "tests": (1_000, OK)}, [], 0, [], "faster"),
    ({"lint": (1_000, OK), "tests": (0, "skip")}, [], 0, [], "not_run"),
    ({"lint": (1_000, OK), "tests": (0, "skip")}, ["--fail-on", "not_run"], 1, ["tests"], "not_run"),
    ({"lint": (1_000, OK)}, ["--fail-on", "gone"], 1, ["tests"], "gone"),
])  # fmt: skip
def test_diff_shows_the_change_of_a_phase_and_sets_the_exit_code(
    cli: Cli,
    empty_runs: Made,
    after: Phases,
    options: list[str],
    code: int,
    regressions: list[str],
    change: str,
) -> None:
    keep(cli, run_of(empty_runs, 1, USUAL), run_of(empty_runs, 2, after))
    done = cli("diff", "run-1", "run-2", "--json", *options)
    assert done.code == code
    document = done.json()
    assert document["regressions"] == regressions
    phases = {str(phase["name"]): phase for phase in cast("list[Json]", document["phases"])}
    assert phases["tests"]["change"] == change
    assert cli("diff", "run-1", "run-2", *options).code == code


def test_a_new_phase_that_fails_is_a_failure(cli: Cli, empty_runs: Made) -> None:
    keep(
        cli,
        run_of(empty_runs, 1, USUAL),
        run_of(empty_runs, 2, {**USUAL, "publish": (10, "failure")}),
        run_of(empty_runs, 3, {**USUAL, "docs": (10, OK)}),
    )
    assert cli("diff", "run-1", "run-2", "--json").json()["regressions"] == ["publish"]
    assert cli("diff", "run-1", "run-3").code == 0
    assert cli("diff", "run-1", "run-3", "--fail-on", "new").code == 1


def test_the_noise_is_computed_from_several_baselines(cli: Cli, empty_runs: Made) -> None:
    for number, length in enumerate((4_000, 6_500, 5_000, 3_500, 6_000), 1):
        keep(cli, run_of(empty_runs, number, {"tests": (length, OK)}))
    keep(
        cli,
        run_of(empty_runs, 8, {"tests": (7_000, OK)}),
        run_of(empty_runs, 9, {"tests": (20_000, OK)}),
    )
    baseline = [f"run-{number}" for number in range(1, 6)]
    assert cli("diff", "run-3", "run-8").code == 1  # against one run it looks slower
    within = cli("diff", *baseline, "run-8", "--json")
    assert (within.code, within.json()["baseline"]) == (0, baseline)
    assert cast("list[Json]", within.json()["phases"])[0]["noise_s"]
    assert cli("diff", *baseline, "run-9").code == 1


def test_the_table_has_phases_durations_and_changes(cli: Cli, empty_runs: Made) -> None:
    keep(
        cli,
        run_of(empty_runs, 1, USUAL),
        run_of(empty_runs, 2, {"lint": (3_000, OK), "tests": (5_000, "failure")}),
    )
    out = cli("diff", "run-1", "last").out
    assert re.search(r"lint\s+1\.00\s?s → +3\.00\s?s\s+x3\.00\s+slower", out), out
    assert re.search(r"tests.*newly failing\s+success → failure", out), out


def test_a_diff_of_two_workflows_has_both_names(cli: Cli, empty_runs: Made) -> None:
    keep(cli, run_of(empty_runs, 1, USUAL))
    other = empty_runs(number=2, run_id="run-2", workflow="nightly", start_ns=START_NS + 10**11)
    other.span("phase", "lint", 0, 1_000, parent=other.span("run", "nightly", 0, 1_000))
    keep(cli, other)
    done = cli("diff", "run-1", "run-2")
    assert done.out.splitlines()[0].startswith("standard → nightly: ")
    assert re.search(r"^  whole run +6\.00 s → +1\.00 s", done.out, re.MULTILINE), done.out
    assert "different workflows" in done.err
    document = cli("diff", "run-1", "run-2", "--json").json()
    assert (document["workflow"], document["baseline_workflows"]) == ("nightly", ["standard"])


def test_an_unknown_result_is_compared_as_no_run(cli: Cli, empty_runs: Made) -> None:
    keep(
        cli,
        run_of(empty_runs, 1, USUAL),
        run_of(empty_runs, 2, {"lint": (1_000, OK), "tests": (1_000, "\x1b[31mbanana")}),
    )
    done = cli("diff", "run-1", "run-2")
    assert done.code == 0
    assert re.search(r"tests.*not run  success → \\u001b\[31mbanana", done.out), done.out


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["run-1"], 2, "at least two"), (["run-1", "nobody"], 1, "nobody"), (["run-1", "run-1", "--fail-on", "everything"], 2, "everything"),
    (["run-1", "run-1", "--threshold", "much"], 2, "much"), (["run-1", "run-1", "--at-least", "-1"], 2, "-1"),
])  # fmt: skip
def test_runs_that_cannot_be_compared_are_one_line(
    cli: Cli, empty_runs: Made, arguments: list[str], code: int, said: str
) -> None:
    keep(cli, run_of(empty_runs, 1, USUAL))
    done = cli("diff", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_a_report_is_written_to_the_working_directory_named_by_the_run_id(
    cli: Cli, failing_runs: Made
) -> None:
    keep(cli, failing_runs())
    done = cli("report")
    assert (done.code, done.out) == (0, "")
    page = (cli.folder / "run-1.html").read_text()
    assert "run-1.html" in done.err
    assert "1 failed, 12 passed" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", page)
    assert cli("report", "run-1", "-o", "sub.html").code == 0
    assert (cli.folder / "sub.html").read_text() == page
    assert cli("report", "-o", "-").out == page


def test_markdown_goes_to_standard_output_or_a_file(cli: Cli, failing_runs: Made) -> None:
    keep(cli, failing_runs())
    done = cli("report", "--markdown")
    assert "| " in done.out
    assert "tests" in done.out
    assert "1 failed, 12 passed" in done.out
    assert cli("report", "--markdown", "-o", "summary.md").out == ""
    assert (cli.folder / "summary.md").read_text() == done.out


def test_a_report_that_cannot_be_written_is_one_line(cli: Cli, failing_runs: Made) -> None:
    nothing = cli("report")
    assert (nothing.code, nothing.out, len(nothing.err.splitlines())) == (1, "", 1)
    keep(cli, failing_runs())
    done = cli("report", "-o", "no/such/folder/x.html")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no/such/folder/x.html" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "--events"),
        ("runs",),
        ("diff", "hostile", "hostile"),
        ("report", "--markdown"),
    ],
)
def test_hostile_names_are_harmless_in_a_terminal(
    cli: Cli, hostile_runs: Made, arguments: tuple[str, ...]
) -> None:
    keep(cli, hostile_runs(run_id="hostile"))
    done = cli(*arguments)
    assert done.code == 0
    for hidden in ("\x1b", "\x07", "\x00", "\x08", "\x9b", "\u202e", "\u2028", "\u200b"):
        assert hidden not in done.out, arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "--json"),
        ("show", "--otlp"),
        ("runs", "--json"),
        ("diff", "hostile", "hostile", "--json"),
    ],
)
def test_hostile_names_are_escaped_in_json(
    cli: Cli, hostile_runs: Made, arguments: tuple[str, ...]
) -> None:
    keep(cli, hostile_runs(run_id="hostile"))
    done = cli(*arguments)
    assert done.code == 0
    assert "<script>" in str(done.out)
    assert all(character >= " " or character == "\n" for character in done.out)
    assert "\x9b" not in done.out
    assert "\u202e" not in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "banana"),
        ("runs",),
        ("diff", "banana", "banana"),
        ("report", "banana", "--markdown"),
    ],
)
def test_an_unknown_result_is_harmless_in_terminal_and_summary(
    cli: Cli, empty_runs: Made, arguments: tuple[str, ...]
) -> None:
    evil = "\x1b]0;<b>ba|na\x07"
    run = empty_runs(run_id="banana")
    run.span(
        "phase", "lint", 0, 10, parent=run.span("run", "standard", 0, 10, result=evil), result=evil
    )
    keep(cli, run)
    done = cli(*arguments)
    assert done.code == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.out)
    if arguments[0] == "report":
        assert "<b>" not in done.out
        assert "unknown" in done.out


@pytest.mark.slow
def test_a_run_of_thousands_of_levels_is_shown(cli: Cli, empty_runs: Made) -> None:
    run = empty_runs(run_id="deep")
    above = run.span("run", "standard", 0, 10)
    for number in range(3_000):
        above = run.span("hook", f"h{number}", 0, 10, parent=above)
    keep(cli, run)
    shown = cli("show", "deep")
    assert shown.code == 0
    assert len([line for line in shown.out.splitlines() if " hook h" in line]) == 3_000
    assert (
        cli("show", "deep", "--json").code
        == cli("show", "deep", "--events").code
        == cli("diff", "deep", "deep").code
        == 0
    )


@pytest.mark.slow
def test_a_run_of_ten_thousand_spans_is_drawn_in_a_time_that_grows_with_their_number(
    cli: Cli, empty_runs: Made
) -> None:
    run = empty_runs(run_id="wide")
    top = run.span("run", "standard", 0, 10)
    for number in range(10_000):
        run.span("phase", f"p{number}", 0, 10, parent=top)
    keep(cli, run)
    assert (
        len(cli("show", "wide", timeout_s=30).out.splitlines()) > 10_000
    )  # it took minutes when each line was taken from the whole


def test_a_terminal_shows_both_ends_of_a_very_large_run_and_what_failed(
    cli: Cli, empty_runs: Made
) -> None:
    for number_of_run, run_id in enumerate(("first", "second"), 1):
        run = empty_runs(number=number_of_run, run_id=run_id)
        top = run.span("run", "standard", 0, 10)
        for number in range(5_000):
            result = "failure" if number == 2_500 else "success"
            run.span("phase", f"p{number}", 0, 10, parent=top, result=result)
        keep(cli, run)
    with Terminal(cli.argv("show", "first"), cli.folder, cli.environment()) as terminal:
        shown = terminal.rest().decode()
        assert terminal.exit_code() == 0
    assert [f"p{number} " in shown for number in (0, 499, 500, 2_500, 4_499, 4_500, 4_999)] == [
        True, True, False, True, False, True, True,
    ]  # fmt: skip
    gaps = re.findall(r"… ([\d,]+) more; --json has all of them", shown)
    assert gaps == ["2,000", "1,999"]
    with Terminal(cli.argv("diff", "first", "second"), cli.folder, cli.environment()) as terminal:
        assert "… 4,999 more phases; --json has all of them" in terminal.rest().decode()
    assert cli("diff", "first", "second").out.count("\n") > 5_000


@pytest.mark.parametrize(("run_id", "name"), [
    ("../../../outside", "_.._.._outside.html"), ("/tmp/x", "_tmp_x.html"), ("-rf", "rf.html"), ("a\nb\x00c", "a_b_c.html"), ("x" * 5_000, "x" * 100 + ".html"), ("..", "run.html"),
])  # fmt: skip
def test_a_report_stays_in_the_folder_whatever_the_run_is_called(
    cli: Cli, empty_runs: Made, run_id: str, name: str
) -> None:
    run = empty_runs(run_id=run_id)
    run.span("run", "standard", 0, 10)
    keep(cli, run)
    assert cli("report").code == 0
    assert [path.name for path in cli.folder.iterdir() if path.is_file()] == [name]
    assert not list(cli.folder.parent.glob("*.html"))
