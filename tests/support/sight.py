"""A page of `spanbus up` in a real browser, with its errors collected."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Protocol, cast

from embedded import Up
from playwright.sync_api import BrowserContext, Page


class Run(Protocol):
    run_id: str

    def body(self) -> bytes: ...


class Made(Protocol):
    """A builder of runs of backend/conftest.py; options are a number, an id and a start."""

    def __call__(self, **options: object) -> Run: ...


def send(up: Up, run: Run) -> None:
    urllib.request.urlopen(
        urllib.request.Request(
            f"{up.url}/v1/traces", run.body(), {"Content-Type": "application/x-protobuf"}
        )
    ).close()


def work_of_page_s(page: Page) -> float:
    """Return the processor time of the page's renderer since its start; it does not depend on the load of the machine."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    told = cast("dict[str, list[dict[str, object]]]", session.send("Performance.getMetrics"))
    session.detach()
    values = {str(each["name"]): each["value"] for each in told["metrics"]}
    return float(cast("float", values["ProcessTime"]))


def work_of_process_s(pid: int) -> float:
    """Return the processor time of a process since its start; 0 on systems without ``/proc``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Sight:
    """A browser page. ``problems`` are script errors, console warnings and requests to other origins."""

    def __init__(self, context: BrowserContext, up: Up) -> None:
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                self.problems.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        self.page.on(
            "request",
            lambda request: (
                self.problems.append(request.url)
                if not request.url.startswith((up.url, "data:"))
                else None
            ),
        )
        self.page.goto(up.page)
        self.up = up

    def go(self, place: str) -> None:
        self.page.evaluate("place => { location.hash = place; }", place)

    def shot(self, path: Path) -> None:
        self.page.screenshot(path=path, full_page=True)

    def work_s(self) -> float:
        """Return the processor time of the page and of its backend."""
        return work_of_page_s(self.page) + work_of_process_s(self.up.process.pid)
