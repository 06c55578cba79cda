"""A process that has loaded spanbus and forks a child for each command line or program, so that tests do not wait for imports."""

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
"""Only on Linux; elsewhere fork is slow or missing."""

_LOADED = (
    "_cli _settings _project _runs _store _workflow _reading _correlation _telemetry _otlp _delivery _wiring _runtime _attaching "
    "_backend _doctor"
).split()
_NOT_LOADED = ("grpc", "sdk", "rich_utils", "mcp", "nats", "stack", "observe", "demo")
"""Modules that are not preloaded: they are seldom used, or read the environment when imported."""
_LOADED_OF_OTHERS = (
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
"""Modules that are imported by name when used."""
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
"""Prefixes of variables that Python and libraries read when they are started or imported."""
_NUMBER = struct.Struct("!i")


def usable(env: Mapping[str, str]) -> bool:
    """Return whether a process with these variables may be forked from the prepared one."""
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
    taken_down: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``spanbus ARGUMENTS``, or ``code``, in a process of its own, as :func:`subprocess.run` would.

    At its end all that it made is ``taken_down``, where that is to be seen: Python tells then what was left open.
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
            arguments, folder=folder, env=env, stdin=given, code=code, taken_down=taken_down
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
    """Start ``python -c CODE ARGUMENTS``, with spanbus preloaded where possible."""
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
    """``spanbus ARGUMENTS`` as a child of the prepared process: it is read, waited for and sent signals like any other.

    With ``code`` it is ``python -c CODE ARGUMENTS``, spanbus being loaded already.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        code: str = _COMMAND,
        taken_down: bool = False,
    ) -> None:
        request = [code, taken_down, list(arguments), str(folder), dict(env)]
        self._request = json.dumps(request).encode()
        pipe = subprocess.PIPE
        super().__init__(list(arguments), stdin=stdin, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, *given: Any) -> None:
        """Replace fork and exec in this process; ``given`` has all their arguments."""
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
        """Replace ``os.waitpid``, which knows only direct children."""
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
                # Python caches whether its standard streams are seekable; those of a test are pipes.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.communicate()

    def fork(self, request: bytes, fds: Sequence[int]) -> None:
        """Request a child with the first three of ``fds`` as its streams; its pid and exit status are sent to the fourth."""
        with self._asking:
            socket.send_fds(self._socket, [_NUMBER.pack(len(request))], fds)
            self._socket.sendall(request)


@cache
def _prepared() -> _Prepared:
    return _Prepared()


def warm() -> None:
    """Initialise lazy values, so that no child has to."""
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
    """Load spanbus, then fork for each request; a child runs the given code with the given command line."""
    atexit.register(_leave)  # registered first, so called last
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
            with suppress(BrokenPipeError):  # the test does not wait for it any more
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
            code, taken_down, arguments, folder, env = json.loads(request)
            for place, fd in enumerate(streams):
                os.dup2(fd, place)
                os.close(fd)
            os.environ.clear()
            os.environ.update(env)
            given = env.get("PYTHONPATH", "").split(os.pathsep)
            sys.path[1:1] = [path for path in given if path and path not in sys.path]
            os.chdir(folder)
            sys.argv[1:] = arguments
            if taken_down:
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
    """Exit without tearing down modules, which costs ten times as much as most commands."""
    if _status is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python reports it
        return
    os._exit(_status)
