"""Start a command as a shell would: descriptors, signals, environment, PATH search, process group.

A plain fork and exec passes on everything inherited: extra descriptors (process substitution, make's jobserver), limits,
priority, umask, working directory, ignored and blocked signals.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from spanbus._exec.guard import Guard

NOT_FOUND, CANNOT_RUN = 127, 126
_DEFAULT_PATH = "/bin:/usr/bin"
_SHELL = b"/bin/sh"
_TEXT_SEEN = 80
_PR_SET_PDEATHSIG = 1
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
"""Ignored by Python at its start; the command must not inherit that."""
_PASS_THEM_ON = frozenset(
    "sh bash dash ash ksh mksh zsh busybox systemd init make gmake env nohup timeout nice".split()
)
"""Programs whose children inherit the signals that they ignore themselves."""


class Child:
    """A command that was started, or could not be: then ``error`` is set."""

    __slots__ = ("error", "guard", "own_group", "pid", "started_at_ns", "started_ns")

    def __init__(self, started_at_ns: int, started_ns: int) -> None:
        self.started_at_ns = started_at_ns
        self.started_ns = started_ns
        self.pid = 0
        self.own_group = False
        self.guard: Guard | None = None
        self.error: OSError | None = None

    def release(self) -> None:
        """Dismiss the guard. Call when the command has ended or was not started."""
        if self.guard is not None:
            self.guard.dismiss()
            self.guard = None


class Inherited:
    """Signal dispositions and mask that this process inherited."""

    __slots__ = ("chld", "ignored", "mask")

    def __init__(self) -> None:
        self.ignored: set[int] = set()
        for number in signal.valid_signals():
            if signal.getsignal(number) is signal.SIG_IGN:
                self.ignored.add(int(number))
        for name in _IGNORED_BY_PYTHON:
            number = int(getattr(signal, name))
            self.ignored.discard(number)
            if _ignored_by_parent(number):
                self.ignored.add(number)
        self.chld = int(signal.SIGCHLD) in self.ignored
        if self.chld:  # otherwise the kernel discards the exit status
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.mask: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def start(
    argv: Sequence[str],
    changes: Mapping[str, str | None],
    inherited: Inherited,
    connect: Callable[[], None] | None = None,
) -> Child:
    """Start ``argv``. ``connect`` is called in the new process. Raises ``OSError`` only if no process can be created."""
    arguments = [os.fsencode(word) for word in argv]
    child = Child(time.time_ns(), time.perf_counter_ns())
    child.own_group = not _has_terminal()
    with_parent = _bound_to_parent()
    us = os.getpid()
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if child.own_group:
        child.guard = Guard.started()
    try:
        pid = os.fork()
    except OSError:
        child.release()
        raise
    if pid == 0:
        try:
            if child.own_group:
                os.setpgid(0, 0)
            if child.guard is not None:
                child.guard.guard_this_group()
            if with_parent is not None:
                with_parent()
                if os.getppid() != us:  # our parent process died meanwhile
                    os._exit(128 + signal.SIGKILL)
            if connect is not None:
                connect()
            become(arguments, changes, inherited)
        except OSError as error:
            os.write(writing, f"{error.errno or errno.EIO}".encode())
        finally:
            os._exit(CANNOT_RUN)
    os.close(writing)
    child.pid = pid
    failure = b""
    while data := os.read(reading, 64):
        failure += data
    os.close(reading)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        child.error = OSError(number, os.strerror(number))
        child.release()
    return child


def become(arguments: list[bytes], changes: Mapping[str, str | None], inherited: Inherited) -> None:
    """Replace this process by the command. Only returns by raising ``OSError``."""
    for name in _IGNORED_BY_PYTHON:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    for number in inherited.ignored:
        signal.signal(number, signal.SIG_IGN)
    for name, value in changes.items():
        if value is None:
            os.unsetenv(name)
        else:
            os.putenv(name, value)
    if _locale_was_coerced():
        os.unsetenv("LC_CTYPE")
    signal.pthread_sigmask(signal.SIG_SETMASK, inherited.mask)
    _exec(arguments)


def status_of(error: OSError) -> int:
    """Return a shell's exit status for a command that cannot be started."""
    return NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else CANNOT_RUN


def reason_of(error: OSError) -> str:
    """Return a shell's message for a command that cannot be started."""
    if status_of(error) == NOT_FOUND:
        return "command not found"
    return f"cannot be run: {error.strerror}"


def keep_standard_descriptors() -> None:
    """Open the null device for closed standard streams, so that no file of ours gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number, inheritable=False)
                os.close(nowhere)


def _exec(arguments: list[bytes]) -> None:
    """Execute like ``execvp``: search ``PATH``, and run a script without ``#!`` by ``sh``."""
    program = arguments[0]
    if b"/" in program:
        _exec_file(program, arguments)
        return
    if not program:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    denied: OSError | None = None
    for folder in os.fsencode(os.environ.get("PATH", _DEFAULT_PATH)).split(b":"):
        try:
            _exec_file(folder + b"/" + program if folder else b"./" + program, arguments)
        except OSError as error:
            if error.errno == errno.EACCES:
                denied = denied or error
            elif error.errno not in (
                errno.ENOENT,
                errno.ENOTDIR,
                errno.ESTALE,
                errno.ENODEV,
                errno.ETIMEDOUT,
                errno.ELOOP,
                errno.ENAMETOOLONG,
            ):
                raise
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _exec_file(path: bytes, arguments: list[bytes]) -> None:
    try:
        os.execv(path, arguments)
    except ValueError:  # an empty name cannot be argv[0]
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(path):
            raise
        os.execv(_SHELL, [_SHELL, path, *arguments[1:]])


def _is_binary(path: bytes) -> bool:
    """Whether the file has a NUL byte at its start, by which bash tells a foreign executable from a script."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # executable, not readable
        return False
    try:
        return b"\0" in os.read(file, _TEXT_SEEN)
    finally:
        os.close(file)


def _has_terminal() -> bool:
    """Whether our session has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _ignored_by_parent(number: int) -> bool:
    """Whether a signal was ignored before Python started, inferred from a parent that passes on its ignored signals."""
    try:
        with open(f"/proc/{os.getppid()}/status", "rb", buffering=0) as file:
            lines = file.read(8192).split(b"\n")
    except OSError:
        return False
    name, ignored = b"", 0
    for line in lines:
        key, _, value = line.partition(b":")
        if key == b"Name":
            name = value.strip()
        elif key == b"SigIgn":
            ignored = int(value, 16)
    return bool(ignored >> (number - 1) & 1) and name.decode("ascii", "replace") in _PASS_THEM_ON


def _locale_was_coerced() -> bool:
    """Whether Python has set ``LC_CTYPE`` for itself in the C locale (PEP 538), which the command must not inherit."""
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return False
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            began_with = file.read()
    except OSError:
        return False
    return not (began_with.startswith(b"LC_CTYPE=") or b"\0LC_CTYPE=" in began_with)


def _bound_to_parent() -> Callable[[], None] | None:
    """Return a function that makes a forked child die with its parent (``PR_SET_PDEATHSIG``), or None if not on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import _ctypes  # importing ctypes itself would take a third of the start-up time

        program = _ctypes.dlopen(None, 0)  # pyright: ignore[reportArgumentType] - the program itself
        address = _ctypes.dlsym(program, "prctl")
        call: Callable[[int, tuple[int, ...]], int] = _ctypes.call_function
    except (ImportError, AttributeError, OSError):
        return None

    def bind() -> None:
        call(address, (_PR_SET_PDEATHSIG, int(signal.SIGKILL)))

    return bind
