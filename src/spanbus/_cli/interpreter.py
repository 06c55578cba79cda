"""The command line of another ``spanbus`` process that imports nothing of the working directory."""

from __future__ import annotations

import os
import sys


def argv(*arguments: str) -> list[str]:
    """This interpreter running ``spanbus``; ``-P`` keeps the working directory off the import path."""
    return [sys.executable, "-P", "-m", "spanbus", *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with PYTHONPATH reduced to absolute entries: an empty or relative one is the
    working directory.
    """
    kept = dict(os.environ)
    path = kept.pop("PYTHONPATH", "")
    if entries := [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]:
        kept["PYTHONPATH"] = os.pathsep.join(entries)
    return kept
