"""The page in a real browser with a real backend and store: lists, a run, keyboard, accessibility, login."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from embedded import Up
from playwright.sync_api import Browser, expect
from sight import Made, Sight, send, work_of_page_s

pytestmark = pytest.mark.browser

START_NS = (int(time.time()) - 3_600) * 10**9


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory,
    failing_runs: Made,
    hostile_runs: Made,
    large_runs: Made,
) -> Iterator[Up]:
    one = Up(Cli(tmp_path_factory.mktemp("up")), "--jaeger", "http://127.0.0.1:16686")
    for number in range(1, 13):
        send(
            one,
            failing_runs(
                number=number, run_id=f"run-{number}", start_ns=START_NS + number * 10**10
            ),
        )
    send(one, hostile_runs(number=20, run_id="hostile-run", start_ns=START_NS + 10**12))
    send(one, large_runs(number=21, run_id="large-run", start_ns=START_NS + 2 * 10**12))
    yield one
    one.stop()


@pytest.fixture
def sight(chromium: Browser, up: Up) -> Iterator[Sight]:
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    one = Sight(context, up)
    yield one
    context.close()
    assert one.problems == []


def test_runs_are_listed_newest_first_and_filtered(sight: Sight) -> None:
    rows = sight.page.locator("tbody tr")
    expect(rows).to_have_count(14)
    expect(rows.nth(0)).to_contain_text("large")
    sight.page.get_by_label("Result").select_option("failed")
    expect(rows).to_have_count(13)
    sight.page.get_by_label("Result").select_option("success")
    expect(rows).to_have_count(1)
    sight.page.get_by_label("Result").select_option("")
    expect(rows).to_have_count(14)
    sight.page.get_by_label("Name or run id").fill("run-3")
    sight.page.get_by_label("Name or run id").press("Enter")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("standard")


def test_a_run_shows_attempts_hooks_events_failed_output_and_a_jaeger_link(
    sight: Sight,
) -> None:
    sight.go("#/run/run-1")
    grid = sight.page.get_by_role("treegrid")
    expect(grid.locator(".row")).to_have_count(9)
    for text in ("fast_hooks", "2 attempts", "attempt 1", "ruff", "publish"):
        expect(grid.get_by_text(text).first).to_be_visible()
    expect(sight.page.get_by_text("1 failed, 12 passed")).to_be_visible()
    expect(sight.page.get_by_text("workflow.quality.started")).to_be_visible()
    assert (
        sight.page.get_by_role("link", name="in Jaeger").get_attribute("href")
        == f"http://127.0.0.1:16686/trace/{1:032x}"
    )
    assert grid.locator(".mark").count() >= 5


def test_a_skipped_phase_has_no_duration(sight: Sight) -> None:
    sight.go("#/run/run-1")
    row = sight.page.get_by_role("treegrid").locator(".row").filter(has_text="publish")
    expect(row.locator(".time")).to_have_text("")
    assert row.get_attribute("aria-label") == "phase publish, skip, 0 events"
    row.click()
    facts = sight.page.get_by_label("Details").locator("dl")
    expect(facts).to_contain_text("starts after")
    expect(facts).not_to_contain_text("takes")


def test_phases_over_time_have_quantiles_failures_and_the_last_one(sight: Sight) -> None:
    sight.page.get_by_role("link", name="Phases").click()
    row = sight.page.locator("tbody tr").filter(has_text="tests").filter(has_text="standard")
    expect(row).to_contain_text("12")
    expect(row).to_contain_text("100 % (12)")
    expect(row).to_contain_text("2.75 s")
    row.get_by_role("link").click()
    expect(sight.page.get_by_role("heading", level=1)).to_contain_text("standard")


def test_a_run_is_read_with_the_keyboard_alone(sight: Sight) -> None:
    page = sight.page
    expect(page.locator("tbody tr")).to_have_count(14)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('href') === '#/run/run-12'"):
            break
    else:
        pytest.fail("a run is not reached with Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    grid = page.get_by_role("treegrid")
    expect(grid).to_be_focused()
    selected = page.locator(".row[aria-selected=true]")
    page.keyboard.press("Home")
    expect(selected).to_contain_text("standard")
    page.keyboard.press("ArrowDown")
    expect(selected).to_contain_text("fast_hooks")
    page.keyboard.press("ArrowLeft")
    expect(grid.locator(".row")).to_have_count(5)
    page.keyboard.press("ArrowRight")
    expect(grid.locator(".row")).to_have_count(9)
    page.keyboard.press("n")
    expect(selected).to_contain_text("attempt 1")
    page.keyboard.press("End")
    expect(selected).to_contain_text("publish")
    named = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).textContent"
    assert "publish" in page.evaluate(named)


def test_a_subtree_is_copied_as_json(sight: Sight) -> None:
    sight.go("#/run/run-1")
    sight.page.locator(".row").filter(has_text="fast_hooks").first.click()
    sight.page.get_by_role("button", name="Copy as JSON", exact=True).click()
    expect(sight.page.get_by_text("Copied")).to_be_visible()
    document: dict[str, Any] = json.loads(sight.page.evaluate("navigator.clipboard.readText()"))
    assert (document["name"], document["kind"], document["attempts"]) == ("fast_hooks", "phase", 2)
    assert [child["kind"] for child in document["children"]] == ["attempt", "attempt"]
    assert [child["children"][0]["name"] for child in document["children"]] == ["ruff", "ruff"]


def test_a_run_is_copied_with_its_phases(sight: Sight) -> None:
    sight.go("#/run/run-1")
    sight.page.get_by_role("button", name="Copy run as JSON").click()
    expect(sight.page.get_by_text("Copied")).to_be_visible()
    document: dict[str, Any] = json.loads(sight.page.evaluate("navigator.clipboard.readText()"))
    assert (document["run_id"], document["workflow"]) == ("run-1", "standard")
    assert "tests" in [phase["name"] for phase in document["phases"]]


@pytest.mark.parametrize(
    ("place", "choice", "steps"), [("#/runs", "Result", 2), ("#/phases", "Period", 1)]
)
def test_keyboard_focus_stays_in_a_filter(
    sight: Sight, place: str, choice: str, steps: int
) -> None:
    sight.go(place)
    box = sight.page.get_by_role("combobox", name=choice)
    box.focus()
    before = box.evaluate("box => box.selectedIndex")
    for step in range(1, steps + 1):
        sight.page.keyboard.press("ArrowDown")
        sight.page.wait_for_function(
            "at => document.activeElement.selectedIndex === at", arg=before + step
        )
    expect(sight.page.get_by_role("combobox", name=choice)).to_be_focused()
    expect(sight.page.locator("#said")).to_contain_text("row")


def test_a_trace_of_ten_thousand_spans_opens_with_less_than_a_second_of_work_and_scrolls(
    sight: Sight,
) -> None:
    page = sight.page
    expect(page.locator("tbody tr")).to_have_count(14)
    expect(page.locator("tbody tr")).to_have_count(14)
    before_s = sight.work_s()
    sight.go("#/run/large-run")
    page.locator(".rows[aria-rowcount='10000'] .row").first.wait_for()
    assert sight.work_s() - before_s < 1.0
    before_s = work_of_page_s(page)
    page.evaluate("""() => new Promise((done) => {
        const view = document.querySelector(".rows");
        let step = 0;
        const next = () => {
            view.scrollTop = view.scrollHeight * (step / 90);
            step += 1;
            if (step <= 90) requestAnimationFrame(next); else done();
        };
        requestAnimationFrame(next);
    })""")
    assert (work_of_page_s(page) - before_s) / 90 < 0.040
    assert page.locator(".row").count() < 150
    expect(page.locator("[data-at='9999']")).to_be_attached()
    outside = """() => [...document.querySelectorAll(".row .bar")].filter((bar) =>
        bar.getBoundingClientRect().right > bar.parentElement.getBoundingClientRect().right + 0.5).length"""
    assert page.evaluate(outside) == 0  # also what began at the very end is seen


def test_hostile_names_are_text_everywhere(sight: Sight) -> None:
    page = sight.page
    expect(page.locator("tbody tr")).to_have_count(14)
    for place in ("#/run/hostile-run", "#/phases", "#/runs", "#/traces"):
        sight.go(place)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        rows = page.locator(".row")
        if place.startswith("#/run/"):
            expect(rows.first).to_be_visible()
            for at in range(min(rows.count(), 12)):
                rows.nth(at).click()
        text = page.locator("body").inner_text()
        for hidden in ("\u202e", "\x1b", "\x07", "\x00", "\u200b", "\u2028"):
            assert hidden not in text
        assert (
            page.evaluate("document.querySelectorAll('main img, main script, main iframe').length")
            == 0
        )
        assert "pwned" not in page.title()


CONTRAST = """() => {
    const parse = (text) => { const found = text.match(/[\\d.]+/g).map(Number); return found.length < 4 ? [...found, 1] : found; };
    const light = ([r, g, b]) => { const f = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
    const behind = (node) => { for (; node; node = node.parentElement) { const colour = parse(getComputedStyle(node).backgroundColor); if (colour[3] > 0.99) return colour; } return [255, 255, 255, 1]; };
    const bad = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
        if (!own || !node.getClientRects().length || node.closest("option, noscript")) continue;
        const a = light(parse(getComputedStyle(node).color)), b = light(behind(node));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) bad.push([node.tagName, node.className, node.textContent.slice(0, 30), ratio.toFixed(2)]);
    }
    return bad;
}"""

UNNAMED = """() => [...document.querySelectorAll("button, a, input, select, [role=treegrid], section, nav, svg, table th")].filter((node) => {
    const named = node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && node.labels.length) || node.getAttribute("aria-labelledby");
    return !named && node.getClientRects().length;
}).map((node) => node.outerHTML.slice(0, 120))"""

PLACES = {
    "runs": "#/runs",
    "run": "#/run/run-1",
    "phases": "#/phases",
    "hostile": "#/run/hostile-run",
    "large": "#/run/large-run",
    "traces": "#/traces",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_no_problem_on_any_view(
    chromium: Browser, up: Up, tmp_path: Path, place: str, scheme: Any
) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    sight = Sight(context, up)
    shown(sight, place)
    assert sight.page.evaluate(CONTRAST) == []
    assert sight.page.evaluate(UNNAMED) == []
    assert sight.page.evaluate("document.querySelectorAll('h1').length") == 1
    sight.shot(tmp_path / f"{place}-{scheme}.png")
    context.close()
    assert sight.problems == []


@pytest.mark.parametrize("place", PLACES)
def test_the_page_is_readable_at_phone_width(
    chromium: Browser, up: Up, tmp_path: Path, place: str
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    sight = Sight(context, up)
    shown(sight, place)
    assert sight.page.evaluate("document.documentElement.scrollWidth") <= 360
    sight.shot(tmp_path / f"{place}-phone.png")
    context.close()
    assert sight.problems == []


def shown(sight: Sight, place: str) -> None:
    sight.go(PLACES[place])
    if "/run/" in PLACES[place]:
        expect(sight.page.locator(".row").first).to_be_visible()
        expect(sight.page.get_by_role("heading", name="Attributes")).to_be_visible()
    elif place == "traces":
        expect(sight.page.get_by_role("heading", name="Traces")).to_be_visible()
    else:
        expect(sight.page.locator("tbody tr").first).to_be_visible()


def test_a_result_is_never_shown_by_colour_alone(sight: Sight) -> None:
    sight.go("#/run/run-1")
    expect(sight.page.locator(".row").first).to_be_visible()
    for at in range(9):
        row = sight.page.locator(f"[data-at='{at}']")
        assert any(
            word in str(row.get_attribute("aria-label")) for word in ("success", "failure", "skip")
        )
        mark = row.locator(".badge").evaluate("node => getComputedStyle(node, '::before').content")
        assert mark not in ("none", '""')


def test_the_chosen_theme_is_kept(sight: Sight) -> None:
    button = sight.page.get_by_role("button", name="Colour theme")
    button.click()
    expect(button).to_have_text("Theme: dark")
    assert (
        sight.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 28)"
    )
    sight.page.reload()
    expect(sight.page.get_by_role("button", name="Colour theme")).to_have_text("Theme: dark")


def test_without_the_token_there_is_only_a_form(chromium: Browser, up: Up) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(up.url)
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill(up.page.partition("token=")[2])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert "token" not in page.url
    context.close()
