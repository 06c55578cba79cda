"""The rules of ``secrets.toml``: shapes of secrets, contexts before them, and command options that take them.

A rule is tried only where one of its literals occurs, and a match has a bounded reach, so that scrubbing takes linear time.
Data is loaded and patterns are compiled lazily.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import cast

from spanbus._named_tuple import NamedTuple

REDACTED = "REDACTED"
ELLIPSIS = "…"

Span = tuple[int, int]

_TOKEN_START = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})|(?<=\s-[A-Za-z])|(?<=\A-[A-Za-z]))"
"""A token starts outside a word, or behind an escape, a percent-encoded character or an option letter."""
_BEHIND_CHARS = 330
_COMMAND_CHARS = 400
_START = 3
_COMMAND_END = r"[\n|;&]"


class Rule:
    """A rule. Its pattern is matched at each occurrence of a literal, or ``backs`` characters before it."""

    def __init__(self, name: str, row: Mapping[str, object], kind: str) -> None:
        self.name = name
        self.literals = tuple(cast("list[str]", row["literals"]))
        required = row.get("with", ())
        self.required = (
            (required,) if isinstance(required, str) else tuple(cast("list[str]", required))
        )
        self.backs = tuple(cast("list[int]", row.get("back", [0])))
        self.glued = row.get("glued") is True
        self.names = cast("str | None", row.get("names"))
        self.behind = cast("str | None", row.get("behind"))
        self.source = cast("str", row.get("pattern", ""))
        self.kind = kind

    def pattern(self) -> re.Pattern[str]:
        """Return the compiled pattern; cached."""
        if self.behind is not None:
            return _compiled(rf"{self.behind}\Z", re.IGNORECASE)
        if self.kind == "shapes":
            return _compiled(f"{'' if self.glued else _TOKEN_START}(?:{self.source})", 0)
        return _compiled(self.source, re.IGNORECASE)

    def applies_to(self, text: str) -> bool:
        return not self.required or any(word in text for word in self.required)


class Rules(NamedTuple):
    shapes: tuple[Rule, ...]
    contexts: tuple[Rule, ...]
    commands: tuple[Rule, ...]


@cache
def rules() -> Rules:
    """Load the rules of ``secrets.toml``."""
    from spanbus._telemetry.secret_data import RULES

    return Rules(
        *(
            tuple(Rule(name, row, kind) for name, row in RULES[kind].items())
            for kind in Rules._fields
        )
    )


class _Index:
    """Index of the rules' literals by their first three characters."""

    def __init__(self, of: Sequence[Rule]) -> None:
        self.everywhere = tuple(rule for rule in of if not rule.literals)
        self._short: list[tuple[str, Rule]] = []
        self._by_start: dict[str, list[tuple[str, Rule]]] = {}
        for rule in of:
            for literal in rule.literals:
                if len(literal) < _START:
                    self._short.append((literal, rule))
                else:
                    self._by_start.setdefault(literal[:_START].lower(), []).append((literal, rule))

    def found(self, text: str, starts: frozenset[str]) -> Iterator[tuple[str, Rule]]:
        """Yield the literals that occur in a text, with their rules."""
        for start in self._by_start.keys() & starts:
            for literal, rule in self._by_start[start]:
                if literal in text:
                    yield literal, rule
        for literal, rule in self._short:
            if literal in text:
                yield literal, rule


@cache
def _index(kind: str) -> _Index:
    return _Index(getattr(rules(), kind))


@cache
def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    return re.compile(pattern, flags)


def starts_of(text: str) -> frozenset[str]:
    """Return all sequences of three characters of a text in lower case, for :class:`_Index`."""
    lowered = text.lower()
    return frozenset([lowered[at : at + _START] for at in range(len(lowered) - _START + 1)])


def without_shapes(text: str, starts: frozenset[str]) -> str:
    """Return ``text`` without secrets that are recognizable by their shape."""
    spans: list[Span] = []
    index = _index("shapes")
    for rule in index.everywhere:
        spans += (found.span() for found in rule.pattern().finditer(text))
    for literal, rule in index.found(text, starts):
        if rule.applies_to(text):
            spans += _matches(rule, text, text, literal)
    return replaced(text, spans)


def without_contexts(text: str, starts: frozenset[str]) -> str:
    """Return ``text`` without secrets that are recognizable by a header, address, command or phrase before them."""
    lowered = ascii_lower(text)
    there: dict[str, list[str]] = {}
    for literal, rule in _index("contexts").found(lowered, starts):
        there.setdefault(rule.name, []).append(literal)
    for rule in rules().contexts if there else ():
        spans: list[Span] = []
        for literal in there.get(rule.name, ()):
            if rule.applies_to(lowered):
                spans += (
                    _matches(rule, text, lowered, literal)
                    if rule.behind is None
                    else _matches_behind(rule, text, lowered, literal)
                )
        if spans:
            text = replaced(text, spans)
            lowered = ascii_lower(text)
    return without_options(text, lowered)


def without_options(text: str, lowered: str | None = None) -> str:
    """Return ``text`` without secrets in short options of known commands."""
    lowered = ascii_lower(text) if lowered is None else lowered
    if " -" not in lowered and "\t-" not in lowered:
        return text
    for rule in rules().commands:
        if any(literal in lowered for literal in rule.literals):
            text = replaced(text, list(_option_values(rule, text)))
    return text


def replaced(text: str, spans: Iterable[Span]) -> str:
    """Return ``text`` with each of ``spans`` replaced by one word. Spans may overlap; empty ones and a lone ellipsis are kept."""
    ordered = sorted(span for span in spans if text[span[0] : span[1]] not in ("", ELLIPSIS))
    if not ordered:
        return text
    kept: list[str] = []
    at = 0
    begin, end = ordered[0]
    for first, last in (*ordered[1:], (len(text), len(text))):
        if first < end:
            end = max(end, last)
            continue
        kept += (text[at:begin], REDACTED)
        at, begin, end = end, first, last
    return "".join((*kept, text[at:]))


def ascii_lower(text: str) -> str:
    """Return ``text`` in lower case without changing its length."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _matches(rule: Rule, text: str, haystack: str, literal: str) -> Iterator[Span]:
    pattern, backs = rule.pattern(), rule.backs
    at = haystack.find(literal)
    while at >= 0:
        beyond = at + 1
        for back in backs:
            if back > at:
                continue
            found = pattern.match(text, at - back)
            if found is not None and found.end() > at:
                yield (found.end("keep") if rule.kind != "shapes" else found.start(), found.end())
                beyond = found.end()
                break
        at = haystack.find(literal, beyond)


def _matches_behind(rule: Rule, text: str, haystack: str, literal: str) -> Iterator[Span]:
    pattern = rule.pattern()
    at, read = haystack.find(literal), 0
    while at >= 0:
        found = pattern.search(text, max(read, at - _BEHIND_CHARS), at)
        if found is not None:
            yield found.span(1)
        read = at + len(literal)
        at = haystack.find(literal, read)


def _option_values(rule: Rule, text: str) -> Iterator[Span]:
    """Yield the spans of option values. The words of a command are scanned once, even if its name recurs in them."""
    pattern, ending = rule.pattern(), _compiled(_COMMAND_END, 0)
    read = 0
    for command in _compiled(
        rf"(?<![\w.-])(?:{rule.names})(?:\.exe)?(?![\w-])", re.IGNORECASE
    ).finditer(text):
        if command.start() < read:
            continue
        end = min(len(text), command.end() + _COMMAND_CHARS)
        if (separator := ending.search(text, command.end(), end)) is not None:
            end = separator.start()
        at = command.end()
        while (option := pattern.search(text, at, end)) is not None:
            whole = pattern.match(text, option.start()) or option
            yield whole.end("keep"), whole.end()
            at = whole.end()
        read = max(at, end)
