"""Colours of tools: kept on a terminal and in CI, removed elsewhere, requested only where they are visible."""

from __future__ import annotations

import pytest
from command_line import Cli

from spanbus._cli.colour import coloured, plain


@pytest.mark.parametrize(
    ("line", "kept", "bare"),
    [
        ("plain", "plain", "plain"),
        ("\x1b[31mred\x1b[0m end", "\x1b[31mred\x1b[0m end\x1b[0m", "red end"),
        ("\x1b[1mopen", "\x1b[1mopen\x1b[0m", "open"),
        ("\x1b[2Kcleared \x1b[10;5Hmoved", "cleared moved", "cleared moved"),
        ("\x1b]0;title\x07text", "text", "text"),
        ("a\x07b", "a\\u0007b", "a\\u0007b"),
        ("x" * 5_000, "x" * 5_000, "x" * 5_000),
    ],
)
def test_colours_are_kept_and_other_escape_sequences_removed(
    line: str, kept: str, bare: str
) -> None:
    assert (coloured(line), plain(line)) == (kept, bare)


def test_colours_are_passed_on_in_ci_but_not_to_pipes_or_kept_output(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = ["printf", "\\\\033[31mred\\\\033[0m\\\\n"] } ]\n'
    )
    assert "a/printf | red\n" in cli("run").out
    assert "\x1b[31mred\x1b[0m\n" in cli("run", env={"GITHUB_ACTIONS": "true"}).out
    assert cli("logs").out == "red\n"


def test_tools_are_asked_for_colours_on_a_terminal_only(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = "sh -c \'echo colour=$FORCE_COLOR\'" } ]\n'
    )
    assert "colour=\n" in cli("run").out
