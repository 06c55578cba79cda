"""Fast parser of command lines, by a table that ``python tools/start.py`` generates from the commands.

Loading typer takes three times as long as starting Python. It is only used for help, invalid command lines, and commands
with a syntax of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from spanbus._cli.start_data import COMMANDS, Argument, Bounds, Option


def call_of(words: Sequence[str]) -> Callable[[], object] | None:
    """Return a call of the command, or None if typer must parse the command line."""
    row = COMMANDS.get(words[0]) if words else None
    if row is None or not row[0] or os.name == "nt":  # on Windows typer expands wildcards
        return None
    _, arguments, options = row
    given = _given(words[1:], arguments, options)
    if given is None:
        return None
    command: Callable[..., object] = import_module(f"spanbus._cli.{words[0]}").command
    return partial(command, **given)


def _given(
    words: Sequence[str], arguments: Sequence[Argument], options: Sequence[Option]
) -> dict[str, object] | None:
    """Parse the words into parameter values. Returns None if they are invalid."""
    by_name = {name: option for option in options for name in option[0]}
    given: dict[str, object] = {}
    rest: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--":
            rest += words[place:]
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        if word.startswith("--"):
            name, attached, text = word.partition("=")
        else:
            name, attached, text = word[:2], word[2:], word[2:]
        if name not in by_name:
            return None
        _, again, parameter, kind, bounds = by_name[name]
        if kind == "flag":
            if attached:
                return None
            given[parameter] = True
            continue
        if not attached:
            if place == len(words):
                return None
            text = words[place]
            place += 1
        value = _value(text, kind, bounds)
        if value is None:
            return None
        if again:
            before = given.get(parameter)
            given[parameter] = [*before, value] if isinstance(before, list) else [value]
        else:
            given[parameter] = value
    return given if _place(rest, arguments, given) else None


def _place(words: list[str], arguments: Sequence[Argument], given: dict[str, object]) -> bool:
    """Assign the positional arguments. Returns whether they match."""
    for parameter, kind, required, many in arguments:
        taken, words = (words, []) if many else (words[:1], words[1:])
        values = [_value(word, kind, None) for word in taken]
        if (required and not values) or None in values:
            return False
        if values:
            given[parameter] = values if many else values[0]
    return not words


def _value(text: str, kind: str, bounds: Bounds) -> object:
    """Convert a string to its kind; None if it is invalid or out of bounds."""
    if kind == "text":
        return text
    if kind == "path":
        return Path(text)
    try:
        number = int(text) if kind == "whole" else float(text) if kind == "number" else None
    except ValueError:
        return None
    least, most = bounds or (None, None)
    if number is None or not (least is None or number >= least):
        return None
    return number if most is None or number <= most else None
