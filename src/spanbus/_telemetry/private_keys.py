"""Remove private keys from a text: whole blocks, and blocks whose first or last lines were cut off."""

from __future__ import annotations

import re
from functools import cache

from spanbus._telemetry.secret_rules import Span, replaced

_LONGEST_PREFIX = 120
_QUOTING = " \t\"'+,;()\\"
"""Characters around the lines of a key that is quoted in source code."""


@cache
def _begin() -> re.Pattern[str]:
    return re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d"
        r"|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"
    )


@cache
def _end() -> re.Pattern[str]:
    return re.compile(
        r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|Private-MAC: \w+"
        r"|---- END SSH2 ENCRYPTED PRIVATE KEY ----"
    )


@cache
def _line_end() -> re.Pattern[str]:
    return re.compile(r"(?<!\\)(?:\\++r)?\\++n|\r?\n|\r")


@cache
def _body() -> re.Pattern[str]:
    """Pattern of the end of a key line: base64, then characters of a quotation in source code."""
    return re.compile(r"(?<![0-9A-Za-z+/])([0-9A-Za-z+/]*+={0,3})[\"',;+\\) \t]*\Z")


@cache
def _header() -> re.Pattern[str]:
    return re.compile(
        r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|MessageID|Private-Lines|Private-Hash|Key-Derivation"
        r"|Argon2-\w+):"
    )


def without_private_keys(text: str) -> str:
    """Return ``text`` with each private key, or part of one, replaced by one word. Takes linear time."""
    if "PRIVATE KEY" not in text and "PuTTY" not in text and "Private-MAC" not in text:
        return text
    spans: list[Span] = []
    at = 0
    for end in _end().finditer(text):
        if end.start() < at:
            continue
        begin = _begin().search(text, at, end.start())
        first = begin.start() if begin is not None else _key_start(text, at, end.start())
        spans.append((first, end.end()))
        at = end.end()
    if (begin := _begin().search(text, at)) is not None:
        spans.append((begin.start(), len(text)))
    return replaced(text, spans)


def _key_start(text: str, floor: int, end: int) -> int:
    """Return where the lines before ``end`` begin to look like a key; they may be indented or have a common prefix."""
    starts = [floor, *(found.end() for found in _line_end().finditer(text, floor, end))]
    prefix = text[starts[-1] : end]
    if len(prefix) > _LONGEST_PREFIX:
        return starts[-1]
    first = starts.pop() + len(prefix)
    limit = first - len(prefix)
    nearest = True
    while starts:
        begin = starts.pop()
        line = _line_end().sub("", text[begin:limit])
        if not _is_of_a_key(line, prefix, nearest=nearest, cut=not starts and not floor):
            break
        common = 0 if not prefix.strip() else _common_prefix_length(line, prefix)
        first, limit = begin + common, begin
        nearest = nearest and not line.strip()
    return first


def _is_of_a_key(line: str, prefix: str, *, nearest: bool, cut: bool) -> bool:
    if len(line) > 1_000:
        return False
    found = _body().search(line)
    body = found[1] if found is not None else ""
    before = line[: found.start()] if found is not None else line
    if not prefix.strip() and before.strip(
        " \t\"'+"
    ):  # text before it that the other lines do not have
        return (cut and len(body) >= 16) or _header().match(line.strip()) is not None
    if len(before) > _LONGEST_PREFIX:
        return False
    if not body:
        rest = line.strip(_QUOTING)
        return not rest or rest == prefix.strip(_QUOTING) or bool(_header().search(line))
    if cut and not (
        body.isalpha() and body.islower()
    ):  # the first line of a cut text may be only part of a key line
        return True
    return len(body) >= 16 or nearest or body.startswith("=")


def _common_prefix_length(line: str, prefix: str) -> int:
    """Return the length of the common prefix."""
    for at, (mine, other) in enumerate(zip(line, prefix, strict=False)):
        if mine != other:
            return at
    return min(len(line), len(prefix))
