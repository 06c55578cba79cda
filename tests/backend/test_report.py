"""The report of a run: one self-contained file, complete, and harmless for any names."""

from __future__ import annotations

import base64
import json
import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from sight import work_of_page_s

from spanbus._backend.report import html_report, markdown_report
from spanbus._runs.tree import Stored, waterfall

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Run(Protocol):
    def stored(self) -> list[Stored]: ...


def opened(browser: Browser, tmp_path: Path, run: Run, **options: object) -> tuple[Page, list[str]]:
    path = tmp_path / "report.html"
    path.write_text(html_report(run.stored()), encoding="utf-8")
    page = browser.new_page(**options)  # type: ignore[arg-type]
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            errors.append(request.url) if not request.url.startswith(("file:", "data:")) else None
        ),
    )
    page.goto(path.as_uri())
    return page, errors


@pytest.mark.browser
def test_the_report_shows_the_run_without_any_request(
    chromium: Browser, tmp_path: Path, failing: Run
) -> None:
    page, errors = opened(chromium, tmp_path, failing)
    assert page.locator(".row").count() == 9
    assert "1 failed, 12 passed" in page.locator(".detail pre.output").inner_text()
    assert errors == []
    page.close()


@pytest.mark.browser
def test_the_report_is_read_with_the_keyboard(
    chromium: Browser, tmp_path: Path, failing: Run
) -> None:
    page, _ = opened(chromium, tmp_path, failing)
    page.locator(".rows").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".row").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    assert "attempt 1" in page.locator(".row[aria-selected=true]").inner_text()
    page.close()


@pytest.mark.browser
def test_hostile_names_are_text_in_the_browser(
    chromium: Browser, tmp_path: Path, hostile: Run
) -> None:
    page, errors = opened(chromium, tmp_path, hostile)
    rows = page.locator(".row")
    for at in range(rows.count()):
        rows.nth(at).click()
    assert (
        page.evaluate("document.querySelectorAll('main img, main script, main iframe').length") == 0
    )
    text = page.locator("body").inner_text()
    assert "\\u202e" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert errors == []
    assert page.evaluate("document.title").startswith("<script>")
    page.close()


@pytest.mark.browser
def test_ten_thousand_spans_are_shown_by_few_elements(
    chromium: Browser, tmp_path: Path, large: Run
) -> None:
    page, errors = opened(chromium, tmp_path, large)
    view = page.locator(".rows")
    assert view.get_attribute("aria-rowcount") == "10000"
    view.evaluate("view => { view.scrollTop = view.scrollHeight; }")
    page.locator("[data-at='9999']").wait_for()
    assert page.locator(".row").count() < 120
    assert errors == []
    page.close()


@pytest.mark.browser
def test_ten_thousand_spans_open_with_less_than_a_second_of_work(
    chromium: Browser, tmp_path: Path, large: Run
) -> None:
    page, errors = opened(chromium, tmp_path, large)
    page.locator(".row").first.wait_for()
    page.wait_for_function("performance.getEntriesByName('shown').length")
    assert work_of_page_s(page) < 1.0
    assert errors == []
    page.close()


@pytest.mark.browser
def test_axe_finds_nothing_in_a_report(
    chromium: Browser, tmp_path: Path, failing: Run, axe: Callable[[Page], list[object]]
) -> None:
    for scheme in ("light", "dark"):
        page, errors = opened(chromium, tmp_path, failing, color_scheme=scheme)
        page.locator(".attributes").wait_for()
        assert axe(page) == []
        assert errors == []
        page.close()


@pytest.mark.browser
def test_the_report_is_readable_without_scripts(
    chromium: Browser, tmp_path: Path, failing: Run
) -> None:
    page, _ = opened(chromium, tmp_path, failing, java_script_enabled=False)
    text = page.locator("body").inner_text()
    assert "1 failed, 12 passed" in text
    assert "fast_hooks" in text
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_at_phone_width(
    chromium: Browser, tmp_path: Path, hostile: Run, scheme: str
) -> None:
    page, _ = opened(
        chromium, tmp_path, hostile, viewport={"width": 360, "height": 700}, color_scheme=scheme
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def data(text: str) -> dict[str, Any]:
    """Unpack the data of a report, as its script does."""
    found = re.search(r'id="data">([^<]*)</script>', text)
    assert found is not None
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def test_a_report_holds_every_row_and_every_detail(failing: Run) -> None:
    spans = failing.stored()
    held = data(html_report(spans))
    assert held["rows"] == json.loads(json.dumps(waterfall(spans)["rows"]))
    assert {row["id"] for row in held["rows"]} == set(held["details"])
    assert held["left_out"] == 0


def test_a_report_of_ten_thousand_spans_is_small(large: Run) -> None:
    text = html_report(large.stored())
    assert len(text.encode()) <= 2_000_000
    held = data(text)
    assert (len(held["rows"]), len(held["details"]), held["left_out"]) == (10_000, 10_000, 0)


def test_a_report_is_small_for_any_spans_and_keeps_failures(large: Run) -> None:
    noise = random.Random(1)
    spans = large.stored()
    for each in spans:
        text = noise.randbytes(2_000).hex()
        each.span.attributes.add(key="spanbus.output.tail").value.string_value = text
        each.span.events.add(name=text[:60], time_unix_nano=each.span.start_time_unix_nano)
    text = html_report(spans)
    assert len(text.encode()) <= 2_000_000
    held = data(text)
    failed = [row for row in held["rows"] if row["result"] == "failure"]
    assert len(held["rows"]) == 10_000
    assert len(failed) == 10
    assert all(row["output"] and row["id"] in held["details"] for row in failed)
    assert held["left_out"] > 0


def test_no_name_can_close_the_script_or_open_a_tag(hostile: Run) -> None:
    text = html_report(hostile.stored())
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "\u202e" not in text


def test_the_report_has_no_url(failing: Run) -> None:
    assert re.findall(r"https?://[^\s\"']+", html_report(failing.stored())) == []


def test_markdown_lists_phases_and_what_failed(failing: Run) -> None:
    text = markdown_report(failing.stored())
    assert text.startswith("### ✗ `standard`: failure, 4.20 s\n")
    assert "| ✓ success | `fast_hooks` | 1.30 s | 2 |  |" in text
    assert "1 failed, 12 passed" in text
    assert text.count("<details>") == text.count("</details>") == 2


def test_a_skipped_phase_has_no_duration(empty_runs: Callable[..., Any]) -> None:
    run = empty_runs(run_id="r")
    top = run.span("run", "standard", 0, 10)
    run.span("phase", "publish", 5, 0, parent=top, result="skip")
    assert "| ↷ skip | `publish` |  | 1 |" in markdown_report(run.stored())


def test_hostile_names_stay_inside_their_markdown_cell(hostile: Run) -> None:
    text = markdown_report(hostile.stored())
    table = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(table) == 11
    for line in table:
        assert len(re.findall(r"(?<!\\)\|", line)) == 6
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_a_fence_in_the_output_does_not_end_the_code_block(failing: Run) -> None:
    spans = failing.stored()
    for each in spans:
        for pair in each.span.attributes:
            if pair.key == "spanbus.output.tail":
                pair.value.string_value = "````\n<b>out</b>"
    assert "`````text\n````\n<b>out</b>\n`````" in markdown_report(spans)


def test_markdown_stays_below_the_limit_of_a_job_summary(large: Run) -> None:
    spans = large.stored()
    for each in spans:
        if each.span.status.code:
            each.span.attributes.add(key="spanbus.output.tail").value.string_value = "x" * 100_000
    assert len(markdown_report(spans)) < 1_000_000


def test_a_cycle_of_parents_is_cut(failing: Run) -> None:
    spans = failing.stored()
    spans[0].span.parent_span_id = spans[1].span.span_id
    assert sorted(row["id"] for row in waterfall(spans)["rows"]) == sorted(
        each.span.span_id.hex() for each in spans
    )


def test_an_empty_trace_gives_a_report() -> None:
    assert "empty trace" in html_report([])
    assert "no spans" in markdown_report([])
