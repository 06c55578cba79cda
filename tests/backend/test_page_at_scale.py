"""The page with more phases than a browser can render at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from embedded import Up
from playwright.sync_api import Browser, expect
from sight import Sight, send

pytestmark = pytest.mark.browser

PHASES = 10_069


def many_phases(empty_runs: Callable[..., Any]) -> Any:
    run = empty_runs(workflow="many", start_ns=(int(time.time()) - 600) * 10**9)
    top = run.span("run", "many", 0, PHASES)
    for number in range(PHASES):
        result = "failure" if number == PHASES - 1 else "success"
        run.span("phase", f"phase {number:05}", number, 5, parent=top, result=result)
    return run


def test_ten_thousand_phases_are_rendered_while_scrolling(
    chromium: Browser, empty_runs: Callable[..., Any], tmp_path: Path
) -> None:
    up = Up(Cli(tmp_path))
    try:
        send(up, many_phases(empty_runs))
        context = chromium.new_context(viewport={"width": 1400, "height": 900})
        sight = Sight(context, up)
        page = sight.page
        sight.go("#/phases")
        rows = page.locator("tbody tr")
        expect(rows.first).to_contain_text("phase 00069", timeout=20_000)
        expect(page.get_by_text("Of the newest 10,000 durations")).to_be_visible()
        assert rows.count() == 200
        assert page.evaluate("document.documentElement.scrollHeight") < 20_000
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(rows.nth(399)).to_contain_text("phase 00468")
        assert rows.count() < 1_000
        search = page.get_by_label("Phase", exact=True)  # it looks at all of them, made or not
        search.fill(f"{PHASES - 2:05}")
        expect(rows).to_have_count(1)
        search.fill("")
        page.get_by_label("Order").select_option("failures")
        expect(rows.first).to_contain_text(f"phase {PHASES - 1:05}")
        expect(rows.first).to_contain_text("100 % (1)")
        assert rows.count() == 200
        context.close()
        assert sight.problems == []
    finally:
        up.stop()
