"""Help: an example for every command, nothing cut at 80 columns, the nearest command for a wrong one."""

from __future__ import annotations

import pytest
from command_line import Cli

from spanbus._cli.app import COMMANDS
from spanbus._cli.help_texts import EXAMPLES, SUMMARIES


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_short_line_and_an_example(name: str) -> None:
    assert len(SUMMARIES[name]) <= 66
    assert EXAMPLES[name]
    assert all(example.startswith(f"spanbus {name}") for example in EXAMPLES[name])


def test_summaries_stand_uncut_at_80_columns(cli: Cli) -> None:
    out = cli("--help", env={"COLUMNS": "80"}).out
    for name in COMMANDS:
        assert any(
            line.split()[:1] == [name] and SUMMARIES[name] in line for line in out.splitlines()
        )
    assert "..." not in out.partition("Commands:")[2]


def test_help_of_a_command_ends_with_its_examples(cli: Cli) -> None:
    out = cli("logs", "--help", env={"COLUMNS": "80"}).out
    assert out.rstrip().endswith("spanbus logs -f")
    assert "  spanbus logs --failed\n" in out
    assert "-- ARGS" in cli("run", "--help").out


@pytest.mark.parametrize(
    ("wrong", "right"), [("shwo", "show"), ("runs-", "runs"), ("log", "logs"), ("dcotor", "doctor")]
)
def test_a_command_that_is_none_has_a_nearest_one(cli: Cli, wrong: str, right: str) -> None:
    done = cli(wrong)
    assert (done.code, done.out) == (2, "")
    assert f"no command {wrong!r}; did you mean {right!r}?" in done.err


def test_f_has_one_meaning(cli: Cli) -> None:
    assert cli("run", "-f", "spanbus.toml").code == 2
    assert "-f, --follow" in cli("logs", "--help").out
