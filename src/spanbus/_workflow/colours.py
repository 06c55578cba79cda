"""Variables that let a tool behind a pipe show its colours and know the width of the terminal.

They are read by pytest, ruff, mypy, npm, cargo, CMake, Django and most libraries for colours. A pseudo-terminal would reach
the rest, and would also change what the tools do: buffering, prompts, pagers, line ends, one stream for two, the end
of the job. Somebody's own choice, also against colours, stays.
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
    """Environment variables for a tool with output on a terminal that is ``columns`` wide."""
    found: dict[str, str] = {}
    if env.get("TERM") != "dumb" and not any(env.get(name) for name in _CHOICES):
        found.update(_COLOURS)
        found["MYPY_FORCE_COLOR"] = "1"
    if columns is not None and columns > 0 and not env.get("COLUMNS"):
        found["COLUMNS"] = str(columns)
    return found
