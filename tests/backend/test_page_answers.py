"""The page as a debugging tool: first failure, live progress, output, search, history and comparison of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from command_line import Cli
from embedded import Up
from playwright.sync_api import Browser, Page, expect
from sight import Made, Sight, send

from spanbus._runs.format import MARKS, duration

pytestmark = pytest.mark.browser

START_NS = (int(time.time()) - 3_600) * 10**9
TAIL = (
    "\n".join(f"tests/test_{number}.py ." for number in range(60)) + "\n1 failed: assert 3 == 4\n"
)
WORKFLOW = """
[workflows.ci]
phases = [
  { name = "lint", run = "sh -c 'echo linted'" },
  { name = "tests", needs = ["lint"], run = "sh -c 'for n in $(seq 300); do echo line $n; done; until test -e go; do sleep 0.1; done; echo and on'" },
  { name = "publish", needs = ["tests"], run = "sh -c 'echo no such host >&2; exit 3'" },
]
"""


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, failing_runs: Made, empty_runs: Callable[..., Any]
) -> Iterator[Up]:
    cli = Cli(tmp_path_factory.mktemp("answers"))
    (cli.folder / "spanbus.toml").write_text(WORKFLOW)
    (cli.folder / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    (cli.folder / "go").touch()
    assert cli("run", "-q", "--skip", "publish").code == 0
    version = "vcs.ref.head.name=topic/x,vcs.ref.head.revision=0123456789abcdef"
    assert cli("run", "-q", env={"OTEL_RESOURCE_ATTRIBUTES": version}).code == 1
    one = Up(cli)
    for number in range(1, 11):
        send(
            one,
            failing_runs(
                number=number, run_id=f"run-{number}", start_ns=START_NS + number * 10**10
            ),
        )
    send(one, deep(empty_runs))
    yield one
    one.stop()


def deep(empty_runs: Callable[..., Any]) -> Any:
    """Return a run in which a hook fails its phase, another phase fails later, and an earlier attempt failed otherwise."""
    run = empty_runs(number=50, run_id="deep", workflow="deep", start_ns=START_NS)
    top = run.span("run", "deep", 0, 9_000, result="failure", error__type="unsuccessful")
    run.span("phase", "late", 0, 9_000, parent=top, result="failure", error__type="unsuccessful")
    early = run.span(
        "phase",
        "early",
        100,
        3_000,
        parent=top,
        result="failure",
        error__type="unsuccessful",
        spanbus__phase__attempts=2,
    )
    for attempt, output in ((1, "a network error\n"), (2, TAIL)):
        inside = run.span(
            "attempt",
            "early",
            attempt * 1_000,
            900,
            parent=early,
            result="failure",
            error__type="unsuccessful",
            spanbus__phase__attempt=attempt,
        )
        run.span("hook", "ok", attempt * 1_000, 100, parent=inside)
        run.span(
            "hook",
            "pytest",
            attempt * 1_000 + 100,
            700,
            parent=inside,
            result="failure",
            error__type="unsuccessful",
            spanbus__output__tail=output,
        )
    run.event(early, 100, "early.started", timestamp="1767225600.25", run_id="deep", what="early")
    return run


@pytest.fixture
def sight(chromium: Browser, up: Up) -> Iterator[Sight]:
    context = chromium.new_context(
        viewport={"width": 1400, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    one = Sight(context, up)
    yield one
    context.close()
    assert one.problems == []


def opened(sight: Sight, place: str) -> Page:
    sight.go(place)
    expect(sight.page.locator(".row").first).to_be_visible()
    return sight.page


# --- after a failure ----------------------------------------------------------------------------------------------------


def test_a_failed_run_shows_what_failed_first_and_the_end_of_its_output(sight: Sight) -> None:
    page = opened(sight, "#/run/deep")
    expect(page.locator(".why")).to_contain_text("early")
    expect(page.locator(".why")).to_contain_text("pytest")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("early")
    output = page.get_by_role("region", name="Output of pytest")
    expect(output).to_contain_text("assert 3 == 4")
    expect(page.locator(".detail")).not_to_contain_text("a network error")
    page.wait_for_function(
        "pre => pre.scrollTop > 0 && pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 2",
        arg=output.element_handle(),
    )
    box = output.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 900  # in sight without scrolling
    page.set_viewport_size({"width": 1280, "height": 720})
    small = output.bounding_box()
    assert small is not None
    assert small["y"] + small["height"] <= 720


@pytest.mark.parametrize(("width", "height"), [(360, 640), (390, 844), (700, 900)])
def test_the_end_of_the_output_is_in_sight_on_a_phone(
    sight: Sight, width: int, height: int
) -> None:
    sight.page.set_viewport_size({"width": width, "height": height})
    page = opened(sight, "#/run/deep")
    output = page.get_by_role("region", name="Output of the first failure, pytest")
    expect(output).to_contain_text("assert 3 == 4")
    page.wait_for_function(
        "pre => pre.scrollTop > 0 && pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 2",
        arg=output.element_handle(),
    )
    box = output.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= height
    expect(page.get_by_text("assert 3 == 4")).to_have_count(1)  # told once
    page.set_viewport_size({"width": 1400, "height": 900})
    expect(output).to_be_hidden()  # it stands beside the rows
    expect(page.get_by_role("region", name="Output of pytest")).to_be_visible()


BESIDE = """() => {
    const [rows, detail] = [".grid", ".detail"].map((place) => document.querySelector(place).getBoundingClientRect());
    return detail.left >= rows.right ? "beside" : detail.top >= rows.bottom ? "below" : "over";
}"""


def test_on_a_wide_screen_details_are_beside_the_rows(
    sight: Sight,
) -> None:
    page = opened(sight, "#/run/deep")
    assert page.evaluate(BESIDE) == "beside"
    page.locator(".row").filter(has_text="late").locator(".name").click()
    page.get_by_role("treegrid").press("+")
    page.get_by_label("Find in run (/)").fill("early")
    grid = page.locator(".grid").element_handle()
    page.set_viewport_size({"width": 700, "height": 900})
    output = page.get_by_role("region", name="Output of the first failure, pytest")
    expect(output).to_be_visible()
    assert page.evaluate(BESIDE) == "below"
    assert grid.evaluate("grid => grid.isConnected")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("late")
    expect(page.locator(".grid.zoomed")).to_be_visible()
    expect(page.get_by_label("Find in run (/)")).to_have_value("early")


def test_attributes_ids_and_unix_times_are_folded(sight: Sight) -> None:
    page = opened(sight, "#/run/deep")
    expect(page.get_by_text("early.started")).to_be_visible()
    expect(page.locator(".events").get_by_text("what")).to_be_visible()
    for hidden in ("1767225600.25", "cicd.pipeline.task.name"):
        expect(page.locator(".detail").get_by_text(hidden)).to_be_hidden()
    page.locator(".events summary").first.click()
    expect(page.locator(".detail").get_by_text("1767225600.25")).to_be_visible()
    page.locator(".attributes summary").click()
    expect(page.locator(".detail").get_by_text("cicd.pipeline.task.name")).to_be_visible()


def test_one_key_opens_the_full_output(sight: Sight) -> None:
    page = sight.page
    page.locator("tbody tr").filter(has_text="no such host").or_(
        page.locator("tbody tr").filter(has_text="publish")
    ).first.get_by_role("link").click()
    expect(page.locator(".why")).to_contain_text("publish")
    page.get_by_role("treegrid").focus()
    page.get_by_role("treegrid").press("Home")
    page.locator(".row").filter(has_text="tests").first.click()
    expect(page.get_by_role("button", name="Full output (o)")).to_be_visible()
    page.get_by_role("treegrid").focus()
    page.keyboard.press("o")
    output = page.locator("pre.whole")
    expect(output).to_contain_text("line 1\n")
    expect(output).to_contain_text("line 300")
    expect(output).to_be_focused()


# --- the list -----------------------------------------------------------------------------------------------------------


def test_a_listed_run_shows_phases_first_error_and_time(sight: Sight) -> None:
    row = (
        sight.page.locator("tbody tr")
        .filter(has_text="no such host")
        .or_(sight.page.locator("tbody tr").filter(has_text="sh ended with exit code 3"))
    )
    expect(row).to_have_count(1)
    expect(row).to_contain_text("publish")
    expect(row).to_contain_text("shop topic/x 01234567")
    expect(row.get_by_text("no such host").filter(visible=True)).to_have_count(1)  # its last line
    expect(row.get_by_role("img")).to_have_attribute("aria-label", "3 phases: 2 success, 1 failure")
    when = row.locator("time")
    expect(when).to_contain_text("ago", timeout=20_000)
    assert ":" in str(when.get_attribute("title"))


def test_the_list_is_filtered_while_typing(sight: Sight) -> None:
    page = sight.page
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(13)
    page.keyboard.press("/")
    field = page.get_by_label("Name or run id")
    expect(field).to_be_focused()
    page.keyboard.type("run-7", delay=20)
    expect(rows).to_have_count(1)
    expect(field).to_be_focused()
    assert "q=run-7" in page.url
    page.reload()
    expect(rows).to_have_count(1)
    field.fill("nothing like it")
    expect(page.get_by_text("No run matches.")).to_be_visible()


def test_a_live_run_shows_progress_waiting_phases_and_output(sight: Sight, up: Up) -> None:
    page, go = sight.page, up.cli.folder / "go"
    go.unlink(missing_ok=True)
    process = up.cli.start("run", "-q", "--skip", "publish")
    try:
        card = page.locator(".card")
        expect(card).to_contain_text("waiting publish", timeout=20_000)
        expect(card).to_contain_text("for tests")
        expect(card.get_by_role("progressbar")).to_be_visible()
        expect(card).to_contain_text("usually")
        expect(card.locator(".heard")).to_have_text("sh | line 300", timeout=20_000)
        card.get_by_role("link").click()
        expect(page.locator(".row").filter(has_text="waits for tests")).to_be_visible()
        page.locator(".row").filter(has_text="tests").filter(has_text="phase").first.click()
        output = page.locator("pre.whole")
        expect(output).to_contain_text("line 300", timeout=20_000)
        expect(output).not_to_contain_text("and on")
        page.get_by_label("Find in run (/)").fill("lint")
    finally:
        go.touch()
        process.communicate(timeout=60)
    expect(page.get_by_role("heading", level=1)).to_contain_text("success", timeout=20_000)
    expect(page.get_by_role("button", name="Copy run as JSON")).to_be_visible()
    expect(page.get_by_label("Find in run (/)")).to_be_focused()  # nothing is taken away at the end
    expect(page.get_by_label("Find in run (/)")).to_have_value("lint")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("tests")
    expect(page.locator(".detail .attributes")).to_contain_text("Attributes")
    sight.problems[:] = [
        each for each in sight.problems if "404" not in each
    ]  # it was asked for before it was stored


def test_a_live_view_scrolls_to_a_failing_phase(sight: Sight, up: Up) -> None:
    page, go = sight.page, up.cli.folder / "go"
    go.unlink(missing_ok=True)
    process = up.cli.start("run", "-q")
    try:
        card = page.locator(".card")
        expect(card).to_contain_text("waiting publish", timeout=20_000)
        card.get_by_role("link").click()
        expect(page.locator(".row[aria-selected=true]")).to_contain_text("sh")
    finally:
        go.touch()
        process.communicate(timeout=60)
    expect(page.get_by_role("heading", level=1)).to_contain_text("failure", timeout=20_000)
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("publish")
    expect(page.get_by_role("region", name="Output of sh")).to_contain_text("no such host")
    sight.problems[:] = [each for each in sight.problems if "404" not in each]


# --- the waterfall ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1400, 1000, 360])
def test_the_time_axis_is_above_the_bars(sight: Sight, width: int) -> None:
    page = sight.page
    page.set_viewport_size({"width": width, "height": 900})
    opened(sight, "#/run/run-1")
    edges = page.evaluate("""() => [".axis .ticks", ".row .lane"].map((place) => {
        const lane = document.querySelector(place), box = lane.getBoundingClientRect();
        return [Math.round(box.left + lane.clientLeft), Math.round(box.right)];
    })""")
    assert edges[0] == edges[1]
    inside = """() => [...document.querySelectorAll(".axis .tick, .axis > div:last-child")].every((node) =>
        node.scrollWidth <= node.clientWidth && node.getBoundingClientRect().right <= node.parentElement.getBoundingClientRect().right)"""
    assert page.evaluate(inside)


def test_the_row_of_a_skipped_phase_has_the_reason(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    expect(page.locator(".row").filter(has_text="publish")).to_contain_text("tests failed")


def test_events_are_marked_on_the_selected_row(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    row = page.locator(".row").filter(has_text="fast_hooks").first
    expect(row.locator(".mark").first).to_be_hidden()
    row.hover()
    expect(row.locator(".mark").first).to_be_visible()


def test_dragging_over_the_bars_zooms_and_a_key_goes_back(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    lane = page.locator(".row .lane").first.bounding_box()
    bar = page.locator(".row").filter(has_text="cleaning").locator(".bar")
    before = bar.bounding_box()
    assert lane is not None
    assert before is not None
    page.mouse.move(lane["x"] + 2, lane["y"] + 10)
    page.mouse.down()
    page.mouse.move(lane["x"] + lane["width"] / 2, lane["y"] + 10, steps=4)
    page.mouse.up()
    expect(page.locator(".grid.zoomed")).to_be_visible()
    after = bar.bounding_box()
    assert after is not None
    assert 1.8 < after["width"] / before["width"] < 2.2
    page.get_by_role("treegrid").press("0")
    expect(page.locator(".grid.zoomed")).to_have_count(0)
    for key, zoomed in (("z", 1), ("Escape", 0), ("+", 1), ("-", 0)):
        page.get_by_role("treegrid").press(key)
        expect(page.locator(".grid.zoomed")).to_have_count(zoomed)


def test_a_folded_span_is_found(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    page.get_by_role("button", name="Fold all", exact=True).click()
    expect(page.locator(".row")).to_have_count(5)
    page.locator("main").focus()
    page.keyboard.press("/")
    page.keyboard.type("ruff")
    expect(page.get_by_text("2 matches")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("ruff")
    expect(page.locator("#said")).to_contain_text("1 of 2 matches")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("2 of 2 matches")
    page.keyboard.press("Escape")
    expect(page.get_by_role("treegrid")).to_be_focused()


def test_the_critical_path_is_marked(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    page.get_by_role("treegrid").press("x")
    names = [str(text) for text in page.locator(".row .name bdi").all_text_contents()]
    assert names == ["standard", "fast_hooks", "fast_hooks", "ruff", "fast_hooks", "ruff", "tests"]
    page.get_by_role("treegrid").press("x")
    expect(page.locator(".row")).to_have_count(9)
    page.locator(".row").filter(has_text="fast_hooks").first.click()
    expect(page.locator(".detail dl")).to_contain_text("self time60 ms")


def test_the_question_mark_shows_the_keys(sight: Sight) -> None:
    page = opened(sight, "#/run/run-1")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("the full output")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("treegrid")).to_be_focused()


# --- over time ----------------------------------------------------------------------------------------------------------


def test_a_phase_opens_its_history(sight: Sight) -> None:
    page = sight.page
    page.get_by_role("link", name="Phases").click()
    page.get_by_label("Workflow").select_option("standard")
    row = page.locator("tbody tr").filter(has_text="fast_hooks")
    expect(row).to_contain_text("10\u00d7")
    row.get_by_role("button", name="fast_hooks").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("fast_hooks")
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(page.locator("dl")).to_contain_text("passed on a retry10")
    page.locator("tbody a").first.click()
    expect(page.locator(".row").first).to_be_visible()


def test_phases_are_filtered_by_project_and_name_and_sorted(sight: Sight) -> None:
    page = sight.page
    page.get_by_role("link", name="Phases").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(9)
    page.get_by_label("Order").select_option("failures")
    expect(rows.first).to_contain_text("tests")
    page.get_by_label("Phase", exact=True).fill("clean")
    expect(rows).to_have_count(1)
    page.get_by_label("Phase", exact=True).fill("")
    page.get_by_label("Project").select_option("spanbus")
    expect(rows).to_have_count(6)


def test_two_runs_are_compared_side_by_side(sight: Sight) -> None:
    page = sight.page
    page.locator("tbody tr").filter(has_text="publish").filter(
        has_text="failure"
    ).first.get_by_role("link").click()
    page.get_by_role("button", name="Compare with the run before").click()
    expect(page.get_by_role("button", name="Swap")).to_be_visible()
    row = page.locator("tbody tr").filter(has_text="publish")
    expect(row).to_contain_text("newly failing")
    expect(page.locator("tbody tr").last).to_contain_text("whole run")
    page.get_by_role("button", name="Swap").click()
    expect(row).to_contain_text("not run")


def test_rows_are_created_when_they_scroll_into_view(sight: Sight) -> None:
    page = sight.page
    expect(page.locator("tbody tr").first).to_be_visible()
    page.evaluate(
        """async () => {
            const { growing, main } = await import("/page/page.js"), { el } = await import("/page/text.js");
            const body = el("tbody"), items = [...Array(10069).keys()];
            const { end } = growing(body, items, (item) => el("tr", {}, el("td", { class: "many", text: String(item) })));
            main.replaceChildren(el("h1", { text: "Many" }), el("table", {}, body), end);
        }"""
    )
    expect(page.locator(".many")).to_have_count(200)
    assert page.evaluate("document.documentElement.scrollHeight") < 20_000
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator(".many").nth(200)).to_be_attached()
    assert page.locator(".many").count() < 1_000


def test_durations_and_marks_equal_those_of_the_terminal(sight: Sight) -> None:
    page = sight.page
    seconds = [0, 4e-7, 0.000_999_4, 0.000_999_6, 0.0994, 0.0996, 1.234, 9.994, 9.996, 59.94, 59.96]
    seconds += [60.4, 61.5, 3_599.4, 3_599.6, 3_600, 86_399, 360_000.0]
    shown = page.evaluate(
        "async us => { const { duration } = await import('/page/text.js'); return us.map(duration); }",
        [each * 1e6 for each in seconds],
    )
    assert shown == [duration(each) for each in seconds]
    marks = page.evaluate(
        """results => results.map((result) => {
            const node = document.createElement("span");
            node.className = `badge r-${result}`;
            document.querySelector("main").append(node);
            return getComputedStyle(node, "::before").content.replaceAll('"', "");
        })""",
        [result for result in MARKS if result],
    )
    assert marks == [mark for result, mark in MARKS.items() if result]


# --- for everybody ------------------------------------------------------------------------------------------------------

PLACES = {
    "#/runs": "tbody tr",
    "#/run/deep": ".attributes",
    "#/phases": "tbody tr",
    "#/phase?project=spanbus&workflow=standard&phase=tests": ".spark.tall",
    "#/compare?a=run-1&b=deep": ".sides",
    "#/traces": ".empty",
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 360)])
def test_axe_finds_nothing(
    chromium: Browser, up: Up, axe: Callable[[Page], list[object]], scheme: Any, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    sight = Sight(context, up)
    for place, there in PLACES.items():
        sight.go(place)
        expect(sight.page.locator(there).first).to_be_visible()
        assert (place, axe(sight.page)) == (place, [])
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
    sight.page.keyboard.press("?")
    expect(sight.page.get_by_role("dialog")).to_be_visible()
    assert axe(sight.page) == []
    context.close()
    assert sight.problems == []
