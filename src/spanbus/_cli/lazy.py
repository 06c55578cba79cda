"""Modules that commands use in annotations only. They are imported when typer evaluates these: for help, completion and
invalid command lines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["complete", "options", "typer"]

if TYPE_CHECKING:
    import typer

    from spanbus._cli import complete, options
else:

    class _LazyModule:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> object:
            return getattr(import_module(self._name), name)

    typer = _LazyModule("typer")
    complete = _LazyModule("spanbus._cli.complete")
    options = _LazyModule("spanbus._cli.options")
