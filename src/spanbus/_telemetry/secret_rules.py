"""The rules of ``secrets.toml``: what a secret looks like, what stands before one, which commands take one.

A rule is tried only where one of its literals stands. A text is searched once for each literal, and a hit costs at most the
rule's bounded reach, so that no text takes more than linear time. Data is read and patterns are compiled when first needed.
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

_BEGINNING = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})|(?<=\s-[A-Za-z])|(?<=\A-[A-Za-z]))"
"""Where a token may begin: not inside a word, but behind an escaped or percent-encoded character or the letter of an option."""
_BEHIND_CHARS = 330
_COMMAND_CHARS = 400
_START = 3
_COMMAND_END = r"[\n|;&]"


class Rule:
    """One rule; ``pattern`` is matched where a literal stands, or ``backs`` characters before it."""

    def __init__(self, name: str, row: Mapping[str, object], kind: str) -> None:
        self.name = name
        self.literals = tuple(cast("list[str]", row["literals"]))
        wanted = row.get("with", ())
        self.wanted = (wanted,) if isinstance(wanted, str) else tuple(cast("list[str]", wanted))
        self.backs = tuple(cast("list[int]", row.get("back", [0])))
        self.glued = row.get("glued") is True
        self.names = cast("str | None", row.get("names"))
        self.behind = cast("str | None", row.get("behind"))
        self.source = cast("str", row.get("pattern", ""))
        self.kind = kind

    def pattern(self) -> re.Pattern[str]:
        """Compiled when it is first needed."""
        if self.behind is not None:
            return _compiled(rf"{self.behind}\Z", re.IGNORECASE)
        if self.kind == "shapes":
            return _compiled(f"{'' if self.glued else _BEGINNING}(?:{self.source})", 0)
        return _compiled(self.source, re.IGNORECASE)

    def concerns(self, text: str) -> bool:
        return not self.wanted or any(word in text for word in self.wanted)


class Rules(NamedTuple):
    shapes: tuple[Rule, ...]
    contexts: tuple[Rule, ...]
    commands: tuple[Rule, ...]


@cache
def rules() -> Rules:
    """Everything that ``secrets.toml`` says."""
    from spanbus._telemetry.secret_data import RULES

    return Rules(
        *(
            tuple(Rule(name, row, kind) for name, row in RULES[kind].items())
            for kind in Rules._fields
        )
    )


class _Index:
    """The literals of rules by their first three characters: a text is looked through once for all of them."""

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
        """The literals that stand in a text, with their rules."""
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
    """Every three characters that stand in a text, in lower case: what is looked for is looked up in them."""
    lowered = text.lower()
    return frozenset([lowered[at : at + _START] for at in range(len(lowered) - _START + 1)])


def without_shapes(text: str, starts: frozenset[str]) -> str:
    """``text`` without what looks like a secret by itself."""
    spans: list[Span] = []
    index = _index("shapes")
    for rule in index.everywhere:
        spans += (found.span() for found in rule.pattern().finditer(text))
    for literal, rule in index.found(text, starts):
        if rule.concerns(text):
            spans += _matches(rule, text, text, literal)
    return replaced(text, spans)


def without_contexts(text: str, starts: frozenset[str]) -> str:
    """``text`` without what a header, an address, a command or a sentence gives away as a secret."""
    lowered = ascii_lower(text)
    there: dict[str, list[str]] = {}
    for literal, rule in _index("contexts").found(lowered, starts):
        there.setdefault(rule.name, []).append(literal)
    for rule in rules().contexts if there else ():
        spans: list[Span] = []
        for literal in there.get(rule.name, ()):
            if rule.concerns(lowered):
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
    """``text`` without the values of short options with which some commands take a secret."""
    lowered = ascii_lower(text) if lowered is None else lowered
    if " -" not in lowered and "\t-" not in lowered:
        return text
    for rule in rules().commands:
        if any(literal in lowered for literal in rule.literals):
            text = replaced(text, list(_option_values(rule, text)))
    return text


def replaced(text: str, spans: Iterable[Span]) -> str:
    """``text`` with one word in the place of each of ``spans``, which may overlap. Where a text was cut, no secret is left."""
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
    """``text`` in lower case, each character still in its place."""
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
    """The words of one command are read once, however often it is named in them."""
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
