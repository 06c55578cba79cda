"""spanbus runs: the stored runs, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

from spanbus._cli.lazy import complete, options, typer

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen
    from spanbus._runs.listing import RunHead
    from spanbus._settings import Settings
    from spanbus._store.store import Store


def command(
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            "-w",
            metavar="W",
            help="Only runs of this workflow.",
            autocompletion=complete.workflows,
        ),
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            "-r",
            metavar="RESULT",
            help="Only runs with this result: success, failure, timeout, error, cancellation, skip; 'failed' is failure, timeout and error. May be repeated.",
            autocompletion=complete.results,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="T", help="Only runs since this time: 2h, 1d12h ago, or a date."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="List at most this many.")
    ] = 20,
    everything: options.AllProjects = False,
    file: options.File = None,
    as_json: options.Json = False,
) -> None:
    """List the stored runs of this project, the newest first."""
    from spanbus._cli import console
    from spanbus._cli.stored import project, since_ns, store
    from spanbus.errors import RunNotFound

    heads: Sequence[RunHead] = ()
    documents: list[dict[str, object]] = []
    of = project(everything)
    from_ns = since_ns(since) if since is not None else None
    try:
        with store(file) as (opened, settings):
            heads = opened.run_heads(
                workflow=workflow,
                project=of,
                result=",".join(result) if result else None,
                since_ns=from_ns,
                limit=limit,
            )
            if as_json:
                documents = [_document(opened, head, settings) for head in heads]
    except RunNotFound:
        if not as_json:
            raise
    if as_json:
        console.document(documents)
        return
    if not heads:
        _fail(of, workflow, result or [], since)
    _print_runs(console.output(), heads, with_project=of is None)


def _document(opened: Store, head: RunHead, settings: Settings) -> dict[str, object]:
    """Return the document of a run without its phases, with its first failed command."""
    from spanbus._runs.documents import head_document
    from spanbus._store.output_reading import log_paths
    from spanbus.errors import RunNotFound

    try:
        summary = opened.run(head)
    except RunNotFound:
        return head.document()
    logs = log_paths(settings.state_dir, head.run_id)
    return {**head.document(), **head_document(summary, logs.get)}


def _fail(of: str | None, workflow: str | None, result: list[str], since: str | None) -> NoReturn:
    from spanbus._runs.listing import FAILED, results
    from spanbus._semantics import Result
    from spanbus.errors import RunNotFound

    unknown = [word for word in results(",".join(result)) if word not in tuple(Result)]
    if unknown:
        raise RunNotFound(
            f"no stored run ended as {unknown[0]!r}; results are {', '.join(Result)}, and {FAILED} for all that count as a failure"
        )
    if workflow is None and not result and since is None:
        raise RunNotFound(
            f"no run of project {of!r} is stored yet; `spanbus run` or `spanbus exec -- COMMAND` makes the first, `spanbus runs --all` lists those of all projects"
            if of is not None
            else "no run is stored yet; `spanbus run` or `spanbus exec -- COMMAND` makes the first"
        )
    raise RunNotFound(
        f"no stored run{f' of project {of!r}' if of is not None else ''} is like that; `spanbus runs --all` lists all"
    )


def _print_runs(screen: Screen, heads: Sequence[RunHead], *, with_project: bool) -> None:
    """Print one line for each run. In a pipe or a wide terminal nothing is truncated."""
    from spanbus._cli import console
    from spanbus._cli.draw import glyphs, seconds, style, word
    from spanbus._cli.screen import Text
    from spanbus._runs.sanitize import one_line
    from spanbus._timestamps import local_time

    marks = glyphs(screen).marks
    longest = max(len(one_line(head.run_id, 200)) for head in heads)
    names = {head.workflow: one_line(head.workflow, 200) for head in heads}
    projects = {head.project: one_line(head.project, 200) for head in heads}
    wide = max(map(len, names.values()))
    of = max(map(len, projects.values())) + 2 if with_project else 0
    wanted = 50 + wide + of + longest
    lines = Text()
    for head in heads:
        if screen.is_terminal and screen.width < wanted:  # the run id comes first
            lines.append(f"{one_line(head.run_id, 200)}  ", "dim")
            lines.append(f"{marks.get(head.result, ' ')} ", style(head.result))
            lines.append(f"{names[head.workflow]:<{min(wide, 30)}}  ", "bold")
            lines.append(f"{word(head.result):<12}", style(head.result))
            lines.append(f"{seconds(head.duration_s):>10}")
            if with_project:
                lines.append(f"  {projects[head.project]}", "dim")
            lines.append("\n")
            continue
        lines.append(f"{local_time(head.started_at_ns)}  ", "dim")
        if with_project:
            lines.append(f"{projects[head.project]:<{of}}", "dim")
        lines.append(f"{names[head.workflow]:<{wide}}  ", "bold")
        lines.append(f"{marks.get(head.result, ' ')} {word(head.result):<12}", style(head.result))
        lines.append(f"{seconds(head.duration_s):>10}  ")
        lines.append(one_line(head.run_id, 200), "dim").append("\n")
    console.draw(screen, lines)
