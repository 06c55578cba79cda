"""spanbus exec: one command as a one-phase run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from spanbus.cli.options import File

CONTEXT = {"allow_interspersed_args": False}


def command(
    argv: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The program with its arguments.")],
    workflow: Annotated[str, typer.Option("--workflow", "-w", metavar="W", help="Name of the run's workflow.")] = "exec",
    name: Annotated[str | None, typer.Option("--name", "-n", metavar="PHASE", help="Name of the phase; default: the program's.")] = None,
    file: File = None,
) -> None:
    """Run one command as a run with one phase; TRACEPARENT is passed on to it.

    The exit code is the command's own: 127 when it is not found, 126 when it cannot be run, 128+n when signal n ended it.
    """
    from spanbus.cli import console
    from spanbus.cli.running import Choice, run_workflow
    from spanbus.runtime import Runtime
    from spanbus.settings import load_settings
    from spanbus.workflow.definition import Command, Phase, Workflow
    from spanbus.workflow.events import Event, WorkflowEvent

    console.outlive_readers()
    settings = load_settings(file)
    program = Path(argv[0]).name or argv[0]
    phase = (name or program).strip() or program
    what = Workflow(workflow.strip() or "exec", (Phase(phase, command=Command(tuple(argv))),))
    code: list[int | None] = [None]

    def seen(event: Event) -> bool:
        if event.event_type in (WorkflowEvent.HOOK_EXECUTION_COMPLETED, WorkflowEvent.HOOK_EXECUTION_FAILED):
            exit_code = event.payload.get("exit_code")
            code[0] = exit_code if isinstance(exit_code, int) else None
        return True

    with Runtime(settings, lifetime="run", command_line=True) as runtime:
        outcome = run_workflow(runtime, what, Choice(), observers=[seen], inherit=True)
    if code[0] is None and outcome.signal_name is None:
        found = shutil.which(argv[0])
        console.complain(f"{argv[0]}: {'cannot be run' if found or Path(argv[0]).exists() else 'command not found'}")
        raise typer.Exit(126 if found or Path(argv[0]).exists() else 127)
    exit_code = code[0]
    if exit_code is None:
        raise typer.Exit(outcome.exit_code)
    raise typer.Exit(exit_code if exit_code >= 0 else 128 - exit_code)
