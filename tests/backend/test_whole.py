"""End to end: `spanbus up` in one process, `spanbus run` in another, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import WORKFLOW, Cli
from embedded import Up
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

LONG = '[workflows.long]\nphases = [ { name = "first", run = "true" }, { name = "wait", run = ["sh", "-c", "echo $$ > sleeper; exec sleep 60"], needs = ["first"] } ]\n'


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    (tmp_path / "long.toml").write_text(LONG)
    backend = Up(Cli(tmp_path))
    yield backend
    backend.stop()


def test_a_killed_run_is_shown_as_stalled_then_killed_then_stored(
    up: Up, chromium: Browser, tmp_path: Path
) -> None:
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(up.page)
    running = up.cli.start("run", "--file", "long.toml", "-q")
    now = page.get_by_role("main")
    expect(now.get_by_text("wait", exact=False).first).to_be_visible(timeout=30_000)
    expect(now.get_by_text("running").first).to_be_visible()
    os.kill(running.pid, signal.SIGSTOP)
    expect(now.get_by_text("stalled").first).to_be_visible(timeout=30_000)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=20)
    # a row says its error twice, once for narrow pages
    killed = now.get_by_text("killed").filter(visible=True)
    expect(killed.first).to_be_visible(timeout=30_000)
    row = page.locator("tbody tr").filter(has_text="long")
    expect(row).to_be_visible(timeout=20_000)
    expect(row).to_contain_text("killed")
    expect(page.locator(".card")).to_have_count(0)  # it is not running any more
    row.get_by_role("link").first.click()
    expect(page.get_by_text("wait").first).to_be_visible()
    assert problems == []
    page.close()
    with suppress(OSError):
        os.kill(int((tmp_path / "sleeper").read_text()), signal.SIGKILL)  # it was orphaned
    [run] = json.loads(up.cli("runs", "--json").out)
    assert (run["result"], run["error_type"]) == ("error", "killed")


def test_a_live_view_keeps_focus_and_scroll_position(
    up: Up, chromium: Browser, tmp_path: Path
) -> None:
    page = chromium.new_page(viewport={"width": 1000, "height": 400})
    page.goto(up.page)
    many = ", ".join(f'{{ name = "p{number}", run = "true" }}' for number in range(60))
    (tmp_path / "many.toml").write_text(
        f'[workflows.many]\nphases = [ {many}, {{ name = "wait", run = "sleep 60" }} ]\n'
    )
    running = up.cli.start("run", "--file", "many.toml", "-q")
    link = page.locator(".card").get_by_role("link")
    moves = "([place, before]) => { const now = document.querySelector(place); return now && now.textContent !== before; }"
    try:
        expect(page.locator(".card")).to_contain_text("wait", timeout=20_000)
        link.focus()
        for _ in range(3):
            page.wait_for_function(moves, arg=[".card", page.locator(".card").text_content()])
        expect(link).to_be_focused()
        link.press("Enter")
        tree = page.get_by_role("treegrid")
        expect(tree).to_have_attribute("aria-rowcount", re.compile(r"^[6-9]\d|1\d\d$"))
        tree.focus()
        tree.evaluate("tree => { tree.scrollTop = 300; }")
        for _ in range(3):
            page.wait_for_function(
                moves, arg=[".facts", page.locator(".facts").first.text_content()]
            )
        expect(tree).to_be_focused()
        assert tree.evaluate("tree => tree.scrollTop") == 300
    finally:
        running.terminate()
        running.communicate(timeout=20)
        page.close()


def test_a_finished_run_is_on_the_page_as_the_terminal_shows_it(up: Up, chromium: Browser) -> None:
    [run] = up.cli("run", "--json").json()["runs"]  # type: ignore[misc, index]
    page = chromium.new_page()
    page.goto(up.page)
    page.locator("tbody tr").filter(has_text="standard").get_by_role("link").first.click()
    for phase in run["phases"]:  # type: ignore[index]
        expect(page.get_by_text(phase["name"]).first).to_be_visible()
    expect(page.get_by_text("failure").first).to_be_visible()
    attempts = page.locator(".row[aria-level='3']").filter(has_text="attempt")
    expect(attempts).to_have_count(2)
    assert [text.count("attempt") for text in attempts.locator(".name").all_text_contents()] == [
        1,
        1,
    ]
    page.close()


def test_view_opens_the_backend_that_runs(up: Up) -> None:
    up.cli("run", "-q")
    done = up.cli("view", "last", "--no-browser")
    assert done.code == 0
    assert done.out.startswith(up.url)
    assert "token=" in done.out


def test_view_of_a_run_opens_that_run(up: Up, chromium: Browser) -> None:
    up.cli("run", "-q")
    page = chromium.new_page()
    page.goto(up.cli("view", "last", "--no-browser").out.strip())
    expect(page.get_by_role("treegrid")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("standard")
    page.close()


def test_a_trace_of_another_program_is_on_the_page(up: Up, chromium: Browser) -> None:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    spans = group.scope_spans.add().spans
    now_ns = time.time_ns()
    top = spans.add(
        trace_id=b"t" * 16,
        span_id=b"a" * 8,
        name="GET /cart",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now_ns,
        end_time_unix_nano=now_ns + 10**9,
    )
    child = spans.add(
        trace_id=b"t" * 16,
        span_id=b"b" * 8,
        parent_span_id=top.span_id,
        name="SELECT",
        start_time_unix_nano=now_ns,
        end_time_unix_nano=now_ns + 10**8,
    )
    child.status.code, child.status.message = Status.STATUS_CODE_ERROR, "no such table"
    sent = urllib.request.Request(
        f"{up.url}/v1/traces",
        request.SerializeToString(),
        {"Content-Type": "application/x-protobuf"},
    )
    urllib.request.urlopen(sent).close()
    page = chromium.new_page()
    page.goto(up.page)
    page.get_by_role("link", name="Traces", exact=True).click()
    page.locator("tbody tr").filter(has_text="GET /cart").get_by_role("link").click()
    rows = page.get_by_role("treegrid").locator(".row")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("SELECT")
    rows.nth(1).click()
    expect(page.get_by_text("no such table")).to_be_visible()
    page.close()


def test_a_run_with_an_id_that_looks_like_a_path_is_on_the_page(
    up: Up, chromium: Browser, empty_runs: Callable[..., Any]
) -> None:
    run = empty_runs(run_id="org/repo/spans/7?x=1#y %2F", start_ns=time.time_ns())
    phase = run.span(
        "phase",
        "lint",
        0,
        10,
        parent=run.span("run", "standard", 0, 10),
        result="failure",
        error__type="unsuccessful",
    )
    run.event(phase, 5, "workflow.step", note="from the stored span")
    urllib.request.urlopen(
        urllib.request.Request(
            f"{up.url}/v1/traces", run.body(), {"Content-Type": "application/x-protobuf"}
        )
    ).close()
    page = chromium.new_page()
    page.goto(up.page)
    page.locator("tbody tr").get_by_role("link").click()
    expect(page.get_by_text("from the stored span")).to_be_visible()
    page.goto(up.cli("view", "org/", "--no-browser").out.strip())
    expect(page.get_by_text("from the stored span")).to_be_visible()
    page.close()


def test_a_phase_that_never_ran_and_an_unnamed_workflow_are_shown(
    up: Up, chromium: Browser, empty_runs: Callable[..., Any]
) -> None:
    run = empty_runs(run_id="r", workflow="", start_ns=time.time_ns())
    run.span("phase", "publish", 0, 0, parent=run.span("run", "", 0, 10), result="skip")
    urllib.request.urlopen(
        urllib.request.Request(
            f"{up.url}/v1/traces", run.body(), {"Content-Type": "application/x-protobuf"}
        )
    ).close()
    page = chromium.new_page()
    page.goto(up.page)
    expect(page.get_by_role("combobox", name="Workflow").locator("option")).to_have_count(1)
    page.get_by_role("link", name="(no name)").click()
    expect(page.get_by_role("treegrid")).to_contain_text("publish")
    page.get_by_role("link", name="Phases", exact=True).click()
    expect(page.get_by_role("row", name="publish")).to_have_text(re.compile("publish0–––none"))
    page.close()


def test_a_page_with_a_token_of_an_earlier_start_goes_to_the_login(
    up: Up, chromium: Browser
) -> None:
    page = chromium.new_page()
    page.goto(up.page)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    up.stop()
    later = Up(up.cli, "--port", up.url.rpartition(":")[2])
    expect(page.get_by_label("Token")).to_be_visible(timeout=30_000)
    later.stop()
    assert not any("ASGI" in line for line in later.said)
    page.close()
