"""Modules that only the annotations of commands speak of: loaded when typer reads these, which it does for help, completion
and lines that are wrong.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["complete", "options", "typer"]

if TYPE_CHECKING:
    import typer

    from spanbus._cli import complete, options
else:

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> object:
            return getattr(import_module(self._name), name)

    typer = _Later("typer")
    complete = _Later("spanbus._cli.complete")
    options = _Later("spanbus._cli.options")
