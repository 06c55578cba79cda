"""Help and option names as typer says them; written by ``python tools/start.py``."""

from __future__ import annotations

HELP = """Usage: spanbus [OPTIONS] COMMAND [ARGS]...

  Each workflow phase a span, each bus event a span event, counted and timed,
  over OTLP.

Options:
  -V, --version         Print the version.
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or
                        customize the installation.
  -h, --help            Show this message and exit.

Commands:
  run      Run a workflow of your settings, each phase a span.
  exec     Run one command as a run with one phase.
  runs     List the stored runs, the newest first.
  show     Show one run: its phases in time, and what failed.
  logs     Print the whole output of a run's commands.
  replay   Replay a recorded stream of events.
  dialect  Check or suggest a dialect for a recorded stream.
  diff     Compare runs: slower, newly failing, new or gone.
  report   Write one run as a page, or as Markdown.
  view     Open the page in a browser.
  up       Serve the embedded backend: OTLP, API, metrics, page.
  status   Show the records that wait in the spool, and why.
  flush    Deliver the records that wait in the spool.
  doctor   Check the settings and every server of the stack.
  stack    Start and stop the servers of docker-compose.yml.
  nats     Set up and check the NATS stream for events.
  observe  Make spans and metrics of events in a NATS stream.
  demo     Run a demo workflow on a small project.
  metrics  List every span, event, attribute and metric.
  mcp      Serve stored and live runs to an assistant over MCP.
"""

Bounds = tuple[float | None, float | None] | None
Argument = tuple[str, str, bool, bool]
"""The parameter, its kind, whether it has to be given, whether it takes all that is left."""
Option = tuple[tuple[str, ...], bool, str, str, Bounds]
"""The names, whether it may be given again, the parameter, its kind, the least and the most."""
Command = tuple[bool, tuple[Argument, ...], tuple[Option, ...]]
"""Whether this says all of it, arguments, options. A kind is flag, text, path, whole or number, else empty."""

COMMANDS: dict[str, Command] = {
    "run": (
        False,
        (("workflow", "text", False, False),),
        (
            (("--only",), True, "only", "text", None),
            (("--with-needs",), False, "with_needs", "flag", None),
            (("--skip",), True, "skip", "text", None),
            (("--jobs", "-j"), False, "jobs", "whole", (1, None)),
            (("--list", "-l"), False, "listed", "flag", None),
            (("--dry-run",), False, "dry_run", "flag", None),
            (("--attr",), True, "attr", "text", None),
            (("--record",), False, "record", "path", None),
            (("--quiet", "-q"), False, "quiet", "flag", None),
            (("--no-ci",), False, "no_ci", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "exec": (
        False,
        (("argv", "text", True, True),),
        (
            (("--workflow", "-w"), False, "workflow", "text", None),
            (("--name", "-n"), False, "name", "text", None),
            (("--file",), False, "file", "path", None),
            (("--attr",), True, "attr", "text", None),
            (("--keep-output",), False, "keep_output", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "runs": (
        True,
        (),
        (
            (("--workflow", "-w"), False, "workflow", "text", None),
            (("--result", "-r"), True, "result", "text", None),
            (("--since",), False, "since", "text", None),
            (("--limit", "-n"), False, "limit", "whole", (1, None)),
            (("--all", "-a"), False, "everything", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "show": (
        True,
        (("run", "text", False, False),),
        (
            (("--events", "-e"), False, "events", "flag", None),
            (("--json",), False, "as_json", "flag", None),
            (("--otlp",), False, "otlp", "flag", None),
            (("--all", "-a"), False, "everything", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "logs": (
        True,
        (
            ("run", "text", False, False),
            ("phase", "text", False, False),
            ("hook", "text", False, False),
        ),
        (
            (("--failed",), False, "failed", "flag", None),
            (("--follow", "-f"), False, "follow", "flag", None),
            (("--all", "-a"), False, "everything", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "replay": (
        True,
        (("stream", "path", True, False),),
        (
            (("--dialect", "-d"), False, "dialect", "text", None),
            (("--json",), False, "as_json", "flag", None),
            (("--dry-run",), False, "dry_run", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "dialect": (False, (), ()),
    "diff": (
        True,
        (("baseline", "text", True, True),),
        (
            (("--fail-on",), False, "fail_on", "text", None),
            (("--threshold",), False, "threshold", "text", None),
            (("--at-least",), False, "at_least", "number", (0, None)),
            (("--all", "-a"), False, "everything", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "report": (
        True,
        (("run", "text", False, False),),
        (
            (("--output", "-o"), False, "out", "path", None),
            (("--markdown",), False, "markdown", "flag", None),
            (("--all", "-a"), False, "everything", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "view": (
        True,
        (("run", "text", False, False),),
        (
            (("--no-browser",), False, "no_browser", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "up": (
        False,
        (),
        (
            (("--port", "-p"), False, "port", "whole", (0, 65535)),
            (("--listen",), False, "listen", "text", None),
            (("--token",), False, "token", "text", None),
            (("--allow-host",), True, "allow_host", "text", None),
            (("--jaeger",), False, "jaeger", "text", None),
            (("--forward",), False, "forward", "text", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "status": (
        True,
        (),
        (
            (("--file",), False, "file", "path", None),
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "flush": (
        True,
        (),
        (
            (("--wait", "-w"), False, "wait", "number", (0, None)),
            (("--refused",), False, "refused", "flag", None),
            (("--follow", "-f"), False, "follow", "flag", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "doctor": (
        True,
        (),
        (
            (("--jaeger",), False, "jaeger", "text", None),
            (("--prometheus",), False, "prometheus", "text", None),
            (("--alertmanager",), False, "alertmanager", "text", None),
            (("--timeout", "-t"), False, "timeout", "number", (0.1, 3600)),
            (("--file",), False, "file", "path", None),
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "stack": (False, (), ()),
    "nats": (False, (), ()),
    "observe": (
        False,
        (("servers", "text", False, False),),
        (
            (("--group",), False, "group", "text", None),
            (("--partitions",), False, "partitions", "text", None),
            (("--share",), False, "share", "text", None),
            (("--take",), False, "take", "flag", None),
            (("--from",), False, "begin", "", None),
            (("--durable",), False, "durable", "", None),
            (("--once",), False, "once", "flag", None),
            (("--stream",), False, "stream", "text", None),
            (("--file",), False, "file", "path", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "demo": (True, (), ((("--help", "-h"), False, "help", "", None),)),
    "metrics": (
        True,
        (),
        (
            (("--json",), False, "as_json", "flag", None),
            (("--help", "-h"), False, "help", "", None),
        ),
    ),
    "mcp": (
        True,
        (),
        ((("--file",), False, "file", "path", None), (("--help", "-h"), False, "help", "", None)),
    ),
}
