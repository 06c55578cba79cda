"""Sanitize foreign text for display: nothing hidden, nothing that changes direction or colour."""

from __future__ import annotations

import re

from spanbus._patterns import pattern

# Control characters, bidirectional overrides, zero-width and other invisible characters, those of the tag block among them, in
# which whole sentences can be written that nobody sees, and variation selectors but for one behind an emoji: the same set as
# page/text.js.
_HIDDEN = pattern(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\ufe00-\ufe0d\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff\t\n]"
    "|(?<![\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])[\ufe0e\ufe0f](?:(?<![0-9#*][\ufe0e\ufe0f])|(?!\u20e3))"
)
_MOST_MARKS = 4
"""Accents and vowel signs on one letter; what stacks more of them writes over the lines above and below."""
_MAYBE_MARKS = pattern("[^\\w\\s\u0000-\u02ff]{5,}")


def _spelled(match: re.Match[str]) -> str:
    return {"\n": "\\n", "\t": "\\t"}.get(match[0]) or _escape(match[0])


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, limit: int = 300) -> str:
    """``text`` in one line of at most ``limit`` characters; what cannot be seen is spelled out."""
    if len(text) <= limit and text.isascii() and text.isprintable():  # as nearly all are
        return text
    shown = _unstacked(_HIDDEN.sub(_spelled, text[: limit * 2]))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def lines(text: str) -> str:
    """``text`` for a terminal: one line stays as it is where nothing in it is hidden, which is the usual case."""
    return text if text.isascii() and text.isprintable() else block(text)


def block(text: str) -> str:
    """``text`` of several lines; line ends and tabs stay."""
    return _unstacked(
        _HIDDEN.sub(
            lambda match: match[0] if match[0] in "\n\t" else _spelled(match),
            text.replace("\r\n", "\n").replace("\r", "\n"),
        )
    )


def _unstacked(text: str) -> str:
    """``text`` with the marks spelled out that stand on one letter beyond what any language writes."""
    return text if text.isascii() else _MAYBE_MARKS.sub(_few_marks, text)


def _few_marks(match: re.Match[str]) -> str:
    from unicodedata import category  # not for texts in ASCII

    shown: list[str] = []
    marks = 0
    for character in match[0]:
        marks = marks + 1 if category(character).startswith("M") else 0
        shown.append(character if marks <= _MOST_MARKS else _escape(character))
    return "".join(shown)
