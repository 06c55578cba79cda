"""Help: an example for every command, no text cut at 80 columns, a suggestion for an unknown command."""

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


def test_summaries_are_not_cut_at_80_columns(cli: Cli) -> None:
    out = cli("--help", env={"COLUMNS": "80"}).out
    for name in COMMANDS:
        assert any(
            line.split()[:1] == [name] and SUMMARIES[name] in line for line in out.splitlines()
        )
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize("name", EXAMPLES)
def test_options_in_examples_exist(cli: Cli, name: str) -> None:
    for example in EXAMPLES[name]:
        words = example.partition(" -- ")[0].split()[1:]
        command = words[:2] if words[0] in ("dialect", "nats", "stack") else words[:1]
        out = cli(*command, "--help", env={"COLUMNS": "80"}).out
        assert [word for word in words if word.startswith("-") and word not in out] == []


@pytest.mark.parametrize("group", ["dialect", "nats", "stack"])
def test_commands_of_groups_have_summaries_and_examples(cli: Cli, group: str) -> None:
    out = cli(group, "--help", env={"COLUMNS": "80"}).out
    listed = out.partition("Commands:")[2].partition("Example")[0]
    assert "..." not in listed
    for line in listed.splitlines():
        if line.strip():
            name = f"{group} {line.split()[0]}"
            out = cli(*name.split(), "--help", env={"COLUMNS": "80"}).out
            assert EXAMPLES[name]
            for example in EXAMPLES[name]:
                assert f"  {example}\n" in out


def test_help_of_a_command_ends_with_its_examples(cli: Cli) -> None:
    out = cli("logs", "--help", env={"COLUMNS": "80"}).out
    assert out.rstrip().endswith("spanbus logs -f")
    assert "  spanbus logs --failed\n" in out
    assert "-- ARGS" in cli("run", "--help").out


@pytest.mark.parametrize(
    ("wrong", "right"), [("shwo", "show"), ("runs-", "runs"), ("log", "logs"), ("dcotor", "doctor")]
)
def test_an_unknown_command_is_an_error_with_the_nearest_one(
    cli: Cli, wrong: str, right: str
) -> None:
    done = cli(wrong)
    assert (done.code, done.out) == (2, "")
    assert f"no command {wrong!r}; did you mean {right!r}?" in done.err


def test_the_option_f_has_one_meaning(cli: Cli) -> None:
    assert cli("run", "-f", "spanbus.toml").code == 2
    assert "-f, --follow" in cli("logs", "--help").out
