"""Locations of settings: the user's file, the nearest file of a project, the state directory."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from spanbus._named_tuple import NamedTuple
from spanbus._patterns import pattern
from spanbus._settings.part import settings_part
from spanbus._toml_document import document
from spanbus._toml_lines import NO_LINES, Lines

Report = Callable[[str], None]
"""Reports a problem with a file."""

_MOST_BYTES = 1 << 20
"""Size limit of a found file, which may come from anybody."""
_OUR_TABLE = pattern(
    r"""^[ \t]*(?:\[+[ \t]*["']?tool["']?[ \t]*(?:\.[ \t]*["']?spanbus\b|\])|["']?tool["']?[ \t]*[.=])""",
    re.MULTILINE,
)
"""A header of ``tool.spanbus``, one of ``tool`` alone, or a key that begins with ``tool``: the only ways to write our table."""
_NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


class File(NamedTuple):
    """A TOML file: its table of settings, the prefix of its keys, and their lines."""

    path: Path
    table: Mapping[str, object]
    prefix: str
    lines: Lines

    def at(self, key: str) -> str:
        """File and line of a key."""
        line = self.lines.of(f"{self.prefix}{key}")
        return f"{self.path}:{line}" if line is not None else str(self.path)


class Origins(Mapping[str, str]):
    """Sources of settings by name; line numbers of a file are looked up lazily."""

    def __init__(self, sources: Mapping[str, str | Callable[[], str]]) -> None:
        self._sources = sources

    def __getitem__(self, name: str) -> str:
        source = self._sources[name]
        return source if isinstance(source, str) else source()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def user_file(env: Mapping[str, str] | None = None) -> Path:
    """Path of the user's own configuration file, which may set everything and need not exist."""
    env = os.environ if env is None else env
    if os.path.isabs(env.get("XDG_CONFIG_HOME", "")):
        return Path(env["XDG_CONFIG_HOME"]) / "spanbus" / "spanbus.toml"
    return _user_folder("config") / "spanbus.toml"


def is_open_to_others(folder: Path) -> bool:
    """Whether every user may write to a folder, and so plant or remove a store, a spool or the address of a backend."""
    try:
        mode = folder.stat().st_mode
        return hasattr(os, "getuid") and stat.S_ISDIR(mode) and bool(mode & stat.S_IWOTH)
    except (OSError, ValueError):
        return False


def default_state_dir() -> Path:
    """State directory of the user.

    For a user without a home it is a path that cannot be created, so that a message is printed and telemetry waits in memory.
    """
    try:
        return _user_folder("state")
    except (RuntimeError, KeyError, OSError):
        return Path(os.devnull, "spanbus")


def _user_folder(kind: Literal["state", "config"]) -> Path:
    """The user's directory as by platformdirs; on Linux without importing it, which loads half the standard library."""
    if sys.platform != "linux":
        from platformdirs import user_config_path, user_state_path

        path_of = user_state_path if kind == "state" else user_config_path
        return path_of("spanbus", appauthor=False)
    named = os.environ.get(f"XDG_{kind.upper()}_HOME", "").strip()
    if os.path.isabs(named):
        return Path(named) / "spanbus"
    home = Path("~").expanduser()
    return home / (".local/state" if kind == "state" else ".config") / "spanbus"


def expand_state_dir(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError):  # an unknown home, or a removed working directory
        return Path(os.devnull, "spanbus")


def read_user_file(
    env: Mapping[str, str], report: Report, *, workflows: bool = True
) -> File | None:
    """Read the user's own configuration file; None if it is missing or belongs to another user."""
    try:
        path = user_file(env)
        status = path.stat()
    except (OSError, RuntimeError):  # no file, or no home
        return None
    if not stat.S_ISREG(status.st_mode) or (
        hasattr(os, "getuid") and status.st_uid not in (os.getuid(), 0)
    ):
        return None
    return _read(path, report, asked_for=True, workflows=workflows)


def read_project_file(
    file: Path | None, cwd: Path | None, report: Report, *, workflows: bool = True
) -> File | None:
    """Read ``file`` if given, else the nearest one; without ``workflows`` the latter's may be missing in the result."""
    if file is not None:
        return _read(file, report, asked_for=True) or File(file, _NO_SETTINGS, "", NO_LINES)
    try:
        start = (cwd or Path.cwd()).resolve()
    except OSError:
        return None
    for folder in (start, *start.parents):
        for name in ("spanbus.toml", "pyproject.toml"):
            candidate = folder / name
            if os.path.isfile(candidate):  # Path.is_file raises for a folder that may not be read
                found = _read(candidate, report, asked_for=False, workflows=workflows)
                if found is not None:
                    return found
    return None


def _read(file: Path, report: Report, *, asked_for: bool, workflows: bool = True) -> File | None:
    mine = file.name != "pyproject.toml"
    try:
        content = _content(file, -1 if asked_for else _MOST_BYTES + 1)
        if not asked_for and len(content) > _MOST_BYTES:
            if mine:
                report(f"{file}: is larger than {_MOST_BYTES} bytes")
            return None
        text = content.decode("utf-8-sig")
    except OSError as error:
        if mine or asked_for:
            report(f"{file}: cannot be read: {error.strerror or error}")
        return None
    except UnicodeDecodeError as error:
        if mine or asked_for:
            report(f"{file}: is not UTF-8 at byte {error.start + 1}")
        return None
    if not mine and not asked_for and not _may_have_our_table(text):
        return None
    try:
        whole = document(text) if workflows else _without_workflows(text, whole_file=mine)
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        if mine or asked_for or "[tool.spanbus" in text:
            report(f"{file}{_place(str(error))}: is not TOML: {_without_place(str(error))}")
        return None
    tool = whole.get("tool")
    table: object = (
        cast("Mapping[str, object]", tool).get("spanbus") if isinstance(tool, Mapping) else None
    )
    prefix = "tool.spanbus."
    if table is None and mine:
        table, prefix = whole, ""
    if not isinstance(table, Mapping):
        if asked_for:
            report(f"{file}: has no table [tool.spanbus]")
        return None
    return File(file, cast("Mapping[str, object]", table), prefix, Lines(text))


def _without_workflows(text: str, *, whole_file: bool) -> Mapping[str, object]:
    part = settings_part(text, whole_file=whole_file)
    if part is not None:
        with suppress(ValueError, RecursionError):
            return document(part)
    return document(text)


def _may_have_our_table(text: str) -> bool:
    """Whether a pyproject.toml is worth parsing; most that contain ``spanbus`` only depend on it."""
    return "spanbus" in text and _OUR_TABLE.search(text) is not None


def _content(file: Path, most_bytes: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(most_bytes)


def _place(message: str) -> str:
    match = re.search(r"\(at line (\d+), column \d+\)", message)
    return f":{match[1]}" if match else ""


def _without_place(message: str) -> str:
    return re.sub(
        r"\s*\(at (?:line \d+, column \d+|end of document)\)",
        lambda match: "" if "line" in match[0] else " at the end of the file",
        message,
    )
