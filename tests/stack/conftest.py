"""One stack for the tests that do not break it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli
from servers import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    one = Stack(tmp_path_factory.mktemp("stack"))
    try:
        yield one.start()
    finally:
        one.stop()


@pytest.fixture
def own_stack(tmp_path: Path) -> Generator[Stack]:
    """One that a test may break."""
    folder = tmp_path / "stack"
    folder.mkdir()
    one = Stack(folder)
    try:
        yield one.start()
    finally:
        one.stop()


def _cli(folder: Path, stack: Stack) -> Cli:
    (folder / "spanbus.toml").write_text(WORKFLOW)
    return Cli(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.otlp, "SPANBUS_EXIT_TIMEOUT_S": "5"})


@pytest.fixture
def cli(tmp_path: Path, stack: Stack) -> Cli:
    return _cli(tmp_path, stack)


@pytest.fixture
def own_cli(tmp_path: Path, own_stack: Stack) -> Cli:
    return _cli(tmp_path, own_stack)
