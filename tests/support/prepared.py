"""A server process that has imported spanbus and forks a child for each command, so that tests do not wait for imports."""

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
from importlib import import_module, metadata
from pathlib import Path
from typing import IO, Any


def _available() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


AVAILABLE = _available()
"""True on Linux; on other systems a fork is expensive or not available."""

_LOADED = (
    "_cli _settings _project _runs _store _workflow _reading _correlation _telemetry _otlp _delivery _wiring _runtime _attaching "
    "_backend _doctor"
).split()
_NOT_LOADED = ("grpc", "sdk", "rich_utils", "mcp", "nats", "stack", "observe", "demo")
"""Prefixes of modules that are rarely used, or that read the environment when they are imported."""
_LOADED_OF_OTHERS = (
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
"""Modules of dependencies that are imported by name on first use."""
_START = "import sys; sys.path.append({!r}); from prepared import serve; sys.path.pop(); serve(int(sys.argv[1]))"
_COMMAND = "from spanbus._cli import main; main()"
_READ_AT_START = (
    "PYTHON",
    "LC_",
    "LANG",
    "OTEL_PYTHON",
    "OTEL_PROPAGATORS",
    "TYPER",
    "GRPC_",
    "LD_",
)
"""Prefixes of environment variables that Python and libraries read when they are started or imported."""
_NUMBER = struct.Struct("!i")


def usable(env: Mapping[str, str]) -> bool:
    """Whether a process with these environment variables can be forked from the server, which was started with ours."""
    return (
        AVAILABLE
        and {*env.get("PYTHONPATH", "").split(os.pathsep)} <= {"", *sys.path}
        and all(
            env.get(name) == os.environ.get(name) or name == "PYTHONPATH"
            for name in env.keys() | os.environ.keys()
            if name.startswith(_READ_AT_START)
        )
    )


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    stdin: str | None,
    timeout_s: float,
    code: str = _COMMAND,
    finalize: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``spanbus ARGUMENTS``, or ``code``, in a process of its own, like :func:`subprocess.run`.

    With ``finalize`` the interpreter is finalized at its end, so that Python reports what was left open.
    """
    if not usable(env):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            input=stdin or "",
            check=False,
        )
    with tempfile.TemporaryFile() as given:
        given.write((stdin or "").encode())
        given.seek(0)
        forked = Forked(
            arguments, folder=folder, env=env, stdin=given, code=code, finalize=finalize
        )
        with forked as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
    return subprocess.CompletedProcess(list(arguments), process.returncode, out, err)


def start(
    arguments: Sequence[str], *, folder: Path, env: Mapping[str, str], code: str
) -> subprocess.Popen[str]:
    """Start ``python -c CODE ARGUMENTS``, forked from the server if possible."""
    if usable(env):
        return Forked(arguments, folder=folder, env=env, code=code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Forked(subprocess.Popen[str]):
    """``spanbus ARGUMENTS`` as a child of the server process, with the interface of :class:`subprocess.Popen`.

    With ``code`` it is ``python -c CODE ARGUMENTS``, with spanbus already imported.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        code: str = _COMMAND,
        finalize: bool = False,
    ) -> None:
        request = [code, finalize, list(arguments), str(folder), dict(env)]
        self._request = json.dumps(request).encode()
        pipe = subprocess.PIPE
        super().__init__(list(arguments), stdin=stdin, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, *given: Any) -> None:
        """Ask the server for a child instead of calling fork and exec; ``given`` are those of ``Popen._execute_child``."""
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
        """Read the exit status from the server: ``os.waitpid`` works for children of this process only."""
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
                # Python caches whether its standard streams are seekable. Those of a test are pipes.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.communicate()

    def fork(self, request: bytes, fds: Sequence[int]) -> None:
        """Request a child with the first three of ``fds`` as its streams. Its pid and exit status are written to the fourth."""
        with self._asking:
            socket.send_fds(self._socket, [_NUMBER.pack(len(request))], fds)
            self._socket.sendall(request)


@cache
def _prepared() -> _Prepared:
    return _Prepared()


def warm() -> None:
    """Fill the caches that are filled on first use, so that no child has to."""
    from spanbus._reading.dialect_file import load
    from spanbus._reading.reader import Reader
    from spanbus._telemetry.redaction import Redactor

    metadata.entry_points = cache(metadata.entry_points)  # reads a file of every installed package
    for each in gc.get_objects():
        if type(each).__module__ == "spanbus._patterns":
            each.search  # noqa: B018
    Redactor().text("token = x")
    for dialect in ("spanbus", "generic"):
        read = Reader(load(dialect)).read
        read({"event_type": "workflow.started", "payload": {"workflow_id": "w"}})


def serve(number: int) -> None:
    """Import spanbus, then fork for each request. A child runs the requested code with the requested command line."""
    atexit.register(_leave)  # registered first, therefore called last
    for room in _LOADED:
        package = import_module(f"spanbus.{room}")
        for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"spanbus.{room}."):
            if not found.name.rpartition(".")[2].startswith(_NOT_LOADED):
                import_module(found.name)
    for name in _LOADED_OF_OTHERS:
        import_module(name)
    warm()
    gc.collect()
    gc.freeze()
    ours = socket.socket(fileno=number)
    children: dict[int, tuple[int, int]] = {}
    while True:
        ready = select.select([ours, *children], [], [])[0]
        for ended in children.keys() & ready:
            pid, told = children.pop(ended)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):  # the test no longer waits for it
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
            code, finalize, arguments, folder, env = json.loads(request)
            for place, fd in enumerate(streams):
                os.dup2(fd, place)
                os.close(fd)
            os.environ.clear()
            os.environ.update(env)
            given = env.get("PYTHONPATH", "").split(os.pathsep)
            sys.path[1:1] = [path for path in given if path and path not in sys.path]
            os.chdir(folder)
            sys.argv[1:] = arguments
            if finalize:
                atexit.unregister(_leave)
            _run(code)
            return
        for fd in streams:
            os.close(fd)
        os.write(told, _NUMBER.pack(pid))
        children[os.pidfd_open(pid)] = pid, told


_status: int | None = None


def _run(code: str) -> None:
    global _status
    try:
        exec(code, vars(sys.modules["__main__"]))
    except SystemExit as left:
        _status = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    except KeyboardInterrupt:  # Python ends itself by the signal
        raise
    except BaseException:
        _status = 1
        raise
    _status = 0


def _leave() -> None:
    """Exit without finalizing the interpreter, which takes ten times as long as most commands."""
    if _status is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python reports it
        return
    os._exit(_status)
