"""spanbus demo: a real workflow on a small real project, and what comes of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from spanbus.telemetry.names import FAILED_RESULTS

if TYPE_CHECKING:
    from rich.console import Console

    from spanbus.local.series import Series
    from spanbus.telemetry.summary import RunSummary

_ALERT_WINDOW_S = 900
_SHOWN = ("cicd.pipeline.run.errors", "spanbus.phase.failures", "spanbus.phase.retries", "spanbus.phase.duration")


def command() -> None:
    """Run a real workflow on a small project: a retry, a failure; then show its trace, its metrics and its alert."""
    from spanbus.cli import console
    from spanbus.cli.draw import failures, waterfall
    from spanbus.cli.progress import progress
    from spanbus.cli.running import Choice, run_workflow
    from spanbus.errors import InputError
    from spanbus.runtime import Runtime
    from spanbus.settings import load_settings

    if find_spec("ruff") is None:
        raise InputError("the demo lints and formats with ruff, which is not installed; pip install ruff")
    screen = console.output()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory(prefix="spanbus-demo-") as folder:
        project = Path(folder) / "shop"
        with as_file(files("spanbus").joinpath("demo_project")) as source:
            shutil.copytree(source, project, ignore=shutil.ignore_patterns("__pycache__"))
        settings = load_settings(project / "spanbus.toml")
        workflow = settings.workflow("shop")
        screen.print("A small project, its workflow, one retry, one failing test. Each phase is a span.\n", soft_wrap=True)
        with Runtime(settings, lifetime="run", command_line=True) as runtime:
            shown = progress(workflow, screen, quiet=True)
            with shown:
                outcome = run_workflow(runtime, workflow, Choice(), observers=[shown.seen], output=shown.line, cwd=project)
            runs = runtime.summaries()
            runtime.flush(5.0)
            store_path = runtime.store_path if not settings.sdk_disabled and settings.local != "off" else None
        if outcome.signal_name is not None or not runs:
            raise typer.Exit(outcome.exit_code or 1)
        run = runs[-1]
        screen.print("\nThe trace", style="bold")
        console.draw(screen, waterfall(run, screen))
        console.draw(screen, failures(run, screen))
        screen.print("The metrics, as Prometheus names them (labels of one workflow left out)", style="bold")
        _metrics(screen, store_path)
        screen.print("\nWhat an alert would say", style="bold")
        _alerts(screen, run, store_path)
        screen.print("\nTry next", style="bold")
        for what, why in (
            ("spanbus show --events", "every event of this run on the time axis"),
            ("spanbus up", "the same in a browser, with /metrics and an OTLP endpoint for your own programs"),
            ("spanbus exec -- make test", "any command of yours as a run with one phase"),
        ):
            screen.print(f"  {what:<28}{why}", soft_wrap=True)


def _metrics(screen: Console, store_path: Path | None) -> None:
    """Series of this workflow: counters with their value, histograms with count and sum."""
    from spanbus.local.store import Store
    from spanbus.telemetry import names

    catalogue = {metric.name: metric.prometheus for metric in names.METRICS}
    if store_path is None or not store_path.exists():
        screen.print("  nothing was stored: telemetry or the local store is switched off", soft_wrap=True)
        return
    with Store.open(store_path) as store:
        found = [each for each in store.metric_series() if each.name in _SHOWN and each.attributes.get(names.PIPELINE_NAME) == "shop"]
    zeros = [each for each in found if each.kind == "counter" and not each.value]
    for each in sorted((each for each in found if each not in zeros), key=lambda each: (_SHOWN.index(each.name), each.attributes.get(names.TASK_NAME, ""))):
        screen.print(f"  {_line(each, catalogue[each.name])}", soft_wrap=True)
    screen.print(f"  and {len(zeros)} counters that stand at 0, so that their first failure is not missed", style="dim", soft_wrap=True)


def _line(series: Series, name: str) -> str:
    from spanbus.telemetry import names

    left_out = (names.PIPELINE_NAME, names.TASK_TYPE, names.ERROR_TYPE, names.PIPELINE_RUN_STATE)
    labels = ", ".join(f'{key.replace(".", "_")}="{value}"' for key, value in sorted(series.attributes.items()) if key not in left_out)
    if series.kind == "histogram":
        return f"{name}{{{labels}}}  count {series.count}, sum {series.value:.3f}"
    return f"{name}{{{labels}}}  {series.value:g}"


def _failures_lately(run: RunSummary, phase: str, store_path: Path | None) -> int:
    """How often the phase failed in the 15 minutes of the rule, this run and those that were stored before it."""
    from spanbus.local.store import Store

    since_ns = run.ended_at_ns - _ALERT_WINDOW_S * 1_000_000_000
    if store_path is None or not store_path.exists():
        return 1
    with Store.open(store_path) as store:
        points = store.phase_points(since_ns=since_ns, workflow=run.workflow, limit=10_000)
    return max(1, sum(point.phase == phase and point.result in FAILED_RESULTS for point in points))


def _alerts(screen: Console, run: RunSummary, store_path: Path | None) -> None:
    """The two alerts on phases, by their rules: any failure in 15 minutes; the last run failed."""
    failed = [phase for phase in run.phases if phase.result in FAILED_RESULTS]
    for phase in failed:
        number = _failures_lately(run, phase.name, store_path)
        often = "once" if number == 1 else f"{number} times"
        screen.print(f"  WorkflowPhaseFailed   phase {phase.name} of workflow {run.workflow} failed {often} in the last 15 minutes", style="red", soft_wrap=True)
        screen.print(f"  WorkflowPhaseFailing  the last run of phase {phase.name} failed; it resolves with the next success", style="red", soft_wrap=True)
    retried = [phase for phase in run.phases if phase.retries and phase not in failed]
    for phase in retried:
        screen.print(f"  no alert for {phase.name}: it failed, was tried again and succeeded; failures +0, retries +{phase.retries}", style="dim", soft_wrap=True)
