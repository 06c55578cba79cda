"""spanbus diff: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spanbus.cli import complete
from spanbus.cli.options import File, Json

if TYPE_CHECKING:
    from rich.console import Console

    from spanbus.local.compare import Comparison


def command(
    baseline: Annotated[list[str], typer.Argument(metavar="A... B", help="The run or runs to compare with, then the run in question; ids, beginnings of ids, or 'last'.", autocompletion=complete.runs)],
    fail_on: Annotated[str, typer.Option("--fail-on", help="What makes the exit code 1: slower, failing, new, gone, not_run, still_failing, none.")] = "slower,failing",
    threshold: Annotated[str, typer.Option("--threshold", help="From what share on a phase is slower.")] = "20%",
    at_least: Annotated[float, typer.Option("--at-least", metavar="SECONDS", min=0, help="And by how many seconds.")] = 0.1,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Compare runs: phases slower beyond threshold and noise, newly failing, new or gone.

    Exit code: 0, or 1 when something was found that --fail-on names. Several baselines give the noise.
    """
    from spanbus.cli import console
    from spanbus.cli.stored import store
    from spanbus.errors import InputError
    from spanbus.local.compare import Thresholds, compare, parse_fail_on, parse_share

    if len(baseline) < 2:
        raise InputError("diff takes at least two runs: spanbus diff A B")
    wanted = parse_fail_on(fail_on)
    thresholds = Thresholds(slower_by=parse_share(threshold), at_least_s=at_least)
    with store(file) as (opened, _):
        runs = [opened.run(run) for run in baseline]
    found = compare(runs[:-1], runs[-1], thresholds)
    if as_json:
        console.document(found.document(wanted))
    else:
        _tell(console.output(), found)
    raise typer.Exit(1 if found.found(wanted) else 0)


_STYLES = {"slower": "yellow", "newly_failing": "bold red", "still_failing": "red", "fixed": "green", "faster": "green", "new": "cyan", "gone": "cyan", "not_run": "dim"}


def _tell(screen: Console, found: Comparison) -> None:
    from rich.text import Text

    from spanbus.cli import console
    from spanbus.cli.draw import seconds
    from spanbus.local.harmless import one_line

    screen.print(f"{one_line(found.workflow, 80)}: {', '.join(one_line(run, 60) for run in found.baseline)} → {one_line(found.candidate, 60)}", soft_wrap=True)
    wide = min(40, max((len(one_line(each.name, 40)) for each in (*found.phases, found.run)), default=10))
    for each in (*found.phases, found.run):
        line = Text("  ")
        line.append(f"{one_line(each.name, 40):<{wide}}  ", "bold" if each is not found.run else "")
        before = seconds(each.before_s) if each.before_s is not None else "–"
        after = seconds(each.after_s) if each.after_s is not None else "–"
        line.append(f"{before:>10} → {after:>10}  ")
        line.append(f"{f'x{each.ratio:.2f}' if each.ratio is not None else '':>7}  ")
        line.append(each.change.value.replace("_", " "), _STYLES.get(each.change.value, ""))
        if each.before != each.after:
            line.append(f"  {each.before or 'absent'} → {each.after or 'absent'}", "dim")
        console.draw(screen, line)
