"""spanbus show: one stored run as a waterfall or a timeline."""

from __future__ import annotations

from typing import Annotated

import typer

from spanbus.cli import complete
from spanbus.cli.options import File, Json

_WITHIN = 10
"""So many runs within one are named."""


def command(
    run: Annotated[str, typer.Argument(help="A run's id, the beginning of one, or 'last'.", autocompletion=complete.runs)] = "last",
    events: Annotated[bool, typer.Option("--events", "-e", help="The timeline of its events.")] = False,
    as_json: Json = False,
    otlp: Annotated[bool, typer.Option("--otlp", help="Its spans as OTLP JSON.")] = False,
    file: File = None,
) -> None:
    """Show one run: its phases on the time axis, what failed, and the end of the output.

    Exit code: 0, or 1 when no run is found.
    """
    from spanbus.cli import console
    from spanbus.cli.stored import store

    if as_json and otlp:
        raise typer.BadParameter("--json and --otlp exclude each other")
    with store(file) as (opened, _):
        if otlp:
            console.document(opened.otlp_json(run))
            return
        summary = opened.run(run)
        within = opened.runs_within(summary) if not (as_json or events) else ()
    if as_json:
        from spanbus.telemetry.summary import run_document

        console.document(run_document(summary))
        return
    from spanbus.cli.draw import failures, seconds, timeline, waterfall, word
    from spanbus.counted import counted
    from spanbus.local.harmless import one_line
    from spanbus.timestamps import local_time

    screen = console.output()
    if events:
        console.draw(screen, timeline(summary, screen))
        return
    console.draw(screen, waterfall(summary, screen))
    console.draw(screen, failures(summary, screen))
    for head in within[:_WITHIN]:
        screen.print(
            f"holds run {one_line(head.run_id, 100)}  {one_line(head.workflow, 40)}  {word(head.result)}  {seconds(head.duration_s)}", style="dim", soft_wrap=True
        )
    if len(within) > _WITHIN:
        screen.print(f"holds {counted(len(within) - _WITHIN, 'more run', 'more runs')}", style="dim")
    screen.print(f"run {one_line(summary.run_id, 100)}  {local_time(summary.started_at_ns)}  trace {summary.trace_id}", style="dim", soft_wrap=True)
