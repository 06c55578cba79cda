"""The part of a TOML text that holds settings, without the tables of workflows and of others.

Parsing those takes a short command as long as writing what it has to say.
"""

from __future__ import annotations

_HEADER = "[tool.spanbus]"
_WORKFLOWS = ("[tool.spanbus.workflows.", "[[tool.spanbus.workflows.", "[tool.spanbus.workflows]")
_OWN_WORKFLOWS = tuple(header.replace("tool.spanbus.", "") for header in _WORKFLOWS)


def settings_part(text: str, *, whole_file: bool) -> str | None:
    """The lines of ``[tool.spanbus]``, or of the top level where the ``whole_file`` is ours, as a TOML text without workflows.

    None where there is no such table, or where it takes a parser to tell which lines are its own. A part that is cut off
    within a value is no TOML.
    """
    if '"""' in text or "'''" in text:  # a line within such a string may look like anything
        return None
    workflows = _OWN_WORKFLOWS if whole_file else _WORKFLOWS
    lines: list[str] = []
    there = reading = whole_file
    for line in text.split("\n"):
        said = line.strip()
        if said.startswith("["):
            reading = not whole_file and said.startswith(_HEADER)
            if reading or said.startswith(workflows):
                there = True
            elif whole_file or not _is_of_others(said):
                return None
        elif not (reading or whole_file) and said.lstrip("\"'").startswith("tool"):
            return None
        if reading:
            lines.append(line)
    if there and not lines and not whole_file:
        return _HEADER
    return "\n".join(lines) if there else None


def _is_of_others(said: str) -> bool:
    """Whether a line that begins with a bracket is certainly no header of ours."""
    name = said.lstrip("[ \t\"'")
    return not name.startswith("tool") or (
        name.startswith("tool.") and name[5:6].isalnum() and not name.startswith("tool.spanbus")
    )
