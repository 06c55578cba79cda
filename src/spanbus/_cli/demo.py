"""spanbus demo: run a workflow on a small project and show its trace, metrics and alert."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus._cli import interpreter
from spanbus._semantics import FAILED_RESULTS

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen
    from spanbus._runs.summary import RunSummary
    from spanbus._store.series import Series

_ALERT_WINDOW_S = 900
_SHOWN = (
    "cicd.pipeline.run.errors",
    "spanbus.phase.failures",
    "spanbus.phase.retries",
    "spanbus.phase.duration",
)


def command() -> None:
    """Run a real workflow on a small project: a retry, a failure; then show its trace, its metrics and its alert."""
    from spanbus._cli import console
    from spanbus._cli.draw import failures, waterfall
    from spanbus._cli.plan import Plan
    from spanbus._cli.progress import progress
    from spanbus._cli.running import run_workflow
    from spanbus._runtime import Runtime
    from spanbus._settings import load_settings

    screen = console.output()
    program = _program()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory(prefix="spanbus-demo-") as folder:
        project = Path(folder) / "shop"
        with as_file(files("spanbus").joinpath("_demo_project")) as source:
            shutil.copytree(source, project, ignore=shutil.ignore_patterns("__pycache__"))
        env = _own_environment()
        settings = load_settings(project / "spanbus.toml", env=env)
        settings = settings._replace(state_dir=settings.state_dir / "demo")
        workflow = settings.workflow("shop")
        screen.print(
            "A small project, its workflow, one retry, one failing test. Each phase is a span.\n"
        )
        with Runtime(
            settings,
            lifetime="run",
            command_line=True,
            env=env,
            attributes={"service.name": "spanbus-demo"},
        ) as runtime:
            shown = progress(Plan.of(workflow), screen, quiet=True)
            with shown:
                outcome = run_workflow(
                    runtime,
                    workflow,
                    observers=[shown.on_event],
                    output=shown.line,
                    cwd=project,
                )
            runs = runtime.summaries()
            runtime.flush(5.0)
            store_path = (
                runtime.store_path
                if not settings.sdk_disabled and settings.local != "off"
                else None
            )
        if outcome.signal_name is not None or not runs:
            raise SystemExit(outcome.exit_code or 1)
        run = runs[-1]
        screen.print("\nThe trace", style="bold")
        console.draw(screen, waterfall(run, screen))
        console.flow(screen, failures(run, screen))
        screen.print(
            "\nThe metrics, as Prometheus names them (labels of one workflow left out)",
            style="bold",
        )
        _metrics(screen, store_path)
        screen.print("\nWhat an alert would say", style="bold")
        _alerts(screen, run, store_path)
        screen.print("\nTry next", style="bold")
        where = f"SPANBUS_STATE_DIR={shlex.quote(str(settings.state_dir))} {program}"
        for what, why in (
            (f"{where} show --all --events", "every event of this run on the time axis"),
            (
                f"{where} up",
                "the same in a browser, with /metrics and an OTLP endpoint for your own programs",
            ),
            (f"{program} exec -- make test", "any command of yours as a run with one phase"),
        ):
            screen.print(f"  {what}\n      {why}")


def _program() -> str:
    """Return the command as the user can type it: by name if it is on the PATH, otherwise by path."""
    here = Path(sys.argv[0])
    if here.name != "spanbus" or not here.is_file():
        return shlex.join(interpreter.argv())
    found = shutil.which("spanbus")
    if found is not None and Path(found).samefile(here):
        return "spanbus"
    near = os.path.relpath(here)
    return shlex.quote(str(here.resolve()) if near.startswith("..") else near)


def _own_environment() -> dict[str, str]:
    """Return the environment without telemetry settings: no collector, attributes or trace context."""
    kept = ("SPANBUS_STATE_DIR", "OTEL_SDK_DISABLED")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("OTEL_", "SPANBUS_", "TRACE", "BAGGAGE"))
    }


def _metrics(screen: Screen, store_path: Path | None) -> None:
    """Print the series of this workflow: counters with value, histograms with count and sum."""
    from spanbus._semantics import names
    from spanbus._store.store import Store

    catalogue = {metric.name: metric.prometheus for metric in names.METRICS}
    if store_path is None or not store_path.exists():
        screen.print("  nothing was stored: telemetry or the local store is switched off")
        return
    with Store.open(store_path) as store:
        found = [
            each
            for each in store.metric_series()
            if each.name in _SHOWN and each.attributes.get(names.PIPELINE_NAME) == "shop"
        ]
    zeros = [each for each in found if each.kind == "counter" and not each.value]
    for each in sorted(
        (each for each in found if each not in zeros),
        key=lambda each: (_SHOWN.index(each.name), each.attributes.get(names.TASK_NAME, "")),
    ):
        screen.print(f"  {_line(each, catalogue[each.name])}")
    screen.print(
        f"  and {len(zeros)} counters that stand at 0, so that their first failure is not missed",
        style="dim",
    )


def _line(series: Series, name: str) -> str:
    from spanbus._semantics import names

    left_out = (names.PIPELINE_NAME, names.TASK_TYPE, names.ERROR_TYPE, names.PIPELINE_RUN_STATE)
    labels = ", ".join(
        f'{key.replace(".", "_")}="{value}"'
        for key, value in sorted(series.attributes.items())
        if key not in left_out
    )
    if series.kind == "histogram":
        return f"{name}{{{labels}}}  count {series.count}, sum {series.value:.3f}"
    return f"{name}{{{labels}}}  {series.value:g}"


def _failures_lately(run: RunSummary, phase: str, store_path: Path | None) -> int:
    """Return the number of failures of a phase within the 15 minutes of the alert rule, including stored runs."""
    from spanbus._store.store import Store

    since_ns = run.ended_at_ns - _ALERT_WINDOW_S * 1_000_000_000
    if store_path is None or not store_path.exists():
        return 1
    with Store.open(store_path) as store:
        points = store.phase_points(since_ns=since_ns, workflow=run.workflow, limit=10_000)
    return max(1, sum(point.phase == phase and point.result in FAILED_RESULTS for point in points))


def _alerts(screen: Screen, run: RunSummary, store_path: Path | None) -> None:
    """Print the two alerts on phases: any failure in 15 minutes, and the last run failed."""
    failed = [phase for phase in run.phases if phase.result in FAILED_RESULTS]
    for phase in failed:
        number = _failures_lately(run, phase.name, store_path)
        often = "once" if number == 1 else f"{number} times"
        screen.print(
            f"  WorkflowPhaseFailed   phase {phase.name} of workflow {run.workflow} failed {often} in the last 15 minutes",
            style="red",
        )
        screen.print(
            f"  WorkflowPhaseFailing  the last run of phase {phase.name} failed; it resolves with the next success",
            style="red",
        )
    retried = [phase for phase in run.phases if phase.retries and phase not in failed]
    for phase in retried:
        screen.print(
            f"  no alert for {phase.name}: it failed, was tried again and succeeded; failures +0, retries +{phase.retries}",
            style="dim",
        )
