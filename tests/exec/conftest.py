"""Fixture: the command in a folder with its own state directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, exec_alone=True)
