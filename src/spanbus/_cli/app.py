"""The typer application: each command is a module that is loaded on demand."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from spanbus._cli import console
from spanbus._cli.help_texts import SUMMARIES, epilog
from spanbus._cli.program import run
from spanbus._sanitize import lines
from spanbus._suggest import did_you_mean
from spanbus._version import __version__
from spanbus.errors import InputError

COMMANDS = (
    "run",
    "exec",
    "runs",
    "show",
    "logs",
    "replay",
    "dialect",
    "diff",
    "report",
    "view",
    "up",
    "status",
    "flush",
    "doctor",
    "stack",
    "nats",
    "observe",
    "demo",
    "metrics",
    "mcp",
)
"""Commands in the order of the help. ``spanbus._cli.NAME`` defines ``command``, a function with typer's annotations."""


@contextmanager
def _escaped_usage_errors() -> Generator[None]:
    """Escape control characters in typer's error messages, which quote the user's input."""
    try:
        yield
    except Exception as error:
        message: object = getattr(error, "message", None)
        if isinstance(message, str) and type(error).__module__.startswith(("typer", "click")):
            error.message = lines(message)  # pyright: ignore[reportAttributeAccessIssue]
        raise


class _Lazy(TyperGroup):
    """A group that imports the module of a command on demand."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _escaped_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _escaped_usage_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: object) -> list[str]:
        del ctx
        return [name for name in COMMANDS if _exists(name)]

    def resolve_command(self, ctx: typer.Context, args: list[str]):  # pyright: ignore[reportIncompatibleMethodOverride] - as below
        """Resolve a command. Raises :class:`~spanbus.errors.InputError` with the nearest name for an unknown one."""
        if (
            args
            and not ctx.resilient_parsing
            and not args[0].startswith("-")
            and args[0] not in COMMANDS
        ):
            meant = did_you_mean(args[0], COMMANDS)
            raise InputError(f"no command {args[0]!r}{meant or ';'} `spanbus --help` lists them")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: object, cmd_name: str):  # pyright: ignore[reportIncompatibleMethodOverride] - its types are private to typer
        del ctx
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module = import_module(f"spanbus._cli.{_MODULES.get(cmd_name, cmd_name)}")
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            made = typer.main.get_command(group)
        else:
            single = typer.Typer(
                add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
            )
            single.command(cmd_name, context_settings=getattr(module, "CONTEXT", None))(
                module.command
            )
            made = typer.main.get_command(single)
        made.name = cmd_name
        made.epilog = made.epilog or epilog(cmd_name)
        for name, beneath in getattr(made, "commands", {}).items():
            beneath.epilog = beneath.epilog or epilog(f"{cmd_name} {name}")
        made.short_help = SUMMARIES.get(cmd_name)
        return made


_MODULES = {"exec": "execute"}


def _exists(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"spanbus._cli.{_MODULES.get(name, name)}") is not None


def _version(wanted: bool) -> None:
    if wanted:
        console.line(f"spanbus {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Lazy,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:  # pyright: ignore[reportUnusedFunction]
    """Each workflow phase a span, each bus event a span event, counted and timed, over OTLP."""
    del version


def main() -> None:
    """Entry point for command lines that typer parses."""
    run(app)
