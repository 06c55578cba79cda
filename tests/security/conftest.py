"""Fixture: the command in a folder like a cloned repository, whose files must not be trusted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import Cli


class Installed(Cli):
    """The installed command: its own folder is first on the import path, not the working directory."""

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-c", "from spanbus._cli import main; main()", *arguments]


@pytest.fixture
def cloned(tmp_path: Path) -> Installed:
    """The command in a cloned folder, with the user's home and state elsewhere."""
    folder, home = tmp_path / "cloned", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    return Installed(
        folder,
        {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "SPANBUS_STATE_DIR": "",
        },
        alone=True,
    )
