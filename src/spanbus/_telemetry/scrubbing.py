"""Remove the secrets from one text: private keys, shapes, contexts and named values in turn, until nothing changes."""

from __future__ import annotations

import re
from functools import cache

from spanbus._telemetry.command_lines import cleaned_arguments
from spanbus._telemetry.named_values import without_named_values
from spanbus._telemetry.private_keys import without_private_keys
from spanbus._telemetry.secret_rules import (
    ELLIPSIS,
    REDACTED,
    starts_of,
    without_contexts,
    without_shapes,
)

_PASSES = 4
_HEX_DIGITS = frozenset("0123456789abcdef")
_UUID_LENGTHS = [8, 4, 4, 4, 12]
_LONGEST_TOKEN = 512

_INVISIBLE = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\U000e0000-\U000e0fff"
)
_VARIANTS = r"\ufe00-\ufe0f"
"""Variation selectors, valid behind an emoji and not behind an ASCII letter."""
_PATTERNS = {
    "suspicious": r"[:=@<\x1b]|\S{15}|(?:^|\s)-|['\"]\s*,",
    "ansi": r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)|[@-Z\\^_])|\\(?:u001b|x1b|033|e)\[[0-9;]*+m",
    "control": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]",
    # only next to ASCII, where they can hide something; joiners inside words of other scripts are kept
    "invisible": rf"[{_INVISIBLE}][{_INVISIBLE}{_VARIANTS}]*+|(?<=[\x00-\x7f])(?!\ufe0f\u20e3)[{_VARIANTS}][{_INVISIBLE}{_VARIANTS}]*+",
    "invisible, spelled out": r"(?<!\\)\\++(?:[uU](?:200[b-fB-F]|00[aA][dD]|[fF][eE][fF]{2}|206[0-9a-fA-F]|202[a-eA-E]|061[cC]|034[fF]|3164|115[fF]|1160|17[bB][45]|180[b-fB-F]|[fF]{2}[aA]0|[dD][bB]40\\++[uU][dD][cCdD][0-9a-fA-F]{2})|x[aA][dD])"
    r"|(?<!\\)(?<!\\[uU][0-9a-fA-F]{4})\\++[uU][fF][eE]0[0-9a-fA-F](?!\\++[uU]20[eE]3)",
    "encoded": r"(?<![\w.~%+-])[\w.~+-]*+(?:%[0-9A-Fa-f]{2}[\w.~+-]*+)++",
    "separator": r"[\s\"',;&][^\s\"',;&]*\Z",
    "item": r"b?(?:'(?:[^'\\\r\n]|\\.)*+'|\"(?:[^\"\\\r\n]|\\.)*+\")|REDACTED",
}
_ITEM = _PATTERNS["item"]
_PATTERNS["list"] = (
    rf"[\[(]\s{{0,9}}(?:{_ITEM})(?:\s{{0,9}},\s{{0,9}}(?:{_ITEM}))++,?\s{{0,9}}[\])]"
)
_WORDS = (
    "bearer",
    "basic ",
    "passw",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "api key",
    "identified",
    "login",
    " set ",
    "setenv ",
    "setx ",
    "env ",
    "pwd",
    "|",
)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(_PATTERNS[name])


def plain(text: str) -> str:
    """Return ``text`` without ANSI sequences, control characters, lone surrogates and invisible characters next to ASCII."""
    if "\x1b" in text or "[0m" in text:
        text = _pattern("ansi").sub("", text)
    if "\\" in text:
        text = _pattern("invisible, spelled out").sub("", text)
    text = _pattern("control").sub("\N{REPLACEMENT CHARACTER}", text)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8", "replace")  # lone surrogates
        text = _pattern("invisible").sub(_unless_inside_a_script, text)
    return text


def _unless_inside_a_script(found: re.Match[str]) -> str:
    text, (first, last) = found.string, found.span()
    inside = first and not text[first - 1].isascii() and not text[last : last + 1].isascii()
    return found[0] if inside else ""


def without_secrets(text: str, encoded: bool = True) -> str:
    """Return ``text`` without secrets; ``encoded``: also those in percent-encoded parts. Idempotent."""
    if _is_id(text):
        return text
    for _ in range(_PASSES):
        # a replacement may match again together with its surroundings; this settles quickly
        if _pattern("suspicious").search(text) is None:
            lowered = text.lower()
            if not any(word in lowered for word in _WORDS):
                break
        scrubbed = text
        if "['" in text or '["' in text or "('" in text or '("' in text:
            scrubbed = _pattern("list").sub(_cleaned_list, text)
        scrubbed = without_private_keys(scrubbed)
        starts = starts_of(scrubbed)
        scrubbed = without_shapes(scrubbed, starts)
        scrubbed = without_contexts(scrubbed, starts)
        scrubbed = without_named_values(scrubbed)
        if encoded and "%" in scrubbed:
            scrubbed = _pattern("encoded").sub(_cleaned_part, scrubbed)
        if scrubbed == text:
            break
        text = scrubbed
    return text


def _cleaned_part(found: re.Match[str]) -> str:
    """Clean a percent-encoded part by its decoded text; it is kept as written if that contains no secret."""
    from urllib.parse import quote, unquote

    decoded = unquote(found[0])
    cleaned = without_secrets(plain(decoded), encoded=False)
    return found[0] if cleaned == plain(decoded) else quote(cleaned, safe="+")


def _is_id(text: str) -> bool:
    """Whether the text is a hexadecimal id or a UUID, in which no rule finds a secret."""
    if "-" not in text:
        return _HEX_DIGITS.issuperset(text)
    parts = text.split("-")
    return [len(part) for part in parts] == _UUID_LENGTHS and _HEX_DIGITS.issuperset("".join(parts))


def _cleaned_list(found: re.Match[str]) -> str:
    """Clean a command in an error text or JSON: ``['docker', 'login', '-p', 'abc']``. Other items are kept as written."""
    from ast import literal_eval

    items = list(_pattern("item").finditer(found[0]))
    values: list[str] = []
    for item in items:
        try:
            value: object = item[0] if item[0] == REDACTED else literal_eval(item[0])
        except (ValueError, SyntaxError):
            return found[0]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        values.append(str(value))
    kept: list[str] = []
    at = 0
    cleaned = cleaned_arguments(values, _cleaned_item, without_secrets)
    for item, value, clean in zip(items, values, cleaned, strict=True):
        kept.append(found[0][at : item.start()])
        kept.append(item[0] if clean == value else REDACTED if clean == REDACTED else repr(clean))
        at = item.end()
    return "".join((*kept, found[0][at:]))


def _cleaned_item(text: str) -> str:
    return without_secrets(plain(text))


def beginning(text: str, size: int) -> str:
    """Return at most ``size`` characters, without a cut token at the end, which no rule could recognize."""
    if len(text) <= size:
        return text
    text = text[:size]
    separator = _pattern("separator").search(text, max(0, size - _LONGEST_TOKEN))
    return text[: separator.start()] if separator is not None else text[:-_LONGEST_TOKEN]


def shortened(text: str, limit: int) -> str:
    """Cut a text to ``limit`` characters including an ellipsis, without cutting through a replacement word.

    Half a replacement word would match as a secret, be replaced and be cut again, each time scanning the whole text.
    """
    end = limit - 1
    placed = text.rfind(REDACTED, max(0, end - len(REDACTED) + 1), end + len(REDACTED) - 1)
    if 0 <= placed < end < placed + len(REDACTED):
        end = placed
    return text[:end] + ELLIPSIS
