"""spanbus dialect: check how a dialect reads a recorded stream, or suggest a first dialect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus._cli import complete, console
from spanbus._cli.options import File, Json

if TYPE_CHECKING:
    from spanbus._reading.dialect import Dialect
    from spanbus._reading.survey import Reading

_FILE_WIDTH = 250

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Check how a dialect reads a recorded stream, or suggest one.",
)

Recorded = Annotated[
    Path, typer.Argument(metavar="STREAM", help="JSON lines, gzip too; - is standard input.")
]


@app.command("check")
def check(
    dialect: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A TOML file, or a dialect by name.",
            autocompletion=complete.dialects,
        ),
    ],
    stream: Recorded,
    as_json: Json = False,
    file: File = None,
) -> None:
    """Show how each event type of a recorded stream is read.

    Exit code: 0, or 2 when the dialect or the stream cannot be read.
    """
    from spanbus._reading import replay
    from spanbus._reading.reader import Reader
    from spanbus._reading.survey import survey

    reader = Reader(_dialect(dialect, file), warn=console.note)
    readings = survey(replay.facts(stream, reader, on_broken=console.error))
    if as_json:
        console.document(
            {"dialect": reader.dialect.name, "types": [_row(each) for each in readings]}
        )
        return
    _draw(readings)
    phases = sum(each.events for each in readings if each.level not in ("", "run"))
    if not phases:
        console.note(
            f"spanbus: no phase starts or ends in this stream by {reader.dialect.name}; spanbus dialect suggest {stream} writes a first dialect"
        )


@app.command("suggest")
def suggest(
    stream: Recorded,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the dialect.")
    ] = "mine",
) -> None:
    """Write a first dialect for a recorded stream.

    It is TOML on stdout, with the reason of each guess as a comment.

    Exit code: 0, or 2 when the stream cannot be read.
    """
    from spanbus._reading import replay
    from spanbus._reading.dialect_file import load
    from spanbus._reading.reader import Reader
    from spanbus._reading.suggest import suggest as suggested

    reader = Reader(load("generic"), warn=console.note)
    console.raw(suggested(name, replay.raws(stream, reader.dialect.keys, on_broken=console.error)))


def _dialect(name: str, file: Path | None) -> Dialect:
    from spanbus._reading.dialect_file import BUILT_IN, load
    from spanbus._settings import load_settings

    if name in BUILT_IN or Path(name).exists():
        return load(name)
    return load(load_settings(file).dialects.get(name, name))


def _row(reading: Reading) -> dict[str, object]:
    return {
        "type": reading.event_type,
        "level": reading.level or None,
        "verb": reading.verb,
        "events": reading.events,
        "names": reading.names,
        "results": reading.results,
        "runs": len(reading.runs),
    }


def _draw(readings: list[Reading]) -> None:
    from rich.table import Table

    from spanbus._cli.rich_console import rich_console
    from spanbus._runs.sanitize import one_line

    table = Table(box=None, pad_edge=False)
    for title in ("type", "reads as", "events", "names", "results", "runs"):
        table.add_column(title, justify="right" if title in ("events", "runs") else "left")
    for reading in readings:
        table.add_row(
            one_line(reading.event_type, 60),
            reading.meaning,
            str(reading.events),
            ", ".join(_short(reading.names)),
            ", ".join(reading.results),
            str(len(reading.runs)) if reading.runs else "",
        )
    screen = rich_console()
    if not screen.is_terminal:
        screen.width = _FILE_WIDTH  # in a file or a pipe nothing is cut
    screen.print(table)


def _short(names: list[str]) -> Iterator[str]:
    from spanbus._runs.sanitize import one_line

    return (one_line(name, 24) for name in names)
