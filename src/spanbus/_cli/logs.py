"""spanbus logs: the whole output of a run's commands."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from spanbus._cli.lazy import complete, options, typer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spanbus._store.output_reading import KeptOutput

_PAUSE_S = 0.2


def command(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's id, the beginning of one, 'last' or 'last~1'; also of an active run.",
            autocompletion=complete.runs,
        ),
    ] = "last",
    phase: Annotated[
        str | None, typer.Argument(help="Only this phase.", show_default=False)
    ] = None,
    hook: Annotated[
        str | None, typer.Argument(help="Only this hook or command of it.", show_default=False)
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only commands that did not succeed.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the output of an active run.")
    ] = False,
    everything: options.AllProjects = False,
    file: options.File = None,
) -> None:
    """Print the whole output of a run's commands.

    Exit code: 0, or 1 when no such output is kept.
    """
    from spanbus._settings import load_settings
    from spanbus._store.output_reading import kept_outputs
    from spanbus.errors import RunNotFound

    settings = load_settings(file)
    run_id = _run_id(run, settings.state_dir, everything=everything, file=file, follow=follow)

    def wanted(kept: KeptOutput) -> bool:
        return (
            phase in (None, kept.phase)
            and hook in (None, kept.tool)
            and (kept.failed or not failed)
        )

    if follow:
        _follow(settings.state_dir, run_id, wanted)
        return
    everything_kept = kept_outputs(settings.state_dir, run_id)
    found = [kept for kept in everything_kept if wanted(kept)]
    if not found:
        if not everything_kept:
            raise RunNotFound(
                f"no output of run {run_id!r} is kept; only `spanbus run` keeps it, at most store_logs_bytes of it"
            )
        if failed and phase is None:
            raise RunNotFound(f"no command of run {run_id!r} failed")
        names = ", ".join(dict.fromkeys(f"{kept.phase} {kept.tool}" for kept in everything_kept))
        raise RunNotFound(f"run {run_id!r} kept no such output; there are {names}")
    for kept in found:
        _print(_title(kept, alone=len(found) == 1), kept.text())


def _run_id(run: str, state_dir: Path, *, everything: bool, file: Path | None, follow: bool) -> str:
    """Return the id of a stored run, or of a running one, which has output but is not stored yet."""
    from spanbus._cli.stored import project, store
    from spanbus._store.output import folder_of
    from spanbus._store.output_reading import newest_run

    of = project(everything)
    if (folder_of(state_dir, run) / "index.jsonl").exists():
        return run
    if run == "last" and follow and (newest := newest_run(state_dir, of)) is not None:
        return newest
    with store(file) as (opened, _):
        return opened.run_head(run, project=of).run_id


def _title(kept: KeptOutput, *, alone: bool) -> str:
    """Return the heading of a command's output, empty if there is only one."""
    if alone:
        return ""
    from spanbus._runs.sanitize import one_line

    attempt = f" attempt {kept.attempt}" if kept.attempt > 1 else ""
    ended = f" exit {kept.exit_code}" if kept.exit_code else "" if kept.ended else " (no end yet)"
    return f"==> {one_line(kept.phase, 100)} / {one_line(kept.tool, 100)}{attempt}{ended} <=="


def _print(title: str, text: str) -> None:
    from spanbus._cli import console
    from spanbus._runs.sanitize import block

    shown = block(text)
    console.raw(
        (f"{title}\n" if title else "")
        + (shown if shown.endswith("\n") or not shown else f"{shown}\n")
    )


def _follow(state_dir: Path, run_id: str, wanted: Callable[[KeptOutput], bool]) -> None:
    """Print new output until the run has ended."""
    from spanbus._store.output_reading import Reader, is_running, kept_outputs

    readers: dict[str, Reader] = {}
    last = ""
    while True:
        running = is_running(state_dir, run_id)  # check first, so that the last output is read
        for kept in filter(wanted, kept_outputs(state_dir, run_id)):
            more = readers.setdefault(kept.name, Reader(kept)).more()
            if more:
                _print("" if last == kept.name else _title(kept, alone=False), more)
                last = kept.name
        sys.stdout.flush()
        if not running:
            return
        time.sleep(_PAUSE_S)
