"""The commands of the how-to pages run as they stand there, one page in one folder, and do what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from spanbus._store.store import Store
from spanbus.testing import Receiver

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """Runs the shell blocks of a page, in order, in one shell with a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "bin").mkdir()
        self.program("spanbus", f'exec {sys.executable} -m spanbus "$@"')

    def program(self, name: str, body: str) -> None:
        """A program of that name in the place of one that a test cannot have."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o700)

    def run(
        self,
        name: str,
        *,
        until: int | None = None,
        here: Mapping[str, str] = MappingProxyType({}),
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Run the page's blocks; ``here`` are names of elsewhere with what stands for them."""
        blocks = _SHELL.findall((HOW_TO / name).read_text())[:until]
        assert blocks, name
        for elsewhere, ours in here.items():
            assert elsewhere in "".join(blocks), elsewhere
            blocks = [block.replace(elsewhere, ours) for block in blocks]
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OTEL_", "SPANBUS_", "TRACE"))
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=self.folder,
            env=kept
            | {
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "SPANBUS_STATE_DIR": str(self.state),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def store(self) -> Store:
        return Store.open(self.state / "store.sqlite3")


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


def test_own_attributes(page: Page) -> None:
    page.run("own-attributes-and-metrics.md")
    with page.store() as store:
        written = "".join(store.otlp_json("last"))
    assert '"team"' in written
    assert '"4.2"' in written


def test_buckets(page: Page) -> None:
    with Receiver() as receiver:
        page.run("buckets.md", env={**receiver.env, "SPANBUS_EXIT_TIMEOUT_S": "20"})
        durations = {
            metric.name: metric.WhichOneof("data")
            for metric in receiver.metrics()
            if metric.name.endswith("run.duration")
        }
    assert durations == {"cicd.pipeline.run.duration": "exponential_histogram"}


def test_sampling_leaves_out_traces_and_counts_every_run(page: Page) -> None:
    shown = page.run("sampling.md")
    assert "unseen" not in shown
    with page.store() as store:
        counted = {
            series.attributes["cicd.pipeline.name"]: series.count
            for series in store.metric_series()
            if series.name == "cicd.pipeline.run.duration"
        }
        assert "unseen" not in store.workflows()
    assert counted == {"seen": 1, "unseen": 1}


def test_the_collectors_sampling_is_yaml() -> None:
    [text] = re.findall(
        r"^```yaml\n(.*?)^```$", (HOW_TO / "sampling.md").read_text(), re.MULTILINE | re.DOTALL
    )
    policies = yaml.safe_load(text)["processors"]["tail_sampling"]["policies"]
    assert [each["type"] for each in policies] == ["status_code", "probabilistic"]


def test_redaction(page: Page) -> None:
    shown = page.run("redaction.md")
    assert "label REDACTED, password=REDACTED" in shown
    with page.store() as store:
        kept = "".join(store.otlp_json("last"))
    assert "REDACTED" in kept
    assert "ACME-123456" not in kept
    assert "hunter2" not in kept


def test_where_data_lies(page: Page) -> None:
    table = (HOW_TO / "where-data-lies.md").read_text()
    page.run("where-data-lies.md", until=1)
    there = list(page.state.iterdir())
    assert page.state / "store.sqlite3" in there
    for each in there:
        name = re.sub(r"-(wal|shm)$", "", each.name)
        assert f"`{name}`" in table or f"`{name}/`" in table, each.name


def test_how_to_remove_it(page: Page) -> None:
    page.run("where-data-lies.md")
    assert not page.state.exists()


def test_several_projects(page: Page) -> None:
    (page.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = "true" } ]\n'
    )
    page.run("several-projects-one-stack.md", until=1)
    with page.store() as store:
        assert store.run_head("last").project == "payments"
        assert '"prod"' in "".join(store.otlp_json("last"))


def test_exec(page: Page) -> None:
    (page.folder / "Makefile").write_text("test:\n\t@echo tested\n")
    assert "tested" in page.run("exec.md")
    with page.store() as store:
        assert store.run("last").workflow == "make"


def test_a_dialect(page: Page) -> None:
    assert "press" in page.run("write-a-dialect.md")
    with page.store() as store:
        run = store.run("last")
    assert [(phase.name, phase.result) for phase in run.phases] == [("press", "failure")]


def test_a_vendor(page: Page) -> None:
    """The doctor's test trace comes in with the key, percent-decoded, and the key is not shown."""
    with Receiver() as vendor:
        shown = page.run("send-to-a-vendor.md", here={"https://otlp.vendor.example": vendor.url})
        keys = {request.headers.get("api-key") for request in vendor.requests}
    assert keys == {"YOUR KEY"}
    assert "YOUR" not in shown


def test_upgrade_of_a_project(page: Page) -> None:
    """The commands of the stack run in containers: tests/compose/test_stack_command.py."""
    called = page.folder / "called"
    page.program("pip", f'echo "$*" >> {called}')
    assert "state_dir" in page.run("upgrade.md", until=1)
    assert called.read_text() == "install --upgrade spanbus\n"


@pytest.mark.parametrize("page_file", sorted(HOW_TO.glob("*.md")), ids=lambda path: path.stem)
def test_every_page_is_one_screen(page_file: Path) -> None:
    assert len(page_file.read_text().splitlines()) <= 65
