"""Command line and environment of another ``spanbus`` process that imports nothing from the working directory."""

from __future__ import annotations

import os
import sys


def argv(*arguments: str) -> list[str]:
    """Return the command line; ``-P`` keeps the working directory off the import path."""
    return [sys.executable, "-P", "-m", "spanbus", *arguments]


def environment() -> dict[str, str]:
    """Return the environment with only the absolute entries of PYTHONPATH: others depend on the working directory."""
    kept = dict(os.environ)
    path = kept.pop("PYTHONPATH", "")
    if entries := [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]:
        kept["PYTHONPATH"] = os.pathsep.join(entries)
    return kept
