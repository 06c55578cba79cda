"""spanbus runs: the stored runs, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus.cli import complete
from spanbus.cli.options import File, Json

if TYPE_CHECKING:
    from spanbus.local.heads import RunHead


def command(
    workflow: Annotated[str | None, typer.Option("--workflow", "-w", metavar="W", help="Only runs of this workflow.", autocompletion=complete.workflows)] = None,
    result: Annotated[list[str] | None, typer.Option("--result", "-r", metavar="RESULT", help="Only runs that ended so: success, failure, timeout, error, cancellation, skip; 'failed' is failure, timeout and error. May be repeated.", autocompletion=complete.results)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    file: File = None,
    as_json: Json = False,
) -> None:
    """List the stored runs, the newest first."""
    from spanbus.cli import console
    from spanbus.cli.stored import store
    from spanbus.errors import RunNotFound
    from spanbus.local.heads import FAILED, results
    from spanbus.telemetry.names import Result

    heads: Sequence[RunHead] = ()
    try:
        with store(file) as (opened, _):
            heads = opened.run_heads(workflow=workflow, result=",".join(result) if result else None, limit=limit)
    except RunNotFound:
        if not as_json:
            raise
    if as_json:
        console.document([head.document() for head in heads])
        return
    if not heads:
        unknown = [word for word in results(",".join(result or ())) if word not in tuple(Result)]
        if unknown:
            raise RunNotFound(f"no stored run ended as {unknown[0]!r}; results are {', '.join(Result)}, and {FAILED} for all that count as a failure")
        if workflow is None and not result:
            raise RunNotFound("no run is stored yet; `spanbus run` or `spanbus exec -- COMMAND` makes the first")
        raise RunNotFound("no stored run is like that; `spanbus runs` lists all")
    from rich.text import Text

    from spanbus.cli.draw import glyphs, seconds, style, word
    from spanbus.local.harmless import one_line
    from spanbus.timestamps import local_time

    screen = console.output()
    marks = glyphs(screen).marks
    wide = min(30, max(len(one_line(head.workflow, 30)) for head in heads))
    wanted = wide + 60 + max(len(one_line(head.run_id, 80)) for head in heads)
    for head in heads:
        line = Text(no_wrap=True, overflow="ellipsis")
        if screen.is_terminal and screen.width < wanted:  # what `show` asks for comes first
            line.append(f"{one_line(head.run_id, 80)}  ", "dim")
            line.append(f"{marks.get(head.result, ' ')} ", style(head.result))
            line.append(f"{one_line(head.workflow, 30):<{wide}}  ", "bold")
            line.append(f"{word(head.result):<12}", style(head.result))
            line.append(f"{seconds(head.duration_s):>10}")
            console.draw(screen, line)
            continue
        line.append(f"{local_time(head.started_at_ns)}  ", "dim")
        line.append(f"{one_line(head.workflow, 30):<{wide}}  ", "bold")
        line.append(f"{marks.get(head.result, ' ')} {word(head.result):<12}", style(head.result))
        line.append(f"{seconds(head.duration_s):>10}  ")
        line.append(one_line(head.run_id, 80), "dim")
        console.draw(screen, line)
