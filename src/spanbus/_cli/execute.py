"""spanbus exec: help and completion. The command itself is in :mod:`spanbus._exec`."""

from __future__ import annotations

from typing import Annotated

from spanbus._cli.lazy import options, typer

CONTEXT = {"allow_interspersed_args": False}


def command(
    argv: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The program with its arguments.")
    ],
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            "-w",
            metavar="W",
            help="Name of the run's workflow; default: the program's.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", "-n", metavar="PHASE", help="Name of the phase; default: the program's."
        ),
    ] = None,
    file: options.File = None,
    attr: Annotated[
        list[str] | None,
        typer.Option(
            "--attr", metavar="KEY=VALUE", help="A resource attribute of this run; may be repeated."
        ),
    ] = None,
    keep_output: Annotated[
        bool,
        typer.Option(
            "--keep-output",
            help="Keep its output for `spanbus logs` and reports, as with SPANBUS_KEEP_OUTPUT=true.",
        ),
    ] = False,
) -> None:
    """Run one command as a run with one phase; TRACEPARENT is passed on to it.

    The exit code is the command's own: 127 when it is not found, 126 when it cannot be run, 128+n when signal n ended it.
    """
    from spanbus._exec.arguments import Arguments
    from spanbus._exec.wrapper import execute

    arguments = Arguments(list(argv))
    arguments.workflow, arguments.name = workflow, name
    arguments.file = str(file) if file is not None else None
    arguments.attributes = list(attr or ())
    arguments.keep_output = keep_output
    execute(arguments)
