"""spanbus run: run a workflow with live progress, then show it as a waterfall."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from spanbus._cli import complete
from spanbus._cli.options import Attributes, File, Json

if TYPE_CHECKING:
    from spanbus._cli.ci import Ci
    from spanbus._cli.plan import Plan
    from spanbus._cli.screen import Screen
    from spanbus._runs.summary import RunSummary
    from spanbus._runtime import Runtime

_ARGUMENTS = "spanbus.arguments"


class _Command(TyperCommand):
    """Keeps the words after ``--`` for commands with ``{args}``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] - its types are private to typer
        if "--" in args:
            at = args.index("--")
            ctx.meta[_ARGUMENTS] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] - as above
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command("run", cls=_Command)
def command(
    ctx: typer.Context,
    workflow: Annotated[
        str | None,
        typer.Argument(
            help="Its name in [tool.spanbus.workflows]; default: the only one, or 'default'.",
            show_default=False,
            autocompletion=complete.workflows,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PHASE",
            help="Run only this phase; may be repeated.",
            autocompletion=complete.phases,
        ),
    ] = None,
    with_needs: Annotated[
        bool, typer.Option("--with-needs", help="With --only: also run all phases that they need.")
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="PHASE",
            help="Leave this phase out; may be repeated.",
            autocompletion=complete.phases,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=1,
            help="Run N phases at once; default: the number of processors.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", "-l", help="List the workflows, or one's phases; run nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, in order; run nothing.")
    ] = False,
    attr: Attributes = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", metavar="FILE", help="Write every bus event as a JSON line; .gz compresses."
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Show the tools' output only where something failed."),
    ] = False,
    no_ci: Annotated[
        bool, typer.Option("--no-ci", help="No groups, annotations and summary of a CI system.")
    ] = False,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Run a workflow; each phase becomes a span, counted and timed.

    Arguments after -- replace {args} in commands.

    Exit code: 0 success, 1 a phase failed, 2 bad input, 130 interrupted, 143 terminated.
    """
    from spanbus._cli import ci, console
    from spanbus._cli.plan import Plan, list_workflows
    from spanbus._settings import load_settings
    from spanbus.errors import SettingsError

    console.tolerate_lost_output()
    settings = load_settings(file, strict=False)
    if settings.warnings and not settings.workflow_names:
        raise SettingsError(settings.warnings[0])
    for warning in settings.warnings:  # invalid telemetry settings do not stop the run
        console.error(warning)
    settings = settings._replace(warnings=())
    if listed and workflow is None:
        list_workflows(settings, console.output(), as_json=as_json)
        return
    what = settings.workflow(workflow)
    arguments: tuple[str, ...] = ctx.meta.get(_ARGUMENTS, ())
    plan = Plan.of(
        what.with_arguments(arguments), only=only or (), skip=skip or (), with_needs=with_needs
    )
    if listed or dry_run:
        plan.show(console.output(), commands=dry_run, as_json=as_json)
        return
    screen = console.output(to_stderr=as_json)
    server = None if no_ci or as_json else ci.detect()
    with ExitStack() as stack:
        from spanbus._project import attributes_given
        from spanbus._runtime import Runtime

        runtime = stack.enter_context(
            Runtime(
                settings,
                lifetime="run",
                command_line=True,
                provide=True,
                attributes=attributes_given(attr or ()),
            )
        )
        exit_code = _run(
            runtime, plan, screen, server, stack, jobs, record, quiet=quiet, as_json=as_json
        )
        runtime.close()
        if ci.is_ephemeral() and not no_ci:
            console.note(f"spanbus: {ci.delivery_summary(runtime)}")
    raise SystemExit(exit_code)


def _run(
    runtime: Runtime,
    plan: Plan,
    screen: Screen,
    server: Ci | None,
    stack: ExitStack,
    jobs: int | None,
    record: Path | None,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run the plan, print the outcome and return the exit code."""
    from spanbus._cli import console
    from spanbus._cli.keeping import keeping
    from spanbus._cli.progress import progress
    from spanbus._cli.running import Recording, run_workflow
    from spanbus._workflow.engine import new_run_id

    settings, run_id = runtime.settings, new_run_id()
    recording = stack.enter_context(Recording(record)) if record is not None else None
    shown = progress(plan, screen, quiet=quiet or as_json, server=server)
    observers = [shown.on_event] if recording is None else [recording.on_event, shown.on_event]
    with shown, keeping(runtime, run_id) as keep:
        outcome = run_workflow(
            runtime,
            plan.workflow,
            observers=observers,
            skip=plan.left_out,
            run_id=run_id,
            concurrency=jobs,
            output=shown.line,
            cwd=settings.file.parent if settings.file is not None else None,
            keep=keep,
            terminal=_terminal(plan, screen) if not quiet else None,
        )
    runs = runtime.summaries()
    if as_json:
        console.document(document(runtime, runs))
    else:
        for run in runs:
            print_run(run, plan, screen, runtime, server)
        if server is not None:
            _report_to_ci(server, runs, screen)
    return outcome.exit_code


def _terminal(plan: Plan, screen: Screen) -> dict[str, str] | None:
    """Return environment variables for the tools if their output is shown on a terminal, otherwise None."""
    if not screen.is_terminal or screen.is_dumb_terminal:
        return None
    from spanbus._workflow.colours import terminal_variables

    names = [
        each.name or each.executable for phase in plan.workflow.phases for each in phase.commands
    ]
    beside = min(20, max(map(len, names), default=0)) + 4  # each line starts with the tool's name
    return terminal_variables(os.environ, max(40, screen.width - beside))


def _report_to_ci(server: Ci, runs: list[RunSummary], screen: Screen) -> None:
    from spanbus._cli.draw import failed_spans
    from spanbus._runs.markdown import markdown_of

    for run in runs:
        for path, span, message in failed_spans(run):
            text = message if message != span.error_type else f"exit code {span.exit_code}"
            line = server.error(" / ".join(path), text, span.output_tail or "")
            if line:
                screen.write(f"{line}\n")
        server.add_summary(markdown_of(run))


def document(runtime: Runtime, runs: list[RunSummary]) -> dict[str, object]:
    """Return the document of ``--json``."""
    from spanbus._runs.documents import runs_document
    from spanbus._store.output_reading import log_paths

    state = runtime.handle.state()
    logs = {
        span_id: path
        for run in runs
        for span_id, path in log_paths(runtime.settings.state_dir, run.run_id).items()
    }
    return runs_document(runs, state, logs.get)


def print_run(
    run: RunSummary,
    plan: Plan,
    screen: Screen,
    runtime: Runtime,
    server: Ci | None = None,
) -> None:
    """Print the waterfall, the failures and how to see more."""
    from spanbus._cli import console
    from spanbus._cli.draw import failures, waterfall
    from spanbus._semantics import FAILED_RESULTS
    from spanbus._store.read_only import takes_files

    screen.print()
    descriptions = {
        phase.name: phase.description for phase in plan.workflow.phases if phase.description
    }
    console.draw(screen, waterfall(run, screen, descriptions=descriptions))
    failed = failures(run, screen)
    if server is not None and failed.plain:
        screen.write(server.quoted(failed.plain))
    else:
        console.flow(screen, failed)
    if runtime.settings.sdk_disabled:
        return
    if not runtime.sampled(run.run_id):
        where = "(not sampled: its spans are kept nowhere, its metrics are)"
    elif runtime.settings.local == "off" or not takes_files(runtime.settings.state_dir):
        where = ""
    else:
        where = f"spanbus show {run.run_id}"
        if run.result in FAILED_RESULTS and runtime.settings.output != "off":
            where += f"\nwhole output: spanbus logs {run.run_id} --failed"
    screen.print(f"trace {run.trace_id}  {where}".rstrip(), style="dim")
