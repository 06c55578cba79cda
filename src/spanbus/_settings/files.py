"""Where settings lie: the user's file, the nearest file of a project, the state directory."""

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

Say = Callable[[str], None]
"""Takes what is wrong with a file."""

_MOST_BYTES = 1 << 20
"""Of a file that was found, which may be anybody's."""
_OUR_TABLE = pattern(
    r"""^[ \t]*(?:\[+[ \t]*["']?tool["']?[ \t]*(?:\.[ \t]*["']?spanbus\b|\])|["']?tool["']?[ \t]*[.=])""",
    re.MULTILINE,
)
"""A header of ``tool.spanbus``, one of ``tool`` alone, or a key that begins with it: there is no other way to write one."""
_NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


class File(NamedTuple):
    """A TOML file: its table of settings, what stands before its keys, and their lines."""

    path: Path
    table: Mapping[str, object]
    prefix: str
    lines: Lines

    def at(self, key: str) -> str:
        """File and line of a key."""
        line = self.lines.of(f"{self.prefix}{key}")
        return f"{self.path}:{line}" if line is not None else str(self.path)


class Origins(Mapping[str, str]):
    """Sources of settings by name; lines of a file are looked for when somebody asks."""

    def __init__(self, said: Mapping[str, str | Callable[[], str]]) -> None:
        self._said = said

    def __getitem__(self, name: str) -> str:
        said = self._said[name]
        return said if isinstance(said, str) else said()

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)


def user_file(env: Mapping[str, str] | None = None) -> Path:
    """The user's own configuration file, whether it is there or not; it may set everything."""
    env = os.environ if env is None else env
    if os.path.isabs(env.get("XDG_CONFIG_HOME", "")):
        return Path(env["XDG_CONFIG_HOME"]) / "spanbus" / "spanbus.toml"
    return _of_the_user("config") / "spanbus.toml"


def is_open_to_others(folder: Path) -> bool:
    """Whether everybody may put a store, a spool or the address of a backend into a folder, or take the user's away."""
    try:
        mode = folder.stat().st_mode
        return hasattr(os, "getuid") and stat.S_ISDIR(mode) and bool(mode & stat.S_IWOTH)
    except (OSError, ValueError):
        return False


def usual_state_dir() -> Path:
    """The user's; for a user without a home one that cannot be made, so that telemetry says so and waits in memory."""
    try:
        return _of_the_user("state")
    except (RuntimeError, KeyError, OSError):
        return Path(os.devnull, "spanbus")


def _of_the_user(kind: Literal["state", "config"]) -> Path:
    """The user's directory by platformdirs; on Linux, which is simple, without its import of half the standard library."""
    if sys.platform != "linux":
        from platformdirs import user_config_path, user_state_path

        path_of = user_state_path if kind == "state" else user_config_path
        return path_of("spanbus", appauthor=False)
    named = os.environ.get(f"XDG_{kind.upper()}_HOME", "").strip()
    if os.path.isabs(named):
        return Path(named) / "spanbus"
    home = Path("~").expanduser()
    return home / (".local/state" if kind == "state" else ".config") / "spanbus"


def given_state_dir(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError):  # nobody's home, or a working directory that is gone
        return Path(os.devnull, "spanbus")


def own_file(env: Mapping[str, str], wrong: Say, *, workflows: bool = True) -> File | None:
    """The user's own configuration file, where there is one that belongs to the user."""
    try:
        path = user_file(env)
        status = path.stat()
    except (OSError, RuntimeError):  # without a home there is none
        return None
    if not stat.S_ISREG(status.st_mode) or (
        hasattr(os, "getuid") and status.st_uid not in (os.getuid(), 0)
    ):
        return None
    return _read(path, wrong, asked_for=True, workflows=workflows)


def project_file(
    file: Path | None, cwd: Path | None, wrong: Say, *, workflows: bool = True
) -> File | None:
    """The file that was asked for, else the nearest one; where ``workflows`` are not wanted, they may be missing in it."""
    if file is not None:
        return _read(file, wrong, asked_for=True) or File(file, _NO_SETTINGS, "", NO_LINES)
    try:
        start = (cwd or Path.cwd()).resolve()
    except OSError:
        return None
    for folder in (start, *start.parents):
        for name in ("spanbus.toml", "pyproject.toml"):
            candidate = folder / name
            if os.path.isfile(candidate):  # Path.is_file raises for a folder that may not be read
                found = _read(candidate, wrong, asked_for=False, workflows=workflows)
                if found is not None:
                    return found
    return None


def _read(file: Path, wrong: Say, *, asked_for: bool, workflows: bool = True) -> File | None:
    mine = file.name != "pyproject.toml"
    try:
        content = _content(file, -1 if asked_for else _MOST_BYTES + 1)
        if not asked_for and len(content) > _MOST_BYTES:
            if mine:
                wrong(f"{file}: is larger than {_MOST_BYTES} bytes")
            return None
        text = content.decode("utf-8-sig")
    except OSError as error:
        if mine or asked_for:
            wrong(f"{file}: cannot be read: {error.strerror or error}")
        return None
    except UnicodeDecodeError as error:
        if mine or asked_for:
            wrong(f"{file}: is not UTF-8 at byte {error.start + 1}")
        return None
    if not mine and not asked_for and not _may_have_our_table(text):
        return None
    try:
        whole = document(text) if workflows else _without_workflows(text, whole_file=mine)
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        if mine or asked_for or "[tool.spanbus" in text:
            wrong(f"{file}{_place(str(error))}: is not TOML: {_without_place(str(error))}")
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
            wrong(f"{file}: has no table [tool.spanbus]")
        return None
    return File(file, cast("Mapping[str, object]", table), prefix, Lines(text))


def _without_workflows(text: str, *, whole_file: bool) -> Mapping[str, object]:
    part = settings_part(text, whole_file=whole_file)
    if part is not None:
        with suppress(ValueError, RecursionError):
            return document(part)
    return document(text)


def _may_have_our_table(text: str) -> bool:
    """Whether a pyproject.toml is worth parsing; most that name spanbus depend on it, and say nothing to it."""
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
