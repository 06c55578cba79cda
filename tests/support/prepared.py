"""A process that has loaded the command and forks a child for each command line: a test does not wait for imports."""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any


def _available() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


AVAILABLE = _available()
"""On Linux; elsewhere a fork is dear, or there is none."""

_LOADED = (
    "_cli _settings _project _runs _store _workflow _reading _correlation _telemetry _otlp _delivery _wiring _runtime _attaching "
    "_backend"
).split()
_NOT_LOADED = ("grpc", "sdk", "rich_utils", "mcp", "nats", "stack", "observe", "demo")
"""They are seldom used, or read the environment when they are imported."""
_LOADED_OF_OTHERS = (
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
"""They are imported by name when they are used."""
_START = "import sys; sys.path.append({!r}); from prepared import serve; sys.path.pop(); serve(int(sys.argv[1])); from spanbus._cli import main; main()"
_NUMBER = struct.Struct("!i")


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    stdin: str | None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run ``spanbus ARGUMENTS`` in a process of its own, as :func:`subprocess.run` would."""
    with tempfile.TemporaryFile() as given:
        given.write((stdin or "").encode())
        given.seek(0)
        with Forked(arguments, folder=folder, env=env, stdin=given) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
    return subprocess.CompletedProcess(list(arguments), process.returncode, out, err)


class Forked(subprocess.Popen[str]):
    """``spanbus ARGUMENTS`` as a child of the prepared process: it is read, waited for and sent signals like any other."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        self._request = json.dumps([list(arguments), str(folder), dict(env)]).encode()
        pipe = subprocess.PIPE
        super().__init__(list(arguments), stdin=stdin, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, *given: Any) -> None:
        """Instead of fork and exec in this process; ``given`` is all that these could want to know."""
        streams = given[-13:-7]
        self._end, told = os.pipe()
        try:
            _prepared().fork(self._request, [streams[0], streams[3], streams[5], told])
        finally:
            os.close(told)
            self._close_pipe_fds(*streams)  # pyright: ignore[reportAttributeAccessIssue]
        [self.pid] = _NUMBER.unpack(os.read(self._end, _NUMBER.size))
        self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """Instead of ``os.waitpid``, which knows none but our own children."""
        if wait_flags & os.WNOHANG and not select.select([self._end], [], [], 0)[0]:
            return 0, 0
        [status] = _NUMBER.unpack(os.read(self._end, _NUMBER.size))
        os.close(self._end)
        return self.pid, status

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._wait(timeout=0)  # pyright: ignore[reportAttributeAccessIssue]
        return self.returncode


class _Prepared:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._asking = threading.Lock()
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

    def fork(self, request: bytes, fds: Sequence[int]) -> None:
        """Ask for a child with the first three of ``fds`` as its streams; its number and its end are told to the fourth."""
        with self._asking:
            socket.send_fds(self._socket, [_NUMBER.pack(len(request))], fds)
            self._socket.sendall(request)


@cache
def _prepared() -> _Prepared:
    return _Prepared()


def serve(number: int) -> None:
    """Load the command, then fork for each request; returns in the child, whose command line it has made ours."""
    for room in _LOADED:
        package = import_module(f"spanbus.{room}")
        for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"spanbus.{room}."):
            if not found.name.rpartition(".")[2].startswith(_NOT_LOADED):
                import_module(found.name)
    for name in _LOADED_OF_OTHERS:
        import_module(name)
    gc.collect()
    gc.freeze()
    ours = socket.socket(fileno=number)
    children: dict[int, tuple[int, int]] = {}
    while True:
        ready = select.select([ours, *children], [], [])[0]
        for ended in children.keys() & ready:
            pid, told = children.pop(ended)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(told, _NUMBER.pack(status))
            os.close(told)
            os.close(ended)
        if ours not in ready:
            continue
        head, fds, _, _ = socket.recv_fds(ours, _NUMBER.size, 4)
        if not head:
            sys.exit(0)
        [length] = _NUMBER.unpack(head)
        with ours.makefile("rb", buffering=0) as stream:
            request = b""
            while len(request) < length:
                request += stream.read(length - len(request)) or b""
        *streams, told = fds
        pid = os.fork()
        if pid == 0:
            ours.close()
            for ended, (_, others) in children.items():
                os.close(ended)
                os.close(others)
            os.close(told)
            arguments, folder, env = json.loads(request)
            for place, fd in enumerate(streams):
                os.dup2(fd, place)
                os.close(fd)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(folder)
            sys.argv[1:] = arguments
            return
        for fd in streams:
            os.close(fd)
        os.write(told, _NUMBER.pack(pid))
        children[os.pidfd_open(pid)] = pid, told
