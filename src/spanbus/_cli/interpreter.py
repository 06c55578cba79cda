"""Command line and environment for another ``spanbus`` process that imports nothing from the working directory."""

from __future__ import annotations

import os
import sys


def argv(*arguments: str) -> list[str]:
    """Command line of ``spanbus`` in this interpreter; ``-P`` keeps the working directory off the import path."""
    return [sys.executable, "-P", "-m", "spanbus", *arguments]


def environment() -> dict[str, str]:
    """Environment with only the absolute entries of PYTHONPATH: an empty or relative one is the working directory."""
    kept = dict(os.environ)
    path = kept.pop("PYTHONPATH", "")
    if entries := [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]:
        kept["PYTHONPATH"] = os.pathsep.join(entries)
    return kept
