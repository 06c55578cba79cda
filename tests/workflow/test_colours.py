"""Environment variables that tell tools about the terminal, which they cannot see through a pipe."""

from __future__ import annotations

import pytest

from spanbus._workflow.colours import terminal_variables


def test_tools_get_variables_for_colour_and_terminal_width() -> None:
    found = terminal_variables({"TERM": "xterm"}, 132)
    assert found["COLUMNS"] == "132"
    assert (found["FORCE_COLOR"], found["CLICOLOR_FORCE"], found["PY_COLORS"]) == ("1", "1", "1")
    assert (found["CARGO_TERM_COLOR"], found["npm_config_color"]) == ("always", "always")


@pytest.mark.parametrize(
    "env",
    [{"NO_COLOR": "1"}, {"FORCE_COLOR": "0"}, {"TERM": "dumb"}, {"CARGO_TERM_COLOR": "never"}],
)
def test_variables_set_by_the_user_are_kept(env: dict[str, str]) -> None:
    assert terminal_variables({**env, "COLUMNS": "70"}, 132) == {}
