"""Text of somebody else's program: nothing in it is hidden from who reads it."""

from __future__ import annotations

import re
import unicodedata
from importlib.resources import files

import pytest

from spanbus import _sanitize as harmless
from spanbus._runs.sanitize import block, one_line

SENTENCE = "".join(chr(0xE0000 + ord(character)) for character in "obey me")


@pytest.mark.parametrize(
    "hidden",
    [
        "\x00",
        "\x1b[31m",
        "\x9b",
        "\u200b",
        "\u202e",
        "\u2066",
        "\u3164",
        "\ufeff",
        SENTENCE,
        "\U000e0100",
        "\ud800",
    ],
)
def test_what_cannot_be_seen_is_spelled_out(hidden: str) -> None:
    for shown in (one_line(f"a{hidden}b"), block(f"a{hidden}b")):
        assert shown.startswith("a\\")
        assert shown.isprintable()


def test_every_invisible_character_of_unicode_is_spelled_out() -> None:
    invisible = [
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    ]
    visible = {
        chr(code)
        for code in (
            *range(0x600, 0x606),
            0x6DD,
            0x70F,
            0x890,
            0x891,
            0x8E2,
            0x110BD,
            0x110CD,
            *range(0x13430, 0x13440),
            *range(0x1BCA0, 0x1BCA4),
        )
    }
    assert [
        hex(ord(character))
        for character in invisible
        if character not in visible and character in one_line(f"a{character}b")
    ] == []


def test_readable_text_stays() -> None:
    for text in ("größe ✓", "日本語", "עברית", "👍🏽", "naïve — “quoted”"):
        assert one_line(text) == block(text) == text
    assert (one_line("a\tb\nc"), block("a\tb\r\nc\rd")) == ("a\\tb\\nc", "a\tb\nc\nd")


def test_the_page_hides_nothing_that_the_terminal_shows() -> None:
    script = files("spanbus._backend").joinpath("page", "text.js").read_text(encoding="utf-8")
    found = re.search(r"const HIDDEN = /(.*)/gu;", script)
    assert found is not None
    of_the_page = re.sub(
        r"\\u\{([0-9a-f]+)\}", lambda match: f"\\U{int(match[1], 16):08x}", found[1]
    )
    theirs = re.compile(of_the_page)
    ours = harmless._HIDDEN  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    differing = [
        hex(code)
        for code in range(0x110000)
        if not 0xD800 <= code < 0xE000
        and bool(theirs.match(chr(code))) != bool(ours.match(chr(code)))
    ]
    assert differing == []
    for text in (
        "1\ufe0f",
        "1\ufe0f\u20e3",
        "a\ufe0f",
        "\u26a0\ufe0f",
        "\u26a0\ufe0f\ufe0f",
        "\u4e00\ufe00",
    ):
        assert theirs.sub("?", text) == ours.sub("?", text)
