"""The ``spanbus`` command: one module for each command, loaded when it is asked for."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from typing import IO, cast

import typer
from typer.core import TyperGroup

from spanbus.cli import console
from spanbus.errors import RunNotFound, SpanbusError
from spanbus.version import __version__

COMMANDS = (
    "run", "exec", "runs", "show", "replay", "diff", "report", "view", "up", "status", "flush", "doctor", "stack", "demo", "metrics", "mcp",
)
"""In the order in which help lists them; ``spanbus.cli.NAME`` holds ``command``, a function with typer's annotations."""


class _Lazy(TyperGroup):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: object) -> list[str]:
        del ctx
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: object, cmd_name: str):  # pyright: ignore[reportIncompatibleMethodOverride] - its types are private to typer
        del ctx
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module = import_module(f"spanbus.cli.{_MODULES.get(cmd_name, cmd_name)}")
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            made = typer.main.get_command(group)
        else:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            alone.command(cmd_name, context_settings=getattr(module, "CONTEXT", None))(module.command)
            made = typer.main.get_command(alone)
        made.name = cmd_name
        return made


_MODULES = {"exec": "execute"}


def _exists(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"spanbus.cli.{_MODULES.get(name, name)}") is not None


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"spanbus {__version__}")
        raise typer.Exit


app = typer.Typer(cls=_Lazy, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _root(version: bool = typer.Option(False, "--version", "-V", callback=_version, is_eager=True, help="Print the version.")) -> None:  # pyright: ignore[reportUnusedFunction]
    """Each workflow phase a span, each bus event a span event, counted and timed, over OTLP."""
    del version


def _flush() -> None:
    """While an error can still be told: at the end of the interpreter it would be a traceback."""
    stream = cast("IO[str] | None", sys.stdout)
    if stream is not None and not stream.closed:
        stream.flush()


def main() -> None:
    """Entry point. Errors that were raised on purpose are one line on stderr: exit code 2, or 1 for a run that is not there."""
    console.spell_what_cannot_be_shown()
    try:
        try:
            app()
        finally:
            _flush()
    except RunNotFound as error:
        console.complain(error)
        code = 1
    except SpanbusError as error:
        console.complain(error)
        code = 2
    except BrokenPipeError:  # the reader of our output left, as head does
        console.silence(sys.stdout)
        code = 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG) or error.filename is not None:
            raise
        console.silence(sys.stdout)
        console.complain(f"the output cannot be written: {error.strerror}")
        code = 1
    else:
        return
    sys.exit(code)
