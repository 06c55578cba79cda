"""Compose with the shipped docker-compose.yml: program, files and published addresses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spanbus._doctor.asking import at, each
from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError, InputError

FILE = "docker-compose.yml"
PACKAGED = "stack_files"
"""Folder of the stack's files in an installed package."""
GRAFANA = "grafana"

_COMPANIONS = ("collector-config.yaml", "deploy/prometheus/alerts.yml")
"""Files beside our docker-compose.yml, by which it is told from others."""
_PROGRAMS = (("docker", "compose"), ("docker-compose",), ("podman", "compose"))
_LOOK_S = 20.0


class Port(NamedTuple):
    """A published port: service, port inside the container, title and default address."""

    service: str
    inside: int
    what: str
    default: str


PORTS = (
    Port("collector", 4318, "OTLP/HTTP", "127.0.0.1:4318"),
    Port("collector", 4317, "OTLP/gRPC", "127.0.0.1:4317"),
    Port("jaeger", 16686, "Jaeger", "127.0.0.1:16686"),
    Port("prometheus", 9090, "Prometheus", "127.0.0.1:9090"),
    Port("alertmanager", 9093, "Alertmanager", "127.0.0.1:9093"),
    Port(GRAFANA, 3000, "Grafana", "127.0.0.1:3000"),
)


@dataclass(frozen=True, slots=True)
class Compose:
    """A Compose program with its ``-f`` files."""

    program: tuple[str, ...]
    files: tuple[Path, ...]

    def argv(self, *arguments: str, grafana: bool = False) -> list[str]:
        files = [word for file in self.files for word in ("-f", str(file))]
        return [*self.program, *files, *(("--profile", GRAFANA) if grafana else ()), *arguments]

    def run(self, *arguments: str, grafana: bool = False) -> int:
        """Run a Compose command with inherited streams and return its exit code."""
        try:
            return subprocess.run(self.argv(*arguments, grafana=grafana), check=False).returncode
        except OSError as error:
            raise BackendError(
                f"{self.program[0]} cannot be started: {error.strerror or error}"
            ) from error

    def addresses(self) -> Mapping[Port, str]:
        """Return ``host:port`` of each published port after all overrides, or the defaults if ``config`` fails."""
        config = _output(self.argv("config", "--format", "json", grafana=True))
        try:
            document: object = json.loads(config) if config else None
        except (ValueError, RecursionError):
            document = None
        if at(document, "services") is None:
            return {port: port.default for port in PORTS}
        found: dict[Port, str] = {}
        for port in PORTS:
            for one in each(document, "services", port.service, "ports"):
                published = str(at(one, "published") or "")
                if at(one, "target") == port.inside and published.isdigit() and published != "0":
                    host = at(one, "host_ip")
                    found[port] = (
                        f"{host if isinstance(host, str) and host not in ('', '0.0.0.0') else '127.0.0.1'}:{published}"
                    )
        return found


def compose(files: Sequence[Path]) -> Compose:
    """Return the first installed Compose that is new enough, with ``files`` or the shipped one.

    Raises :class:`~spanbus.errors.InputError` for a missing file of ``files`` and :class:`~spanbus.errors.BackendError` if
    there is no Compose or no shipped file.
    """
    chosen = _files(files)
    tried: list[str] = []
    for words in _PROGRAMS:
        path = shutil.which(words[0])
        if path is None:
            continue
        program = (path, *words[1:])
        version = _version(program)
        if version is None:
            tried.append(f"`{' '.join(words)}` does not work")
        elif words == ("docker-compose",) and version[0] < 2:
            tried.append(f"`docker-compose` is version {version[0]}, which is too old")
        else:
            return Compose(program, chosen)
    reason = f" ({', '.join(tried)})" if tried else ""
    raise BackendError(
        f"no Compose was found{reason}: install Docker with its Compose plugin (https://docs.docker.com/compose/install/), or Podman with docker-compose; "
        "without containers, `spanbus up` is a backend in one process"
    )


def shipped(start: Path) -> Path | None:
    """Return the shipped Compose file, from the checkout that this package is installed from or from the package.

    A Compose file near ``start`` is only used if it belongs to that checkout; any other must be given with ``--file``.
    """
    package = Path(__file__).parents[1]
    own = package.parents[1]
    around = [folder for folder in (start, *start.parents) if folder == own]
    for folder in (*around, own, package / PACKAGED):
        if (folder / FILE).is_file() and all((folder / name).is_file() for name in _COMPANIONS):
            return folder / FILE
    return None


def other_compose_file(start: Path) -> Path | None:
    """Return the nearest Compose file in ``start`` or above, unless it is the shipped one."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE if folder / FILE != shipped(start) else None
    return None


def _files(files: Sequence[Path]) -> tuple[Path, ...]:
    for file in files:
        if not file.is_file():
            raise InputError(
                f"--file {file} is not there; name a Compose file, or none for the shipped one"
            )
    if files:
        return tuple(file.absolute() for file in files)
    found = shipped(Path.cwd())
    if found is None:
        raise BackendError(
            f"{FILE} with {_COMPANIONS[0]} and deploy/ beside it is missing from the package; install spanbus again, or give --file"
        )
    return (found,)


def _version(program: Sequence[str]) -> tuple[int, ...] | None:
    match = re.search(r"\b(\d+)\.(\d+)", _output([*program, "version", "--short"]))
    return (int(match[1]), int(match[2])) if match is not None else None


def _output(argv: Sequence[str]) -> str:
    """Return the output of a command, empty if it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LOOK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
