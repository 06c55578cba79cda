"""Redis, RabbitMQ, NATS servers and Celery workers for tests, each on a free loopback port and in its own folder."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Self

import pytest
from servers import ROOT, free_port

SUPPORT = Path(__file__).parent
START_S = 180.0
"""RabbitMQ starts in ten seconds on an idle machine, and in more than sixty at a load of twenty on two cores."""


def _missing(reason: str) -> None:
    if "TESTS_IN_CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def library(name: str) -> ModuleType:
    """Import a library of requirements/brokers.txt. Without it the test is skipped; in CI it fails."""
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(f"{name} is not installed; `make test-brokers` installs requirements/brokers.txt")
        raise


def program(name: str, *elsewhere: str) -> str:
    """Return the path of a server: built by `make brokers`, of the distribution, or on the PATH.

    Without it the test is skipped; in CI it fails.
    """
    places = [str(ROOT / ".stack" / "bin" / name), *elsewhere]
    found = next((place for place in places if os.access(place, os.X_OK)), None)
    found = found or shutil.which(name)
    if found is None:
        _missing(f"{name} is not there; `make brokers` says how to get it")
    return str(found)


class Program:
    """A process with a log file and its own process group."""

    def __init__(
        self, name: str, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.argv, self.folder, self.env = name, list(argv), folder, dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def start(self) -> Self:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.folder,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait_for_port(self, port: int) -> Self:
        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        return self._wait(listens)

    def wait_for_words(self, words: str) -> Self:
        return self._wait(lambda: words in self.log())

    def _wait(self, ready: object) -> Self:
        assert callable(ready)
        deadline = time.monotonic() + START_S
        while not ready():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.name} did not come up:\n{self.log()[-3_000:]}")
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """Kill the whole process group at once, as a power failure would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    def stop(self, timeout_s: float = 20.0) -> None:
        """Terminate the process; kill it if it has not ended after ``timeout_s``."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()


class Redis(Program):
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "."]
        super().__init__("redis", [program("redis-server"), *options], folder)
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> Self:
        return super().start().wait_for_port(self.port)


class RabbitMQ(Program):
    def __init__(self, folder: Path) -> None:
        server = program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
        self.port, names = free_port(), free_port()
        super().__init__(
            "rabbitmq",
            [server],
            folder,
            {
                "HOME": str(folder),
                "RABBITMQ_NODENAME": f"spanbus{self.port}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(folder / "log"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
                "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_EPMD_PORT": str(names),
            },
        )
        self._names = Program(
            "epmd", [program("epmd"), "-port", str(names), "-address", "127.0.0.1"], folder
        )
        self._names_port = names
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        self._names.start().wait_for_port(self._names_port)
        return super().start().wait_for_port(self.port)

    def stop(self, timeout_s: float = 20.0) -> None:
        super().stop(timeout_s)
        self._names.kill()


class Worker(Program):
    """A ``celery worker`` with the tasks of :mod:`celery_tasks` and its own state directory, as on another host."""

    def __init__(
        self,
        folder: Path,
        broker: str,
        backend: str,
        env: Mapping[str, str],
        *options: str,
        name: str = "worker",
    ) -> None:
        argv = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker"]
        argv += ["--loglevel", "INFO", "-n", f"{name}@test", "--without-gossip", "--without-mingle"]
        super().__init__(
            name,
            [*argv, *options],
            folder,
            {
                "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT / "src")]),
                "TASKS_BROKER": broker,
                "TASKS_BACKEND": backend,
                "SPANBUS_STATE_DIR": str(folder / "state"),
                **env,
            },
        )

    def start(self) -> Self:
        return super().start().wait_for_words(" ready.")


class Nats(Program):
    """A nats-server, by default with JetStream. Its streams survive a restart."""

    def __init__(self, folder: Path, *options: str, jetstream: bool = True) -> None:
        self.port = free_port()
        argv = [program("nats-server"), "-a", "127.0.0.1", "-p", str(self.port)]
        if jetstream:
            argv += ["-js", "-sd", str(folder / "jetstream")]
        super().__init__("nats", [*argv, *options], folder)
        self.url = f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        return super().start().wait_for_port(self.port)


def cluster(folder: Path) -> list[Nats]:
    """Return three servers that replicate one another's streams. They are not started yet."""
    routes = [free_port() for _ in range(3)]
    there = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
    return [
        Nats(
            folder / f"n{number}",
            *("--name", f"n{number}", "--cluster_name", "three"),
            *("--cluster", f"nats://127.0.0.1:{port}", "--routes", there),
        )
        for number, port in enumerate(routes)
    ]


def stored(url: str, stream: str = "SPANBUS") -> list[tuple[str, dict[str, object]]]:
    """Return every event line of a stream with its subject, oldest first."""
    from spanbus.integrations._nats_client import Client

    client = Client([url], None)

    async def read() -> list[tuple[str, dict[str, object]]]:
        found: list[tuple[str, dict[str, object]]] = []
        info = await client.ask(f"$JS.API.STREAM.INFO.{stream}")
        state = info["state"]
        for sequence in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            answer = await client.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": sequence})
            message = answer["message"]
            lines = base64.b64decode(message["data"]).split(b"\n")
            found.extend((message["subject"], json.loads(line)) for line in lines)
        return found

    try:
        return client.run(read(), 60.0)
    finally:
        client.close()
