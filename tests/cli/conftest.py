"""A folder to run the command in."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A folder with the workflow ``standard``: one phase fails, one is skipped, one is tried twice."""
    (cli.folder / "spanbus.toml").write_text(WORKFLOW)
    return cli
