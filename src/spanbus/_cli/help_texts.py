"""One line for each command in the list of commands, at most 66 characters, and examples beneath its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUMMARIES: Final[Mapping[str, str]] = {
    "run": "Run a workflow of your settings, each phase a span.",
    "exec": "Run one command as a run with one phase.",
    "runs": "List the stored runs, the newest first.",
    "show": "Show one run: its phases in time, and what failed.",
    "logs": "Print the whole output of a run's commands.",
    "replay": "Replay a recorded stream of events.",
    "diff": "Compare runs: slower, newly failing, new or gone.",
    "report": "Write one run as a page, or as Markdown.",
    "view": "Open the page in a browser.",
    "up": "Serve the embedded backend: OTLP, API, metrics, page.",
    "status": "Show the records that wait in the spool, and why.",
    "flush": "Deliver the records that wait in the spool.",
    "doctor": "Check the settings and every server of the stack.",
    "stack": "Start and stop the servers of docker-compose.yml.",
    "demo": "Run a demo workflow on a small project.",
    "metrics": "List every span, event, attribute and metric.",
    "mcp": "Serve stored and live runs to an assistant over MCP.",
    "dialect": "Check or suggest a dialect for a recorded stream.",
    "observe": "Make spans and metrics of events in a NATS stream.",
    "nats": "Set up and check the NATS stream for events.",
}

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("spanbus run checks -j 4", "spanbus run --only tests --with-needs -- -k cart"),
    "exec": ("spanbus exec -- make test", "spanbus exec --name backup -- sh -c 'pg_dump shop'"),
    "runs": ("spanbus runs --result failed --since 2h", "spanbus runs --all --json"),
    "show": ("spanbus show", "spanbus show last~1 --events"),
    "logs": ("spanbus logs --failed", "spanbus logs last tests pytest", "spanbus logs -f"),
    "replay": ("spanbus replay events.jsonl --dry-run",),
    "diff": ("spanbus diff last~1 last", "spanbus diff last~3 last~2 last~1 last"),
    "report": ("spanbus report -o run.html", "spanbus report last --markdown"),
    "view": ("spanbus view",),
    "up": ("spanbus up",),
    "status": ("spanbus status", "spanbus status --json"),
    "flush": ("spanbus flush --wait 10",),
    "doctor": ("spanbus doctor",),
    "stack": ("spanbus stack up",),
    "stack up": ("spanbus stack up",),
    "stack down": ("spanbus stack down --volumes",),
    "stack status": ("spanbus stack status --json",),
    "demo": ("spanbus demo",),
    "metrics": ("spanbus metrics", "spanbus metrics --json"),
    "mcp": ("spanbus mcp",),
    "dialect": ("spanbus dialect suggest stream.jsonl",),
    "dialect check": ("spanbus dialect check mine.toml stream.jsonl",),
    "dialect suggest": ("spanbus dialect suggest stream.jsonl --name mine > mine.toml",),
    "observe": ("spanbus observe nats://127.0.0.1:4222", "spanbus observe --once"),
    "nats": ("spanbus nats setup nats://127.0.0.1:4222", "spanbus nats status --json"),
    "nats setup": ("spanbus nats setup nats://127.0.0.1:4222",),
    "nats status": ("spanbus nats status", "spanbus nats status --json"),
}


def epilog(command: str) -> str | None:
    """Return the examples as a block that click does not wrap."""
    lines = EXAMPLES.get(command)
    if not lines:
        return None
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\b\n" + "\n".join([title, *(f"  {line}" for line in lines)])
