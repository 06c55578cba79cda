"""Extraction of our settings from a TOML text, without the tables of workflows and of other tools.

Parsing all of the file would take a short command as long as writing its telemetry.
"""

from __future__ import annotations

_HEADER = "[tool.spanbus]"
_WORKFLOWS = ("[tool.spanbus.workflows.", "[[tool.spanbus.workflows.", "[tool.spanbus.workflows]")
_OWN_WORKFLOWS = tuple(header.replace("tool.spanbus.", "") for header in _WORKFLOWS)


def settings_part(text: str, *, whole_file: bool) -> str | None:
    """Return the lines of ``[tool.spanbus]`` as TOML without workflows; of the top level if the ``whole_file`` is ours.

    None if there is no such table, or if only a parser can tell which lines belong to it. A result that was cut off within a
    value is invalid TOML, so that its parser fails.
    """
    if '"""' in text or "'''" in text:  # a line in such a string may look like a header
        return None
    workflows = _OWN_WORKFLOWS if whole_file else _WORKFLOWS
    lines: list[str] = []
    there = reading = whole_file
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("["):
            reading = not whole_file and stripped.startswith(_HEADER)
            if reading or stripped.startswith(workflows):
                there = True
            elif whole_file or not _is_foreign_header(stripped):
                return None
        elif not (reading or whole_file) and stripped.lstrip("\"'").startswith("tool"):
            return None
        if reading:
            lines.append(line)
    if there and not lines and not whole_file:
        return _HEADER
    return "\n".join(lines) if there else None


def _is_foreign_header(stripped: str) -> bool:
    """Whether a line that begins with a bracket is certainly not one of our headers."""
    name = stripped.lstrip("[ \t\"'")
    return not name.startswith("tool") or (
        name.startswith("tool.") and name[5:6].isalnum() and not name.startswith("tool.spanbus")
    )
