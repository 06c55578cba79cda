"""Run docker-compose.yml with Docker, or else with a private podman service, on images made from the built servers."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, Self, cast

import pytest
import yaml
from servers import ROOT, Json, binary

HOST_PORTS = (4317, 4318, 16686, 9090, 9093)
COMPOSE = ROOT / ".stack" / "compose" / "docker-compose"
_NEEDED = ("podman", "runc", "iptables", "busybox")
_CONTAINERS_CONF = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "netavark"
network_config_dir = "{networks}"
"""


def missing(reason: str) -> NoReturn:
    """Fail the test in CI; skip it elsewhere."""
    if "TESTS_IN_CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def taken(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


@dataclass(frozen=True)
class Image:
    """A replacement for a published image, with the same entry point, user and folders and nothing else."""

    entrypoint: str
    program: str
    user: str
    applets: tuple[str, ...] = ()  # of busybox, those that docker-compose.yml uses
    folders: tuple[str, ...] = ()  # the user's own

    def tarball(self) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            for folder in ("tmp", "etc", "bin"):
                self._add(tar, folder, tarfile.DIRTYPE, mode=0o755)
            for folder in self.folders:
                self._add(tar, folder, tarfile.DIRTYPE, mode=0o775, owner=int(self.user))
            with open(binary(self.program), "rb") as program:
                info = tarfile.TarInfo(self.entrypoint.lstrip("/"))
                info.size, info.mode = os.fstat(program.fileno()).st_size, 0o755
                tar.addfile(info, program)
            if self.applets:
                tar.add(
                    Path(
                        shutil.which("busybox")
                        or missing("there is no busybox; `make test-compose` installs it on Debian")
                    ).resolve(),
                    "bin/busybox",
                )
                for applet in self.applets:
                    self._add(tar, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        return made.getvalue()

    @staticmethod
    def _add(
        tar: tarfile.TarFile,
        name: str,
        kind: bytes,
        *,
        mode: int = 0o777,
        owner: int = 0,
        link: str = "",
    ) -> None:
        info = tarfile.TarInfo(name.lstrip("/"))
        info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, owner, owner, link
        tar.addfile(info)


# As in the Dockerfiles of the published images.
IMAGES: Mapping[str, Image] = {
    "otel/opentelemetry-collector-contrib": Image("/otelcol-contrib", "otelcol", "10001"),
    "jaegertracing/jaeger": Image("/cmd/jaeger/jaeger-linux", "jaeger", "10001", applets=("wget",)),
    "prom/prometheus": Image(
        "/bin/prometheus",
        "prometheus",
        "65534",
        applets=("wget", "chown"),
        folders=("/prometheus",),
    ),
    "prom/alertmanager": Image(
        "/bin/alertmanager", "alertmanager", "65534", applets=("wget",), folders=("/alertmanager",)
    ),
}


@dataclass
class Engine:
    """A container engine, as a context manager; ``folder`` must be new."""

    folder: Path
    argv: list[str] = field(default_factory=list[str])  # the engine's command line
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    service: subprocess.Popen[bytes] | None = None
    checks_health: bool = False
    built: list[str] = field(default_factory=list[str])

    def __enter__(self) -> Self:
        docker = shutil.which("docker")
        if (
            docker
            and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0
        ):
            self.argv, self.checks_health = [docker], True
            return self
        self._podman()
        return self

    def _podman(self) -> None:
        absent = [name for name in _NEEDED if shutil.which(name) is None]
        if absent:
            missing(
                f"no Docker is running, and for podman there is no {', no '.join(absent)}; `make test-compose` installs it on Debian"
            )
        if os.geteuid() != 0:
            missing("no Docker is running, and podman must be started by root here")
        networks = self.folder / "networks"
        networks.mkdir(parents=True)
        configuration = self.folder / "containers.conf"
        configuration.write_text(_CONTAINERS_CONF.format(networks=networks))
        self.env = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "DOCKER_HOST": f"unix://{self.folder}/engine.sock",
        }
        self.argv = [
            "podman",
            "--root",
            str(self.folder / "root"),
            "--runroot",
            str(self.folder / "run"),
            "--tmpdir",
            str(self.folder / "tmp"),
        ]
        with (self.folder / "service.log").open("wb") as log:
            self.service = subprocess.Popen(
                [*self.argv, "system", "service", "--time=0", self.env["DOCKER_HOST"]],
                env=self.env,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.folder / "engine.sock"))
                return
            if self.service.poll() is not None or time.monotonic() > deadline:
                pytest.fail(
                    f"podman does not serve:\n{(self.folder / 'service.log').read_text()[-3_000:]}"
                )
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self.service is None:
            self.call("image", "rm", "--force", *set(self.built), check=False)
            return
        self.call("system", "reset", "--force", check=False)
        self.service.terminate()
        self.service.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [*self.argv, *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, (
            f"{arguments[:3]}: {done.stderr.decode(errors='replace')}"
        )
        return done.stdout.decode(errors="replace")

    def build(self, published: str) -> str:
        """Import the local replacement for the image ``published`` (name:tag), and return its name."""
        name, _, tag = published.rpartition(":")
        image, local = IMAGES[name], f"localhost/{name}:{tag}"
        self.built.append(local)
        changes = [f'ENTRYPOINT ["{image.entrypoint}"]', f"USER {image.user}", "ENV PATH=/bin"]
        self.call(
            "import",
            *(f"--change={change}" for change in changes),
            "-",
            local,
            stdin=image.tarball(),
        )
        return local

    def compose_argv(self) -> list[str]:
        """Return the command line of the real Compose, version 2 or newer."""
        if COMPOSE.exists():
            return [str(COMPOSE)]
        for argv in (["docker", "compose"], ["docker-compose"]):
            if (
                shutil.which(argv[0])
                and subprocess.run(
                    [*argv, "version"], env=self.env, capture_output=True, check=False
                ).returncode
                == 0
            ):
                return argv
        missing("there is no Docker Compose; `make test-compose` fetches it")


class Composition:
    """The shipped docker-compose.yml with its images replaced and ``files`` merged over it."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        files: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.engine, self.name, self.env = engine, name, {**engine.env, **(env or {})}
        self.files = ["docker-compose.yml", *files]
        self.shipped = cast("Json", yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
        services = cast("dict[str, Json]", self.shipped["services"])
        self.services = {
            name: service for name, service in services.items() if "profiles" not in service
        }
        built = {
            image: engine.build(image)
            for image in sorted({str(service["image"]) for service in self.services.values()})
        }
        override = {
            name: {"image": built[str(service["image"])], "pull_policy": "never"}
            for name, service in self.services.items()
        }
        self.override = engine.folder / f"{name}.yml"
        self.override.write_text(yaml.safe_dump({"services": override}))

    def compose(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        files = [part for file in (*self.files, str(self.override)) for part in ("-f", file)]
        argv = [*self.engine.compose_argv(), "-p", self.name, *files, *arguments]
        return subprocess.run(
            argv,
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        """Start all services and wait until they are healthy."""
        stop = threading.Event()
        checker = threading.Thread(target=self._check_health, args=(stop,))
        if not self.engine.checks_health:
            checker.start()
        try:
            return self.compose("up", "-d", "--wait", "--wait-timeout", "180", "--pull", "never")
        finally:
            stop.set()
            if checker.is_alive():
                checker.join()

    def check_health(self) -> None:
        """Run each health check once: podman leaves this to systemd timers, which a container or CI machine may lack."""
        if not self.engine.checks_health:
            for container in self.containers():
                self.engine.call("healthcheck", "run", container, check=False)

    def _check_health(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            self.check_health()

    def containers(self, *, stopped: bool = False) -> list[str]:
        return self.engine.call(
            "ps",
            *(["-a"] if stopped else []),
            "-q",
            "--filter",
            f"label=com.docker.compose.project={self.name}",
        ).split()

    def inspected(self) -> dict[str, Json]:
        """Return the engine's ``inspect`` document of each service."""
        found: dict[str, Json] = {}
        for container in self.containers(stopped=True):
            [document] = json.loads(self.engine.call("inspect", "--type=container", container))
            found[str(document["Config"]["Labels"]["com.docker.compose.service"])] = document
        return found

    def run_in(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", service, *command)

    def logs(self) -> str:
        done = self.compose("logs", "--no-color", "--tail", "40")
        return done.stdout + done.stderr

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.compose("down", "-v", "--timeout", "20")

    def left(self) -> Sequence[str]:
        """Return the containers, volumes and networks that still exist."""
        label = f"label=com.docker.compose.project={self.name}"
        return [
            *self.engine.call("ps", "-a", "-q", "--filter", label).split(),
            *self.engine.call("volume", "ls", "-q", "--filter", label).split(),
            *self.engine.call("network", "ls", "-q", "--filter", label).split(),
        ]


class Up(Protocol):
    """A function that returns a context manager around a running :class:`Composition`."""

    def __call__(
        self, name: str, files: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Composition]: ...
