"""Text of somebody else's program, made harmless for a reader: nothing hidden, nothing that changes direction or colour."""

from __future__ import annotations

import re

# Control characters, bidirectional overrides, zero-width and other invisible characters, those of the tag block among them, in
# which whole sentences can be written that nobody sees: the same set as page/text.js.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff\t\n]"
)


def _spelled(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return {"\n": "\\n", "\t": "\\t"}.get(character, f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def one_line(text: str, limit: int = 300) -> str:
    """``text`` in one line of at most ``limit`` characters; what cannot be seen is spelled out."""
    shown = _HIDDEN.sub(_spelled, text[: limit * 2])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def block(text: str) -> str:
    """``text`` of several lines; line ends and tabs stay."""
    return _HIDDEN.sub(lambda match: match[0] if match[0] in "\n\t" else _spelled(match), text.replace("\r\n", "\n").replace("\r", "\n"))
