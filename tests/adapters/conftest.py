"""Tests against the real libraries, each in a virtual environment of its own: ``make test-adapters``."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from picture import picture

import spanbus
from spanbus.testing import Receiver

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"


@pytest.fixture
def collector() -> Generator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(params=["spool", "sdk"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Both values of SPANBUS_DELIVERY: what does not speak of durability is the same in both."""
    return str(request.param)


@pytest.fixture
def runtime(collector: Receiver, tmp_path: Path, delivery: str) -> Generator[spanbus.Runtime]:
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path), "SPANBUS_DELIVERY": delivery}
    with spanbus.open_runtime_sync(env=env) as runtime:
        yield runtime


@pytest.fixture
def drawn(runtime: spanbus.Runtime, collector: Receiver) -> Callable[[], list[str]]:
    """Flushes, and gives what the collector has as lines, one a span."""

    def draw() -> list[str]:
        assert runtime.flush()
        return picture(collector.spans())

    return draw


@pytest.fixture
def example(runtime: spanbus.Runtime) -> Callable[..., list[str]]:
    """Runs the example in a section of docs/adapters.md, and gives the picture that stands beneath it; as a file of its
    own where one is named.
    """

    def run(section: str, path: Path | None = None) -> list[str]:
        text = DOCUMENT.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
        found = re.search(
            r"^```py\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        )
        assert found is not None, section
        if path is not None:
            path.write_text(found[1])
            runpy.run_path(str(path), run_name="__main__")
        else:
            code = compile(found[1], f"docs/adapters.md, {section}", "exec")
            exec(code, {"__name__": "__main__"})
        return [re.sub(r"(?<=\S) +", " ", line) for line in found[2].splitlines()]

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.adapters)
