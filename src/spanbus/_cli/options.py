"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="The settings: a spanbus.toml or pyproject.toml; default: the nearest one upwards.",
    ),
]
AllProjects = Annotated[
    bool,
    typer.Option("--all", "-a", help="All projects; default: the project of this folder."),
]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attr", metavar="KEY=VALUE", help="A resource attribute of this run; may be repeated."
    ),
]
