"""Command line of ``spanbus exec``, parsed without typer: with typer the command would start four times as late."""

from __future__ import annotations

import sys

USAGE = "Usage: spanbus exec [OPTIONS] -- COMMAND..."

_VALUES = {
    "--workflow": "workflow",
    "-w": "workflow",
    "--name": "name",
    "-n": "name",
    "--file": "file",
    "--attr": "attributes",
}
_KEEP_OUTPUT = "--keep-output"
_HELP = ("--help", "-h")


class Arguments:
    """Parsed command line; ``argv`` is the command with its arguments, unchanged."""

    __slots__ = ("argv", "attributes", "file", "keep_output", "name", "workflow")

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.workflow: str | None = None
        self.name: str | None = None
        self.file: str | None = None
        self.attributes: list[str] = []
        self.keep_output = False

    @property
    def program(self) -> str:
        """Base name of the command, the default name of phase and workflow."""
        return self.argv[0].rstrip("/").rpartition("/")[2] or self.argv[0] or "command"

    @property
    def phase(self) -> str:
        return (self.name or "").strip() or self.program

    @property
    def workflow_name(self) -> str:
        return (self.workflow or "").strip() or self.program


class BadUsage(Exception):
    """The command line is invalid."""


def asks_for_help(words: list[str]) -> bool:
    """Whether a help option precedes the command."""
    try:
        _, rest = _options(words)
    except BadUsage:
        return any(word in _HELP for word in words[: _end(words)])
    return rest is None


def parse(words: list[str]) -> Arguments:
    """Parse the command line. An invalid one ends the program with status 2 and a usage message on stderr."""
    try:
        given, rest = _options(words)
        if not rest:
            raise BadUsage("Missing argument '-- COMMAND...'.")
    except BadUsage as error:
        from spanbus._sanitize import one_line

        text = one_line(str(error), 2_000)
        print(f"{USAGE}\nTry 'spanbus exec --help' for help.\n\nError: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    arguments = Arguments(rest)
    for name, value in given:
        if name == "attributes":
            arguments.attributes.append(value)
        elif name == "keep_output":
            arguments.keep_output = True
        else:
            setattr(arguments, name, value)
    return arguments


def _options(words: list[str]) -> tuple[list[tuple[str, str]], list[str] | None]:
    """Return the options and the command after them, None as the command if help is requested."""
    given: list[tuple[str, str]] = []
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":
            return given, words[place + 1 :]
        if not word.startswith("-") or word == "-":
            break
        if word in _HELP:
            return given, None
        option, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2:
            option, equals, value = word[:2], "=", word[2:]
        if option in _VALUES:
            if not equals:
                place += 1
                if place >= len(words):
                    raise BadUsage(f"Option '{option}' requires an argument.")
                value = words[place]
            given.append((_VALUES[option], value))
        elif option == _KEEP_OUTPUT:
            if equals:
                raise BadUsage(f"Option '{option}' does not take a value.")
            given.append(("keep_output", ""))
        else:
            raise BadUsage(f"No such option: {option}")
        place += 1
    return given, words[place:]


def _end(words: list[str]) -> int:
    return words.index("--") if "--" in words else len(words)
