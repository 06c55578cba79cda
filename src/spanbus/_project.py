"""Origin of a run as resource attributes: project name, version control state, CI job.

Everything is read from files and environment variables. No process is started, and only :func:`attributes_given` raises. The
variables of the CI systems are in ``_ci.toml``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import cast

from spanbus._delivery.ephemeral import is_ephemeral
from spanbus._host import host_name
from spanbus._patterns import pattern
from spanbus._toml_document import document
from spanbus.errors import InputError

DEFAULT_SERVICE = "spanbus"
_MAX_FILE_BYTES = 4 << 20
_USER_IN_URL = pattern(r"^([a-z][a-z0-9+.-]*://)[^/]*@", re.IGNORECASE)
_SCP = pattern(r"^(?![A-Za-z]:[\\/])(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)$")
_SHA = pattern(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MODULE = pattern(r"^\s*module\b\s*\(?\s*[\"`]?([^\s\"`()]+)", re.MULTILINE)
_PLAIN_NAME = pattern(r"\s*name\s*=\s*\"([^\"\\]*)\"\s*(?:#.*)?")
_GIT_SECTION = pattern(r'\[remote "([^"]*)"\]', re.IGNORECASE)
_GIT_VALUE = pattern(r'\s*(?:"([^"]*)"|([^#;]*))')
_MAX_DIGITS = 18
_KEY = pattern(r"[A-Za-z][\w.-]*")


def project_name(folder: Path | None = None) -> str:
    """Return the name in the nearest pyproject.toml, package.json, Cargo.toml or go.mod, else of the repository's folder.

    A file without a name is skipped. Folders above the repository are not searched. The default is ``spanbus``.
    """
    for each in _upwards(folder):
        for file, name_in in _FILES:
            with suppress(OSError, ValueError, RecursionError):
                path = each / file
                if (text := _text_of(path)) is not None and (name := name_in(text)):
                    return name
        with suppress(OSError):
            if (each / ".git").exists():
                return each.name or DEFAULT_SERVICE
            if _is_bare(each):
                return each.name.removesuffix(".git") or DEFAULT_SERVICE
    return DEFAULT_SERVICE


def service_name(env: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Return ``OTEL_SERVICE_NAME``, else ``service.name`` of ``OTEL_RESOURCE_ATTRIBUTES``, else the project's name."""
    env = os.environ if env is None else env
    if given := env.get("OTEL_SERVICE_NAME", "").strip():
        return given
    for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "service.name" and value.strip():
            from urllib.parse import unquote

            return unquote(value.strip())
    return project_name(folder)


def resource_attributes(
    env: Mapping[str, str] | None = None, folder: Path | None = None
) -> dict[str, str | int]:
    """Return the attributes of host, process, version control and CI job, as far as they are known."""
    env = os.environ if env is None else env
    found: dict[str, str | int] = {"process.pid": os.getpid()}
    with suppress(OSError):
        if host := host_name():
            found["host.name"] = host
    found.update(git_attributes(folder))
    found.update(ci_attributes(env))
    url = found.get("vcs.repository.url.full")
    if isinstance(url, str):
        found["vcs.repository.url.full"] = web_url(url)
    return found


def attributes_given(pairs: Iterable[str]) -> dict[str, str]:
    """Parse ``key=value`` texts as attributes. Raises :class:`~spanbus.errors.InputError` for an invalid one."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or _KEY.fullmatch(key.strip()) is None:
            raise InputError(
                f"--attr {pair!r}: must be key=value, the key of letters, digits, dots, dashes and underscores"
            )
        found[key.strip()] = value
    return found


# --- CI ---------------------------------------------------------------------------------------------------------------


def ci_attributes(env: Mapping[str, str]) -> dict[str, str | int]:
    """Return the attributes of the CI job, from the variables of the CI system."""
    if not is_ephemeral(env):  # saves reading the table
        return {}
    for system in _systems():
        if env.get(str(system["when"]), "").lower() in ("", "false", "0"):
            continue
        patterns = cast("Mapping[str, str]", system.get("patterns", {}))
        more = cast("Mapping[str, int]", system.get("add", {}))
        found: dict[str, str | int] = {}
        for key, sources in cast("Mapping[str, object]", system["attributes"]).items():
            texts = cast("list[str]", sources) if isinstance(sources, list) else [str(sources)]
            for text in texts:
                value = _expand(text, env)
                if value and key in patterns:
                    match = re.fullmatch(patterns[key], value)
                    value = match[1] if match is not None else ""
                if value:
                    number = key in more or key == "cicd.pipeline.run.attempt"
                    found[key] = (
                        int(value) + more.get(key, 0) if number and _is_number(value) else value
                    )
                    break
        name = found.get("vcs.ref.head.name")
        if isinstance(name, str):
            found["vcs.ref.head.name"] = re.sub(r"^(?:refs/(?:heads|tags)/|origin/)", "", name)
        return found
    return {}


@lru_cache(maxsize=1)
def _systems() -> tuple[Mapping[str, object], ...]:
    text = (Path(__file__).parent / "_ci.toml").read_text(encoding="utf-8")
    return tuple(cast("list[Mapping[str, object]]", document(text)["systems"]))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _expand(text: str, env: Mapping[str, str]) -> str:
    if "{" not in text:
        return env.get(text, "").strip()
    names = re.findall(r"\{(\w+)\}", text)
    if not all(env.get(name) for name in names):
        return ""
    return re.sub(r"\{(\w+)\}", lambda match: env[match[1]], text)


# --- git, from its files ------------------------------------------------------------------------------------------------


def git_attributes(folder: Path | None = None) -> dict[str, str]:
    """Return remote, branch and commit of the repository that contains ``folder``."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, IndexError):
        git = _git_folder(folder)
        if git is None:
            return found
        common = git
        if (beside := _text_of(git / "commondir")) is not None:  # a worktree
            common = (git / beside.strip()).resolve()
        if url := _remote(common / "config"):
            found["vcs.repository.url.full"] = url
        head = (_text_of(git / "HEAD") or "").strip()
        if head.startswith("ref:"):
            ref = head.removeprefix("ref:").strip()
            found["vcs.ref.head.name"] = ref.removeprefix("refs/heads/")
            found["vcs.ref.head.type"] = "branch"
            if sha := _commit(git, common, ref):
                found["vcs.ref.head.revision"] = sha
        elif _SHA.fullmatch(head):
            found["vcs.ref.head.revision"] = head
    return found


def web_url(url: str) -> str:
    """Return a remote as a URL without user, password and ``.git``."""
    url = url.strip()
    if "://" not in url and (match := _SCP.match(url)) is not None:
        url = f"https://{match[1]}/{match[2].lstrip('/')}"
    url = _USER_IN_URL.sub(r"\1", url)
    url = re.sub(r"^ssh://([^/:]+)(?::\d+)?/", r"https://\1/", url)
    return url.removesuffix("/").removesuffix(".git")


def _git_folder(folder: Path | None) -> Path | None:
    for each in _upwards(folder):
        git = each / ".git"
        if git.is_dir():
            return git
        if (text := _text_of(git)) is not None:  # a worktree or a submodule
            return (each / text.strip().removeprefix("gitdir:").strip()).resolve()
        if _is_bare(each):
            return each
    return None


def _is_bare(folder: Path) -> bool:
    """Whether a folder is a bare repository, as server-side hooks run in."""
    return (
        folder.name != ".git"
        and os.path.isfile(folder / "HEAD")
        and os.path.isdir(folder / "objects")
        and os.path.isdir(folder / "refs")
    )


def _commit(git: Path, common: Path, ref: str) -> str | None:
    for place in (git, common):
        if (text := _text_of(place / ref)) is not None:
            sha = text.strip()
            return sha if _SHA.fullmatch(sha) else None
    for line in (_text_of(common / "packed-refs") or "").splitlines():
        sha, _, name = line.partition(" ")
        if name == ref and _SHA.fullmatch(sha):
            return sha
    return None


def _remote(config: Path) -> str | None:
    """Return the URL of ``origin``, else of the first remote."""
    remotes: dict[str, str] = {}
    section = ""
    for line in (_text_of(config, errors="replace") or "").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text
        elif (match := _GIT_SECTION.match(section)) is not None:
            key, equals, value = text.partition("=")
            if equals and key.strip().lower() == "url":
                quoted, plain = cast("re.Match[str]", _GIT_VALUE.match(value)).groups()
                remotes.setdefault(match[1], plain.strip() if quoted is None else quoted)
    return remotes.get("origin") or next(iter(remotes.values()), None)


# --- files ------------------------------------------------------------------------------------------------------------


def _text_of(path: Path, *, errors: str = "strict") -> str | None:
    """Return the text of a regular file of at most 4 MiB; None for anything else, such as a pipe that never ends."""
    if not os.path.isfile(path) or path.stat().st_size > _MAX_FILE_BYTES:
        return None
    return path.read_text(encoding="utf-8-sig", errors=errors)


# --- names ------------------------------------------------------------------------------------------------------------


def _upwards(folder: Path | None) -> Iterable[Path]:
    """Return the folder and its parents up to the repository; without one, without the home directory and the root."""
    try:
        start = (folder or Path.cwd()).resolve()
    except (OSError, RuntimeError):
        return ()
    found: list[Path] = []
    for each in (start, *start.parents):
        found.append(each)
        with suppress(OSError):
            if (each / ".git").exists() or _is_bare(each):
                return found
    home = os.path.expanduser("~")
    return [each for each in found if str(each) not in (home, each.anchor)]


def _toml_name(*path: str) -> Callable[[str], str | None]:
    def name_in(text: str) -> str | None:
        if (plain := _plain_name(text, f"[{'.'.join(path[:-1])}]")) is not None:
            return _text(plain)
        found: object = document(text)
        for key in path:
            found = (
                cast("Mapping[str, object]", found).get(key) if isinstance(found, dict) else None
            )
        return _text(found)

    return name_in


def _plain_name(text: str, header: str) -> str | None:
    """Return the name in a TOML table of the usual form; None if the text must be parsed, which takes long for a command.

    Without multi-line strings a line cannot be misread.
    """
    if '"""' in text or "'''" in text:
        return None
    lines = iter(text.splitlines())
    if not any(line.strip() == header for line in lines):
        return None
    for line in lines:
        if line.lstrip().startswith("["):
            return None
        if (match := _PLAIN_NAME.fullmatch(line)) is not None:
            return match[1]
    return None


def _json_name(text: str) -> str | None:
    found = cast("object", json.loads(text))
    return (
        _text(cast("Mapping[str, object]", found).get("name")) if isinstance(found, dict) else None
    )


def _go_name(text: str) -> str | None:
    match = _MODULE.search(text)
    if match is None:
        return None
    parts = match[1].rstrip("/").split("/")
    versioned = len(parts) > 1 and re.fullmatch(r"v\d+", parts[-1])
    return parts[-2] if versioned else parts[-1]


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _pyproject_name(text: str) -> str | None:
    return _toml_name("project", "name")(text) or _toml_name("tool", "poetry", "name")(text)


_FILES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("pyproject.toml", _pyproject_name),
    ("package.json", _json_name),
    ("Cargo.toml", _toml_name("package", "name")),
    ("go.mod", _go_name),
)
