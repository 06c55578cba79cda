"""Environment variables that make tools behind a pipe use colours and the width of the terminal.

They are supported by pytest, ruff, mypy, npm, cargo, CMake, Django and most colour libraries. A pseudo-terminal would cover
the others, but would also change how tools behave: buffering, prompts, pagers, line ends, stdout and stderr in one stream,
and job control. A choice that the user has made, for or against colours, is respected.
"""

from __future__ import annotations

from collections.abc import Mapping

_COLOURS: Mapping[str, str] = {
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PY_COLORS": "1",
    "CARGO_TERM_COLOR": "always",
    "npm_config_color": "always",
}
_CHOICES = (*_COLOURS, "NO_COLOR", "NODE_DISABLE_COLORS", "CLICOLOR", "MYPY_FORCE_COLOR")


def terminal_variables(env: Mapping[str, str], columns: int | None = None) -> dict[str, str]:
    """Return the variables for a tool whose output is shown on a terminal of this width."""
    found: dict[str, str] = {}
    if env.get("TERM") != "dumb" and not any(env.get(name) for name in _CHOICES):
        found.update(_COLOURS)
        found["MYPY_FORCE_COLOR"] = "1"
    if columns is not None and columns > 0 and not env.get("COLUMNS"):
        found["COLUMNS"] = str(columns)
    return found
