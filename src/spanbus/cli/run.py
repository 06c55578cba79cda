"""spanbus run: a workflow of the settings, live, then as a waterfall."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus.cli import complete
from spanbus.cli.options import File, Json

if TYPE_CHECKING:
    from rich.console import Console

    from spanbus.runtime import Runtime
    from spanbus.telemetry.summary import RunSummary


def command(
    workflow: Annotated[str | None, typer.Argument(help="Its name in [tool.spanbus.workflows]; default: the only one, or 'default'.", show_default=False, autocompletion=complete.workflows)] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="PHASE", help="Run this phase and no other; may be repeated.", autocompletion=complete.phases)] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="PHASE", help="Leave this phase out; may be repeated.", autocompletion=complete.phases)] = None,
    file: File = None,
    record: Annotated[Path | None, typer.Option("--record", metavar="FILE", help="Write every bus event as a JSON line; .gz compresses.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the tools' output only where something failed.")] = False,
    as_json: Json = False,
) -> None:
    """Run a workflow; each phase becomes a span, counted and timed.

    Exit code: 0 success, 1 a phase failed, 2 bad input, 130 interrupted, 143 terminated.
    """
    from spanbus.cli import console
    from spanbus.cli.progress import progress
    from spanbus.cli.running import Choice, Recording, run_workflow
    from spanbus.runtime import Runtime
    from spanbus.settings import load_settings

    console.outlive_readers()
    settings = load_settings(file)
    what = settings.workflow(workflow)
    for name in (*(only or ()), *(skip or ())):
        what.phase(name)
    screen = console.output(to_stderr=as_json)
    cwd = settings.file.parent if settings.file is not None else None
    with ExitStack() as stack:
        recording = stack.enter_context(Recording(record)) if record is not None else None
        runtime = stack.enter_context(Runtime(settings, lifetime="run", command_line=True))
        shown = progress(what, screen, quiet=quiet or as_json)
        observers = [shown.seen] if recording is None else [recording.seen, shown.seen]
        with shown:
            outcome = run_workflow(runtime, what, Choice(only=only or (), skip=skip or ()), observers=observers, output=shown.line, cwd=cwd)
        runs = runtime.summaries()
        if as_json:
            console.document(document(runtime, runs))
        else:
            for run in runs:
                tell(run, screen, runtime)
    raise typer.Exit(outcome.exit_code)


def document(runtime: Runtime, runs: list[RunSummary]) -> dict[str, object]:
    """What ``--json`` prints."""
    from spanbus.telemetry.summary import Totals, runs_document

    state = runtime.handle.state()
    totals = Totals(
        events_seen=state.events_seen, events_recorded=state.events_recorded, run_failures=state.run_failures, phase_failures=state.phase_failures,
        retries=state.retries, orphan_ends=state.orphan_ends, unmatched_ends=state.unmatched_ends, abandoned=state.abandoned,
    )
    return runs_document(runs, totals)


def tell(run: RunSummary, screen: Console, runtime: Runtime) -> None:
    """The waterfall, what failed, and where to look further."""
    from spanbus.cli import console
    from spanbus.cli.draw import failures, waterfall
    from spanbus.local.read_only import takes_files

    screen.print()
    console.draw(screen, waterfall(run, screen))
    console.draw(screen, failures(run, screen))
    if runtime.settings.sdk_disabled:
        return
    if not runtime.sampled(run.run_id):
        where = "(not sampled: its spans are kept nowhere, its metrics are)"
    elif runtime.settings.local == "off" or not takes_files(runtime.settings.state_dir):  # the end says what is lost then
        where = ""
    else:
        where = f"spanbus show {run.run_id}"
    screen.print(f"trace {run.trace_id}  {where}".rstrip(), style="dim", soft_wrap=True)
