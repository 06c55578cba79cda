"""Sanitize foreign text for display: no invisible characters, no changes of direction or colour."""

from __future__ import annotations

import re

from spanbus._patterns import pattern

# Control characters, bidirectional overrides, zero-width and other invisible characters (including the tag block, which can
# encode whole hidden sentences), and variation selectors except one behind an emoji. Keep in sync with page/text.js.
_HIDDEN = pattern(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\ufe00-\ufe0d\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff\t\n]"
    "|(?<![\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])[\ufe0e\ufe0f](?:(?<![0-9#*][\ufe0e\ufe0f])|(?!\u20e3))"
)
_MAX_MARKS = 4
"""Maximum of combining marks on one letter; more of them would overwrite the lines above and below."""
_MAYBE_MARKS = pattern("[^\\w\\s\u0000-\u02ff]{5,}")


def _escaped(match: re.Match[str]) -> str:
    return {"\n": "\\n", "\t": "\\t"}.get(match[0]) or _escape(match[0])


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, limit: int = 300) -> str:
    """Return ``text`` in one line of at most ``limit`` characters; invisible characters are shown as escapes."""
    if len(text) <= limit and text.isascii() and text.isprintable():  # the usual case
        return text
    shown = _limit_marks(_HIDDEN.sub(_escaped, text[: limit * 2]))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def lines(text: str) -> str:
    """Return ``text`` for a terminal. Printable ASCII, the usual case, is returned unchanged."""
    return text if text.isascii() and text.isprintable() else block(text)


def block(text: str) -> str:
    """Return ``text`` of several lines; line ends and tabs are kept."""
    return _limit_marks(
        _HIDDEN.sub(
            lambda match: match[0] if match[0] in "\n\t" else _escaped(match),
            text.replace("\r\n", "\n").replace("\r", "\n"),
        )
    )


def _limit_marks(text: str) -> str:
    """Escape combining marks beyond the number that any language uses on one letter."""
    return text if text.isascii() else _MAYBE_MARKS.sub(_escape_marks, text)


def _escape_marks(match: re.Match[str]) -> str:
    from unicodedata import category  # lazy: not needed for ASCII

    shown: list[str] = []
    marks = 0
    for character in match[0]:
        marks = marks + 1 if category(character).startswith("M") else 0
        shown.append(character if marks <= _MAX_MARKS else _escape(character))
    return "".join(shown)
