"""The processes of the demo: servers, workers, observers, the engine; on loopback, in separate folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 60.0
"""The longest wait, in seconds."""


class Trouble(Exception):
    """The demo cannot continue; the text has the reason."""


def program(name: str) -> str:
    """Find a server's program: of ``make brokers``, else on the PATH."""
    built = ROOT / ".stack" / "bin" / name
    found = str(built) if os.access(built, os.X_OK) else shutil.which(name)
    if found is None:
        raise Trouble(f"{name} is not there; `make brokers` builds it, or says how to get it")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(ready: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not ready():
        if time.monotonic() > deadline_s:
            raise Trouble(f"{what}: not within {LIMIT_S:g} s")
        time.sleep(0.05)


class Process:
    """One process with its own log and process group, ended when the context is left."""

    def __init__(
        self, name: str, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log_path = folder / f"{name.replace(' ', '-')}.log"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**_plain_environment(), "TMPDIR": str(folder), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def said(self, words: str) -> Self:
        """Wait until its log has this text."""

        def there() -> bool:
            if self.code is not None and words not in self.log():
                raise Trouble(f"{self.name} ended with {self.code}:\n{self.log()[-2_000:]}")
            return words in self.log()

        wait_for(there, f"{self.name} does not say {words!r}")
        return self

    def listens(self, port: int) -> Self:
        """Wait until it accepts connections."""

        def connects() -> bool:
            if self.code is not None:
                raise Trouble(f"{self.name} ended with {self.code}:\n{self.log()[-2_000:]}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_for(connects, f"{self.name} does not listen")
        return self

    def kill(self) -> None:
        """Send SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(20)

    def end(self) -> int:
        """Send SIGTERM and return the exit code; kill the process if that takes too long."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def nats_server(folder: Path) -> tuple[Process, str]:
    port = free_port()
    argv = [program("nats-server"), "-js", "-a", "127.0.0.1", "-p", str(port)]
    argv += ["-sd", str(folder / "jetstream")]
    return Process("nats-server", argv, folder).listens(port), f"nats://127.0.0.1:{port}"


def redis_server(folder: Path) -> tuple[Process, str]:
    port = free_port()
    argv = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    argv += ["--save", "", "--dir", str(folder)]
    return Process("redis-server", argv, folder).listens(port), f"redis://127.0.0.1:{port}"


def worker(host: str, folder: Path, env: Mapping[str, str]) -> Process:
    """A Celery worker with two processes, for the common queue and its host's."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-n", f"worker@{host}"]
    argv += ["-c", "2", "-Q", f"celery,{host}", "--loglevel", "INFO"]
    argv += ["--without-gossip", "--without-mingle"]
    return Process("worker", argv, folder, env)


def spanbus_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "spanbus", *words]


def _plain_environment() -> dict[str, str]:
    """An environment without the user's telemetry settings, with the modules of this folder and checkout."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "SPANBUS_", "TRACE", "BAGGAGE"))
    }
    there = [str(HERE), str(ROOT / "src"), env.get("PYTHONPATH", "")]
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, there)), "PYTHONUNBUFFERED": "1"}
