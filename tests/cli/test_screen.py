"""Our terminal output equals that of rich for the same text and terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.text import Text as RichText

from spanbus._cli import console
from spanbus._cli.rich_console import rich_console
from spanbus._cli.screen import Screen, Text

PIECES: dict[str, list[tuple[str, str]]] = {
    "a line": [("checks", "bold"), ("  ", ""), ("✓ success", "green"), ("  1.2 s", "")],
    "lines": [("├─ ", "dim"), ("tests\n", "bold red"), ("└─ docs", "yellow"), ("\n", "")],
    "styles over line ends": [("left out: a\nb\n\nc", "dim"), (" d", "bold magenta")],
    "long": [("word " * 12, "cyan"), ("and the end of it", "bold"), ("!", "red")],
    "wide letters": [("漢字かな交じり文" * 3, "green"), ("の終わり", "dim")],
    "joined and marked letters": [("e\u0301" * 30, "red"), ("👍🏽" * 9, "")],
    "tabs": [("a\tb", "bold"), ("c\td漢\te", ""), ("\n\tf", "dim")],
    "what steers": [("\x1b[31m\x07\x08\u202e", "yellow"), ("\r\n", ""), ("x\u200b", "")],
    "blanks": [("   ", "green"), ("end   ", "")],
    "italic": [("said", "dim italic"), ("so", "")],
}
TERMINALS: dict[str, dict[str, str]] = {
    "plain": {"TERM": "xterm"},
    "256 colours": {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
    "dumb": {"TERM": "dumb"},
    "no colour": {"TERM": "xterm", "NO_COLOR": "1"},
    "compatible": {"TERM": "xterm", "TTY_COMPATIBLE": "1"},
    "not compatible": {"TERM": "xterm", "TTY_COMPATIBLE": "0"},
    "forced": {"TERM": "xterm", "FORCE_COLOR": "1"},
    "not forced": {"TERM": "xterm", "FORCE_COLOR": ""},
}


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("is_one", [True, False])
@pytest.mark.parametrize("columns", ["20", "47", "200", ""])
def test_every_text_is_written_as_by_rich(
    monkeypatch: pytest.MonkeyPatch, terminal: str, is_one: bool, columns: str
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "LINES", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TERMINALS[terminal].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", columns)
    for what, pieces in PIECES.items():
        monkeypatch.setattr(sys, "stdout", ours := Stream(is_one))
        screen, text = Screen(), Text()
        for piece, style in pieces:
            text.append(piece, style)
        console.draw(screen, text)
        console.flow(screen, text)
        monkeypatch.setattr(sys, "stdout", theirs := Stream(is_one))
        rich, same = rich_console(), RichText()
        for piece, style in pieces:
            same.append(piece, style)
        end = "" if same.plain.endswith("\n") else "\n"
        if rich.is_terminal:
            rich.print(same, no_wrap=True, overflow="ellipsis", crop=True, end=end)
        else:
            rich.print(same, soft_wrap=True, end=end)
        rich.print(same, soft_wrap=True, end=end)
        assert ours.getvalue() == theirs.getvalue(), what
        assert screen.is_terminal == rich.is_terminal
        assert screen.is_dumb_terminal == rich.is_dumb_terminal
        assert screen.no_color == rich.no_color
        assert screen.width == rich.width


def test_empty_text_and_an_empty_line_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := Stream(False))
    screen = Screen()
    console.draw(screen, Text())
    console.flow(screen, Text(""))
    assert stream.getvalue() == ""
    screen.print()
    screen.print("a\nb", "dim")
    assert stream.getvalue() == "\na\nb\n"


def test_a_closed_stream_causes_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    screen = Screen()
    screen.print("lost")
    assert (screen.is_terminal, screen.encoding) == (False, "utf-8")
