"""spanbus show: one stored run as a waterfall or a timeline."""

from __future__ import annotations

from typing import Annotated

from spanbus._cli.lazy import complete, options, typer

_WITHIN = 10
"""Limit of listed child runs."""


def command(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's id, the beginning of one, 'last', or 'last~1' for the one before.",
            autocompletion=complete.runs,
        ),
    ] = "last",
    events: Annotated[
        bool, typer.Option("--events", "-e", help="The timeline of its events.")
    ] = False,
    as_json: options.Json = False,
    otlp: Annotated[bool, typer.Option("--otlp", help="Its spans as OTLP JSON.")] = False,
    everything: options.AllProjects = False,
    file: options.File = None,
) -> None:
    """Show one run: its phases on the time axis, what failed, and the end of the output.

    Exit code: 0, or 1 when no run is found.
    """
    from spanbus._cli import console
    from spanbus._cli.stored import log_paths, project, store
    from spanbus.errors import InputError

    if as_json and otlp:
        raise InputError("--json and --otlp exclude each other")
    of = project(everything)
    with store(file) as (opened, settings):
        if otlp:
            console.pieces(opened.otlp_json(run, project=of))
            return
        summary = opened.run(run, project=of)
        within = opened.runs_within(summary) if not (as_json or events) else ()

    if as_json:
        from spanbus._runs.documents import run_document

        console.document(run_document(summary, log_paths(settings.state_dir, summary.run_id).get))
        return
    from spanbus._cli.draw import failures, seconds, timeline, waterfall, word
    from spanbus._pluralize import pluralize
    from spanbus._runs.sanitize import one_line
    from spanbus._timestamps import local_time

    screen = console.output()
    if events:
        console.draw(screen, timeline(summary, screen))
        return
    console.draw(screen, waterfall(summary, screen))
    console.flow(screen, failures(summary, screen))
    for head in within[:_WITHIN]:
        screen.print(
            f"contains run {one_line(head.run_id, 100)}  {one_line(head.workflow, 40)}  {word(head.result)}  {seconds(head.duration_s)}",
            style="dim",
        )
    if len(within) > _WITHIN:
        screen.print(
            f"contains {pluralize(len(within) - _WITHIN, 'more run', 'more runs')}", style="dim"
        )
    kept = log_paths(settings.state_dir, summary.run_id)
    logs = f"  whole output: spanbus logs {one_line(summary.run_id, 100)}" if kept else ""
    screen.print(
        f"run {one_line(summary.run_id, 100)}  {local_time(summary.started_at_ns)}  trace {summary.trace_id}{logs}",
        style="dim",
    )
