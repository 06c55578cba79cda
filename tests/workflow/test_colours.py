"""What tools are told of the terminal that they do not see themselves."""

from __future__ import annotations

import pytest

from spanbus._workflow.colours import terminal_variables


def test_tools_are_told_to_colour_and_how_wide_the_terminal_is() -> None:
    found = terminal_variables({"TERM": "xterm"}, 132)
    assert found["COLUMNS"] == "132"
    assert (found["FORCE_COLOR"], found["CLICOLOR_FORCE"], found["PY_COLORS"]) == ("1", "1", "1")
    assert (found["CARGO_TERM_COLOR"], found["npm_config_color"]) == ("always", "always")


@pytest.mark.parametrize(
    "env",
    [{"NO_COLOR": "1"}, {"FORCE_COLOR": "0"}, {"TERM": "dumb"}, {"CARGO_TERM_COLOR": "never"}],
)
def test_somebodys_own_choice_stays(env: dict[str, str]) -> None:
    assert terminal_variables({**env, "COLUMNS": "70"}, 132) == {}
