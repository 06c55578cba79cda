"""spanbus doctor: is everything set as it should be, does everything answer?"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

from spanbus._cli.lazy import options, typer

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen
    from spanbus._doctor.findings import Finding, Report


def command(
    jaeger: Annotated[
        str | None,
        typer.Option(
            "--jaeger",
            metavar="URL",
            help="Jaeger's query API; default: try http://127.0.0.1:16686.",
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", metavar="URL", help="Default: try http://127.0.0.1:9090."),
    ] = None,
    alertmanager: Annotated[
        str | None,
        typer.Option("--alertmanager", metavar="URL", help="Default: try http://127.0.0.1:9093."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            "-t",
            metavar="S",
            min=0.1,
            max=3600,
            help="How long a test trace or point may take to arrive, in seconds.",
        ),
    ] = 20.0,
    file: options.File = None,
    as_json: options.Json = False,
) -> None:
    """Check settings and every endpoint of the stack from outside, and say what to do.

    Sends a test trace and test points, marked as such. Exit code: 0, or 1 when something is wrong; a warning is not.
    """
    import os

    import anyio

    from spanbus._cli import console
    from spanbus._doctor.doctor import Examination
    from spanbus._loggers import load

    load()

    examination = Examination(os.environ, file, jaeger, prometheus, alertmanager, timeout)
    try:
        with _waiting(console.output(to_stderr=True)) as doing:
            report = anyio.run(examination.report, doing)
    except KeyboardInterrupt:
        _leave(130)
    if as_json:
        console.document(report.document())
    else:
        _print_report(console.output(), report)
    _leave(1 if report.wrong else 0)


@contextmanager
def _waiting(screen: Screen) -> Generator[Callable[[str], None]]:
    """Show the current activity, on a terminal only."""
    if not screen.is_terminal:
        yield lambda doing: None
        return
    from spanbus._cli.rich_console import rich_console

    with rich_console(to_stderr=screen.to_stderr).status(
        "", spinner="dots" if "utf" in (screen.encoding or "").lower() else "line"
    ) as status:
        yield lambda doing: status.update(doing)


_END_S = 0.1
_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red", "not_configured": "dim"}


def _print_report(screen: Screen, report: Report) -> None:
    from spanbus._cli import console
    from spanbus._runs.sanitize import one_line

    wide = max(len(row.name) for row in report.settings)
    for row in (*report.settings, *report.environment):
        origin = f"  ({row.origin})" if row.origin != "environment" else ""
        console.line(
            f"{row.name:<{wide}}  {one_line(row.value, 300) or '–'}{one_line(origin, 300)}"
        )
    console.line("")
    for finding in report.findings:
        _line(screen, finding)
    counts = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in report.counts().items() if count
    )
    console.line(f"\n{counts}")


def _line(screen: Screen, finding: Finding) -> None:
    from spanbus._cli import console
    from spanbus._cli.screen import Text
    from spanbus._runs.sanitize import one_line

    state = finding.state.replace("_", " ")
    line = Text(f"{state:<14} ", _STYLES[finding.state])
    line.append(f"{finding.check:<19} ", "bold")
    line.append(one_line(finding.message, 1_000))
    console.flow(screen, line)
    if finding.todo:
        arrow = "→" if "utf" in (screen.encoding or "").lower() else "->"
        screen.print(
            f"{'':<35}{arrow} {one_line(finding.todo, 1_000)}",
            "dim" if finding.state in ("ok", "not_configured") else "",
        )


def _leave(code: int) -> NoReturn:
    """Exit without waiting for threads of abandoned requests, such as one to a name server that does not answer."""
    import os
    import sys
    import threading

    left = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]
    for thread in left:
        thread.join(_END_S)
    if any(thread.is_alive() for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
