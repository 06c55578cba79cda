"""`spanbus up` in one terminal, `spanbus run` in another, a person before the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

LONG = '[workflows.long]\nphases = [ { name = "first", run = "true" }, { name = "wait", run = "sleep 60", needs = ["first"] } ]\n'


class Up:
    """A backend of its own process."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.process = cli.start("up", "--port", "0")
        assert self.process.stdout is not None
        self.page = self.process.stdout.readline().split()[1]
        self.url = self.process.stdout.readline().split()[1]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err, err
        del out


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    (tmp_path / "long.toml").write_text(LONG)
    backend = Up(Cli(tmp_path))
    yield backend
    backend.stop()


def test_the_page_moves_and_a_killed_run_is_shown_as_stalled_then_killed_then_stored(up: Up, chromium: Browser) -> None:
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(up.page)
    running = up.cli.start("run", "--file", "long.toml", "-q")
    began = time.monotonic()
    now = page.get_by_role("main")
    expect(now.get_by_text("wait", exact=False).first).to_be_visible(timeout=10_000)
    expect(now.get_by_text("running").first).to_be_visible()
    assert time.monotonic() - began < 10
    os.kill(running.pid, signal.SIGSTOP)
    expect(now.get_by_text("stalled").first).to_be_visible(timeout=10_000)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=20)
    expect(now.get_by_text("killed").first).to_be_visible(timeout=10_000)
    row = page.locator("tbody tr").filter(has_text="long")
    expect(row).to_be_visible(timeout=20_000)
    expect(row).to_contain_text("killed")
    row.get_by_role("link").first.click()
    expect(page.get_by_text("wait").first).to_be_visible()
    assert problems == []
    page.close()
    subprocess.run(["pkill", "-f", "sleep 60"], check=False)
    [run] = json.loads(up.cli("runs", "--json").out)
    assert (run["result"], run["error_type"]) == ("error", "killed")


def test_a_finished_run_is_on_the_page_as_the_terminal_shows_it(up: Up, chromium: Browser) -> None:
    [run] = up.cli("run", "--json").json()["runs"]  # type: ignore[misc, index]
    page = chromium.new_page()
    page.goto(up.page)
    page.locator("tbody tr").filter(has_text="standard").get_by_role("link").first.click()
    for phase in run["phases"]:  # type: ignore[index]
        expect(page.get_by_text(phase["name"]).first).to_be_visible()
    expect(page.get_by_text("failure").first).to_be_visible()
    page.close()


def test_view_opens_the_backend_that_runs(up: Up) -> None:
    up.cli("run", "-q")
    done = up.cli("view", "last", "--no-browser")
    assert done.code == 0
    assert done.out.startswith(up.url)
    assert "token=" in done.out
