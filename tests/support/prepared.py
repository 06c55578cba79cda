"""A process that has loaded the command and forks a child for each command line: a test does not wait for imports."""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

AVAILABLE = sys.platform == "linux"
"""Elsewhere a fork is dear, or there is none."""

_LOADED = (
    "_cli _settings _project _runs _store _workflow _reading _correlation _telemetry _otlp _delivery _wiring _runtime _attaching"
).split()
_NOT_LOADED = ("grpc", "sdk", "rich_utils", "mcp", "nats", "stack", "observe", "demo")
"""They are seldom used, or read the environment when they are imported."""
_START = "import sys; sys.path.append({!r}); from prepared import serve; sys.path.pop(); serve(int(sys.argv[1])); from spanbus._cli import main; main()"
_LENGTH = struct.Struct("!i")


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    stdin: str | None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run ``spanbus ARGUMENTS`` in a process of its own, as :func:`subprocess.run` would."""
    return _prepared().run(arguments, folder, env, stdin, timeout_s)


@cache
def _prepared() -> _Prepared:
    return _Prepared()


class _Prepared:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _START.format(str(Path(__file__).parent)),
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                # Python remembers of its standard streams whether they can be sought; those of a test are pipes.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        stdin: str | None,
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        request = json.dumps([list(arguments), str(folder), dict(env)]).encode()
        read: dict[str, str] = {}
        with tempfile.TemporaryFile() as given:
            given.write((stdin or "").encode())
            given.seek(0)
            out, out_end = os.pipe()
            err, err_end = os.pipe()
            socket.send_fds(
                self._socket, [_LENGTH.pack(len(request))], [given.fileno(), out_end, err_end]
            )
            os.close(out_end)
            os.close(err_end)
        self._socket.sendall(request)
        threads = [
            threading.Thread(target=_read_all, args=(read, name, fd), daemon=True)
            for name, fd in (("out", out), ("err", err))
        ]
        for thread in threads:
            thread.start()
        pid = self._answer(None)
        try:
            code = self._answer(timeout_s)
        except TimeoutError:
            os.kill(pid, 9)
            self._answer(None)
            raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
        for thread in threads:  # as long as a descendant holds the streams, as subprocess does
            thread.join(timeout_s)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(list(arguments), timeout_s)
        return subprocess.CompletedProcess(list(arguments), code, read["out"], read["err"])

    def _answer(self, timeout_s: float | None) -> int:
        self._socket.settimeout(timeout_s)
        [number] = _LENGTH.unpack(self._socket.recv(_LENGTH.size))
        return number


def _read_all(read: dict[str, str], name: str, fd: int) -> None:
    with open(fd) as stream:
        read[name] = stream.read()


def serve(number: int) -> None:
    """Load the command, then fork for each request; returns in the child, whose command line it has made ours."""
    for room in _LOADED:
        package = import_module(f"spanbus.{room}")
        for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"spanbus.{room}."):
            if not found.name.rpartition(".")[2].startswith(_NOT_LOADED):
                import_module(found.name)
    import_module("anyio._backends._asyncio")
    gc.collect()
    gc.freeze()
    ours = socket.socket(fileno=number)
    while True:
        head, fds, _, _ = socket.recv_fds(ours, _LENGTH.size, 3)
        if not head:
            sys.exit(0)
        [length] = _LENGTH.unpack(head)
        with ours.makefile("rb", buffering=0) as stream:
            request = b""
            while len(request) < length:
                request += stream.read(length - len(request)) or b""
        pid = os.fork()
        if pid == 0:
            ours.close()
            arguments, folder, env = json.loads(request)
            for place, fd in enumerate(fds):
                os.dup2(fd, place)
                os.close(fd)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(folder)
            sys.argv[1:] = arguments
            return
        for fd in fds:
            os.close(fd)
        ours.sendall(_LENGTH.pack(pid))
        _, status = os.waitpid(pid, 0)
        ours.sendall(_LENGTH.pack(os.waitstatus_to_exitcode(status)))
