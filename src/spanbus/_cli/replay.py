"""spanbus replay: record the runs of an event stream from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from spanbus._cli.lazy import complete, options, typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from spanbus._cli.screen import Screen
    from spanbus._correlation.limits import CorrelatorState
    from spanbus._runs.summary import RunSummary

_DRAWN = 5
_LISTED = 50
_BROKEN_TOLD = 20


def command(
    stream: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, gzip too; - is standard input.")
    ],
    dialect: Annotated[
        str | None,
        typer.Option(
            "--dialect",
            "-d",
            metavar="NAME",
            help="spanbus, crackerjack, generic, one of the settings, or a TOML file.",
            autocompletion=complete.dialects,
        ),
    ] = None,
    as_json: options.Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would record; store and send nothing.")
    ] = False,
    file: options.File = None,
) -> None:
    """Replay a recorded event stream: the same spans, ids, times and counts as live.

    Exit code: 0, or 2 when the file cannot be read or holds no event. Lines that cannot be used are reported and counted.
    """

    from spanbus._cli import console
    from spanbus._correlation.span_state import SpanState
    from spanbus._reading import replay
    from spanbus._reading.reader import Reader
    from spanbus._runs.documents import run_document, totals_document
    from spanbus._runs.summary import summarise
    from spanbus._runtime import Runtime
    from spanbus._settings import load_settings
    from spanbus._store.output_reading import log_paths

    settings = load_settings(file)
    if dry_run:
        settings = settings._replace(sdk_disabled=True)
    screen = console.output(to_stderr=True)
    kept: list[RunSummary] = []
    heads: list[RunSummary] = []
    listed = broken = 0
    first = True
    held: list[replay.BrokenLine] | None = []
    """Broken lines before the first event. For a file without events, only one message is printed."""

    def on_broken(line: replay.BrokenLine) -> None:
        nonlocal broken
        broken += 1
        if broken > _BROKEN_TOLD + 1:
            return
        if held is not None:
            held.append(line)
        else:
            report_broken(broken, line)

    def report_broken(number: int, line: replay.BrokenLine) -> None:
        if number <= _BROKEN_TOLD:
            console.error(line)
        else:
            console.note("spanbus: more lines cannot be used; they are counted")

    with (
        Runtime(settings, lifetime="run", command_line=True) as runtime,
        _Bar(screen, str(stream)) as bar,
    ):
        template = runtime.wiring().template

        def ended(record: SpanState) -> None:
            nonlocal first, listed
            summary = summarise(record, template)
            if as_json:
                logs = log_paths(settings.state_dir, summary.run_id).get
                text = json.dumps(run_document(summary, logs), indent=2)
                sys.stdout.write("" if first else ",\n")
                sys.stdout.write("\n".join(f"    {line}" for line in text.splitlines()))
                first = False
                return
            listed += 1
            if len(kept) < _DRAWN:
                kept.append(summary)
            elif len(heads) < _LISTED:
                heads.append(summary._replace(phases=(), notes=()))

        handle = runtime.replaying(ended, dialect=dialect)
        reader = Reader(runtime.dialect(dialect), warn=console.note)
        facts = replay.facts(stream, reader, on_broken=on_broken, progress=bar.moved, scratch=None)
        head = next(facts)
        early, held = held, None
        for number, line in enumerate(early, 1):
            report_broken(number, line)
        if as_json:
            sys.stdout.write('{\n  "runs": [\n')
        handle.take(head)
        for fact in facts:
            handle.take(fact)
        handle.correlator.close()
        state = handle.state()
    if as_json:
        text = json.dumps(totals_document(state), indent=2)
        sys.stdout.write(
            '\n  ],\n  "totals": '
            + "\n".join(
                line if not number else f"  {line}" for number, line in enumerate(text.splitlines())
            )
            + "\n}\n"
        )
        return
    _print_summary(kept, heads, listed, state, broken, dry_run=dry_run)


_WORDS = {
    "events_seen": ("event seen", "events seen"),
    "events_recorded": ("event recorded", "events recorded"),
    "run_failures": ("run failure", "run failures"),
    "phase_failures": ("phase failure", "phase failures"),
    "retries": ("retry", "retries"),
    "orphan_ends": ("orphan end", "orphan ends"),
    "unmatched_ends": ("unmatched end", "unmatched ends"),
    "abandoned": ("abandoned", "abandoned"),
}
"""Totals, singular and plural."""


def _print_summary(
    kept: list[RunSummary],
    heads: list[RunSummary],
    runs: int,
    counts: CorrelatorState,
    broken: int,
    *,
    dry_run: bool,
) -> None:
    from spanbus._cli import console
    from spanbus._cli.draw import failures, seconds, style, waterfall
    from spanbus._pluralize import pluralize
    from spanbus._runs.documents import totals_document
    from spanbus._runs.sanitize import one_line

    screen = console.output()
    for summary in kept:
        console.draw(screen, waterfall(summary, screen))
        console.flow(screen, failures(summary, screen))
        if not dry_run:
            screen.print(
                f"stored as run {one_line(summary.run_id, 100)}  spanbus show {one_line(summary.run_id, 100)}",
                style="dim",
            )
    for head in heads:
        screen.print(
            f"{one_line(head.workflow, 40)}  {head.result}  {seconds(head.duration_s)}  {one_line(head.run_id, 80)}",
            style=style(head.result),
        )
    if runs > len(kept) + len(heads):
        screen.print(f"and {pluralize(runs - len(kept) - len(heads), 'more run', 'more runs')}")
    numbers = ", ".join(
        pluralize(value, *_WORDS[name])
        for name, value in totals_document(counts).items()
        if value or name == "events_recorded"
    )
    screen.print(
        f"{pluralize(runs, 'run', 'runs')}, {numbers}{', ' + pluralize(broken, 'broken line', 'broken lines') if broken else ''}{'; nothing was stored' if dry_run else ''}"
    )


class _Bar:
    """A progress bar, on a terminal only."""

    def __init__(self, screen: Screen, name: str) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        from spanbus._cli.rich_console import rich_console

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=rich_console(to_stderr=screen.to_stderr),
            transient=True,
            disable=not screen.is_terminal,
        )
        self._name = name
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._progress.__exit__(None, None, None)

    def moved(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name[-40:], total=total)
        self._progress.update(self._task, completed=done)
