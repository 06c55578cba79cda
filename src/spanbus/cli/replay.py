"""spanbus replay: a recorded event stream through the recorder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus.cli import complete
from spanbus.cli.options import File, Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from spanbus.telemetry.summary import RunSummary, Totals

_DRAWN = 5
_LISTED = 50
_BROKEN_TOLD = 20


def command(
    stream: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, gzip too; - is standard input.")],
    dialect: Annotated[str | None, typer.Option("--dialect", "-d", metavar="NAME", help="spanbus, crackerjack, generic, one of the settings, or a TOML file.", autocompletion=complete.dialects)] = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would record; store and send nothing.")] = False,
    file: File = None,
) -> None:
    """Put a recorded event stream through the recorder: the same spans, ids, times and counts as live.

    Exit code: 0, or 2 when the file cannot be read or holds no event. Lines that cannot be used are reported and counted.
    """
    from dataclasses import replace

    from spanbus.cli import console
    from spanbus.runtime import Runtime
    from spanbus.settings import load_settings
    from spanbus.telemetry import replay
    from spanbus.telemetry.records import Record
    from spanbus.telemetry.summary import Totals, run_document, summarise, totals_document

    settings = load_settings(file)
    if dry_run:
        settings = replace(settings, sdk_disabled=True)
    screen = console.output(to_stderr=True)
    kept: list[RunSummary] = []
    heads: list[RunSummary] = []
    listed = broken = 0
    first = True
    held: list[replay.BrokenLine] | None = []
    """Broken lines before the first event: of a file without one, a single line is told."""

    def on_broken(line: replay.BrokenLine) -> None:
        nonlocal broken
        broken += 1
        if broken > _BROKEN_TOLD + 1:
            return
        if held is not None:
            held.append(line)
        else:
            tell_broken(broken, line)

    def tell_broken(number: int, line: replay.BrokenLine) -> None:
        if number <= _BROKEN_TOLD:
            console.complain(line)
        else:
            console.note("spanbus: more lines cannot be used; they are counted")

    with Runtime(settings, lifetime="run", command_line=True) as runtime, _Bar(screen, str(stream)) as bar:
        rendering = runtime.wiring().rendering

        def ended(record: Record) -> None:
            nonlocal first, listed
            summary = summarise(record, rendering)
            if as_json:
                text = json.dumps(run_document(summary), indent=2)
                sys.stdout.write("" if first else ",\n")
                sys.stdout.write("\n".join(f"    {line}" for line in text.splitlines()))
                first = False
                return
            listed += 1
            if len(kept) < _DRAWN:
                kept.append(summary)
            elif len(heads) < _LISTED:
                heads.append(replace(summary, phases=(), notes=()))

        handle = runtime.replaying(ended, dialect=dialect)
        rules = runtime.dialect(dialect)
        facts = replay.facts(stream, rules, on_broken=on_broken, progress=bar.moved, scratch=None)
        head = next(facts)
        early, held = held, None
        for number, line in enumerate(early, 1):
            tell_broken(number, line)
        if as_json:
            sys.stdout.write('{\n  "runs": [\n')
        handle.take(head)
        for fact in facts:
            handle.take(fact)
        handle.recorder.close()
        state = handle.state()
        totals = Totals(
            events_seen=state.events_seen, events_recorded=state.events_recorded, run_failures=state.run_failures,
            phase_failures=state.phase_failures, retries=state.retries, orphan_ends=state.orphan_ends, unmatched_ends=state.unmatched_ends,
            abandoned=state.abandoned,
        )
    if as_json:
        text = json.dumps(totals_document(totals), indent=2)
        sys.stdout.write('\n  ],\n  "totals": ' + "\n".join(line if not number else f"  {line}" for number, line in enumerate(text.splitlines())) + "\n}\n")
        return
    _tell(kept, heads, listed, totals, broken, dry_run=dry_run)


_WORDS = {
    "events_seen": ("event seen", "events seen"), "events_recorded": ("event recorded", "events recorded"),
    "run_failures": ("run failure", "run failures"), "phase_failures": ("phase failure", "phase failures"), "retries": ("retry", "retries"),
    "orphan_ends": ("orphan end", "orphan ends"), "unmatched_ends": ("unmatched end", "unmatched ends"), "abandoned": ("abandoned", "abandoned"),
}
"""The totals, one of each and many."""


def _tell(kept: list[RunSummary], heads: list[RunSummary], runs: int, totals: Totals, broken: int, *, dry_run: bool) -> None:
    from spanbus.cli import console
    from spanbus.cli.draw import failures, seconds, style, waterfall
    from spanbus.counted import counted
    from spanbus.local.harmless import one_line
    from spanbus.telemetry.summary import totals_document

    screen = console.output()
    for summary in kept:
        console.draw(screen, waterfall(summary, screen))
        console.draw(screen, failures(summary, screen))
    for head in heads:
        screen.print(f"{one_line(head.workflow, 40)}  {head.result}  {seconds(head.duration_s)}  {one_line(head.run_id, 80)}", style=style(head.result))
    if runs > len(kept) + len(heads):
        screen.print(f"and {counted(runs - len(kept) - len(heads), 'more run', 'more runs')}")
    numbers = ", ".join(counted(value, *_WORDS[name]) for name, value in totals_document(totals).items() if value or name == "events_recorded")
    screen.print(f"{counted(runs, 'run', 'runs')}, {numbers}{', ' + counted(broken, 'broken line', 'broken lines') if broken else ''}{'; nothing was stored' if dry_run else ''}")


class _Bar:
    """A progress bar on a terminal that shows itself when the work takes longer than a moment."""

    def __init__(self, screen: Console, name: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=screen, transient=True,
            disable=not screen.is_terminal,
        )
        self._name = name
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._progress.__exit__(None, None, None)

    def moved(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name[-40:], total=total)
        self._progress.update(self._task, completed=done)
