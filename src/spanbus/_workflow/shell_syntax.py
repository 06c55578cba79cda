"""Detect shell syntax in a command line."""

from __future__ import annotations

import re

_OPERATORS = ("&&", "||", "|&", ">>", "<<", "|", ">", "<", ";", "`", "$(")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w[^}]*\}?|[0-9?#@*!$])")
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_]\w*=")


def shell_syntax_in(line: str) -> str | None:
    """Return the first shell operator, variable or assignment outside quotes; None for a plain command."""
    if (match := _ASSIGNMENT.match(line)) is not None:
        return match[0].strip()
    quote = ""
    index = 0
    while index < len(line):
        character = line[index]
        if character == "\\" and quote != "'":
            index += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif (found := _operator(line, index)) is not None:
            return found
        index += 1
    return None


def _operator(line: str, index: int) -> str | None:
    for operator in _OPERATORS:
        if line.startswith(operator, index):
            return operator
    if (match := _VARIABLE.match(line, index)) is not None:
        return match[0]
    after = line[index + 1 : index + 2]
    if line[index] == "&" and (not after or after.isspace()):
        return "&"  # a background job
    if line[index] == "\n" and line[:index].strip() and line[index:].strip():
        return "a second line"
    return None
