"""spanbus report: one run as a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from spanbus._cli.lazy import complete, options, typer

_NOT_OF_A_NAME = re.compile(r"[^\w.+-]+")


def command(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's id, the beginning of one, or 'last'.", autocompletion=complete.runs
        ),
    ] = "last",
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; - is standard output. Default: <run>.html, Markdown to standard output.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="GitHub-flavoured Markdown, for a job summary.")
    ] = False,
    everything: options.AllProjects = False,
    file: options.File = None,
) -> None:
    """One self-contained page of a run, to attach to a CI job; or Markdown for its summary."""
    from spanbus._backend.report import html_report, markdown_report
    from spanbus._cli import console
    from spanbus._cli.stored import project, store
    from spanbus._runs.tree import stored
    from spanbus.errors import InputError

    with store(file) as (opened, _):
        head = opened.run_head(run, project=project(everything))
        spans = list(stored(opened.trace(head.trace_id)))
    text = (
        markdown_report(spans, root=head.span_id)
        if markdown
        else html_report(spans, root=head.span_id)
    )
    if str(out) == "-" or (markdown and out is None):
        console.raw(text)
        return
    path = out or Path(f"{_file_name(head.run_id)}.html")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    console.note(f"spanbus: wrote {path}")


def _file_name(run_id: str) -> str:
    """Return a file name from a run id, which the sender of the run chose and which may look like a path."""
    return _NOT_OF_A_NAME.sub("_", run_id).lstrip(".-")[:100] or "run"
