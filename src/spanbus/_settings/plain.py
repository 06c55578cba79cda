"""The settings of a TOML text that says them plainly, without its workflows: most do, and parsing all of it takes a short
command as long as writing what it has to say.
"""

from __future__ import annotations

_HEADER = "[tool.spanbus]"
_WORKFLOWS = ("[tool.spanbus.workflows.", "[[tool.spanbus.workflows.", "[tool.spanbus.workflows]")


def plain_settings(text: str, *, whole_file: bool) -> dict[str, object] | None:
    """Keys and values of ``[tool.spanbus]``, or of the top level where the ``whole_file`` is ours.

    None where there is no such table, or where something is written in a way that takes a parser.
    """
    if '"""' in text or "'''" in text:  # a line within such a string may look like anything
        return None
    workflows = tuple(start.replace("tool.spanbus.", "") for start in _WORKFLOWS)
    ours, theirs = ("", workflows) if whole_file else (_HEADER, _WORKFLOWS)
    found: dict[str, object] = {}
    there = reading = whole_file
    for line in text.splitlines():
        said = line.strip()
        if said.startswith("["):
            reading = said == ours
            if reading and found:
                return None
            if reading or said.startswith(theirs):
                there = True
            elif whole_file or not _is_of_others(said):
                return None
        elif reading and said and not said.startswith("#"):
            key, _, value = said.partition("=")
            key, read = key.strip(), _plain(value.strip())
            if read is None or key in found or not key.isidentifier() or not key.isascii():
                return None
            found[key] = read
        elif not whole_file and said.lstrip("\"'").startswith("tool"):
            return None
    return found if there else None


def _is_of_others(said: str) -> bool:
    """Whether a line that begins with a bracket is certainly no header of ours."""
    name = said.lstrip("[ \t\"'")
    return not name.startswith("tool") or (
        name.startswith("tool.") and name[5:6].isalnum() and not name.startswith("tool.spanbus")
    )


def _plain(value: str) -> str | bool | int | None:
    """A string without escapes, a Boolean, a decimal number; None for all else."""
    if value.startswith('"'):
        text, quote, rest = value[1:].partition('"')
        rest = rest.strip()
        ends = bool(quote) and (not rest or rest.startswith("#"))
        return text if ends and "\\" not in text and text.isprintable() else None
    word = value.partition("#")[0].strip()
    if word in ("true", "false"):
        return word == "true"
    return int(word) if word.isascii() and word.isdecimal() and str(int(word)) == word else None
