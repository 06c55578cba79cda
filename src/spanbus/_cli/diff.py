"""spanbus diff: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from spanbus._cli.lazy import complete, options, typer

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen
    from spanbus._runs.compare import Comparison


def command(
    baseline: Annotated[
        list[str],
        typer.Argument(
            metavar="A... B",
            help="The run or runs to compare with, then the run in question; ids, beginnings of ids, or 'last'.",
            autocompletion=complete.runs,
        ),
    ],
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Findings with exit code 1: slower, failing, new, gone, not_run, still_failing, none.",
        ),
    ] = "slower,failing",
    threshold: Annotated[
        str, typer.Option("--threshold", help="A phase is slower from this share on.")
    ] = "20%",
    at_least: Annotated[
        float,
        typer.Option("--at-least", metavar="SECONDS", min=0, help="And from this many seconds on."),
    ] = 0.1,
    everything: options.AllProjects = False,
    file: options.File = None,
    as_json: options.Json = False,
) -> None:
    """Compare runs: phases slower beyond threshold and noise, newly failing, new or gone.

    Exit code: 0, or 1 when something was found that --fail-on names. Several baselines give the noise.
    """
    from spanbus._cli import console
    from spanbus._cli.stored import project, store
    from spanbus._runs.compare import Thresholds, compare, parse_fail_on, parse_share
    from spanbus.errors import InputError

    if len(baseline) < 2:
        raise InputError("diff takes at least two runs: spanbus diff A B")
    wanted = parse_fail_on(fail_on)
    thresholds = Thresholds(slower_by=parse_share(threshold), at_least_s=at_least)
    with store(file) as (opened, _):
        runs = [opened.run(run, project=project(everything)) for run in baseline]
    found = compare(runs[:-1], runs[-1], thresholds)
    if as_json:
        console.document(found.document(wanted))
    else:
        _print_comparison(console.output(), found)
    raise SystemExit(1 if found.found(wanted) else 0)


_STYLES = {
    "slower": "yellow",
    "newly_failing": "bold red",
    "still_failing": "red",
    "fixed": "green",
    "faster": "green",
    "new": "cyan",
    "gone": "cyan",
    "not_run": "dim",
}

_BESIDE_THE_NAME = 53  # two durations, their ratio, the longest word for a change
_SHORTEST_NAME = 12
_PHASES_SHOWN = 2_000


def _print_comparison(screen: Screen, found: Comparison) -> None:
    from rich.cells import cell_len, set_cell_size

    from spanbus._cli import console
    from spanbus._cli.draw import seconds
    from spanbus._cli.screen import Text
    from spanbus._runs.compare import Change
    from spanbus._runs.sanitize import one_line

    after = one_line(found.workflow, 80)
    before = ", ".join(one_line(name, 80) for name in found.baseline_workflows)
    what = after if found.of_one_workflow else f"{before} → {after}"
    screen.print(
        f"{what}: {', '.join(one_line(run, 60) for run in found.baseline)} → {one_line(found.candidate, 60)}"
    )
    if not found.of_one_workflow:
        console.note(
            "spanbus: these are runs of different workflows; phases are matched by their names"
        )
    labels = {id(each): one_line(each.name, 40) for each in found.phases} | {
        id(found.run): one_line(what, 40) if found.of_one_workflow else "whole run"
    }
    wide = max(cell_len(label) for label in labels.values())
    room = screen.width - _BESIDE_THE_NAME if screen.is_terminal else 40
    shown = found.phases
    if screen.is_terminal and len(shown) > _PHASES_SHOWN:  # only the changed ones
        shown = [each for each in shown if each.change is not Change.SAME][:_PHASES_SHOWN]
    lines = Text()
    for each in (*shown, found.run):
        lines.append("  ")
        took = [
            seconds(each_s) if each_s is not None else "–"
            for each_s in (each.before_s, each.after_s)
        ]
        change = each.change.value.replace("_", " "), _STYLES.get(each.change.value, "")
        name_style = "bold" if each is not found.run else ""
        if room < _SHORTEST_NAME:  # on a narrow terminal the change comes first
            lines.append(f"{change[0]:<14}", change[1])
            lines.append(labels[id(each)], name_style)
            lines.append(f"  {took[0]} → {took[1]}\n")
            continue
        lines.append(f"{set_cell_size(labels[id(each)], min(wide, room))}  ", name_style)
        lines.append(f"{took[0]:>10} → {took[1]:>10}  ")
        lines.append(f"{f'x{each.ratio:.2f}' if each.ratio is not None else '':>7}  ")
        lines.append(*change)
        if each.before != each.after:
            lines.append(f"  {_result_text(each.before)} → {_result_text(each.after)}", "dim")
        lines.append("\n")
    console.draw(screen, lines)
    if left_out := len(found.phases) - len(shown):
        screen.print(f"  … {left_out:,} more phases; --json has all of them", style="dim")


def _result_text(result: str | None) -> str:
    from spanbus._runs.sanitize import one_line

    return "absent" if result is None else one_line(result, 30) or "unknown"
