"""Guard process that kills a command's process group when this process is killed.

Without a terminal the command has its own process group. A SIGKILL for ours, as sent by ``timeout -s KILL`` and CI runners,
reaches the command by its parent-death signal, but not the command's children. The guard waits for our end and kills the
rest. It holds none of our descriptors, and all signals are blocked in it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Self

_MOST_DESCRIPTORS = 1 << 20
_DISMISSED = b"."
_NAME = b"exec-guard"
"""Process name other than ours: ``killall -9 spanbus`` must not kill the guard too."""


class Guard:
    """A guard process for one command, whose process calls :meth:`guard_this_group`.

    Call :meth:`dismiss` when the command has ended, because its process id may be reused.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    @classmethod
    def started(cls) -> Self | None:
        """Start a guard in its own process group. Returns None if no process can be created.

        All signals must be blocked in the caller; the guard inherits that.
        """
        try:
            from fcntl import F_DUPFD_CLOEXEC, fcntl  # not on Windows, which has no fork either

            reading, low = os.pipe()
        except (ImportError, OSError):  # OSError also if no descriptor is left to import a module
            return None
        try:
            writing = fcntl(low, F_DUPFD_CLOEXEC, 3)  # never the number of a closed standard stream
        except OSError:
            os.close(reading)
            return None
        finally:
            os.close(low)
        try:
            pid = os.fork()
        except OSError:
            os.close(writing)
            os.close(reading)
            return None
        if pid == 0:
            _wait(reading)
        os.close(reading)
        with suppress(OSError):
            os.setpgid(pid, pid)  # in parent and child, because either may run first
        return cls(pid, writing)

    def guard_this_group(self) -> None:
        """Register the calling process's group. Call in the process of the command."""
        with suppress(OSError):  # without a guard the command runs all the same
            os.write(self._pipe, b"%d" % os.getpid())

    def dismiss(self) -> None:
        """End the guard without killing anything, and wait for its exit."""
        with suppress(OSError):
            os.write(self._pipe, _DISMISSED)
        os.close(self._pipe)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _wait(pipe: int) -> None:
    try:
        os.setpgid(0, 0)
        _set_process_name(_NAME)
        os.dup2(pipe, 0)
        os.closerange(1, _MOST_DESCRIPTORS)
        received = b""
        while data := os.read(0, 64):
            received += data
        if received and not received.endswith(_DISMISSED):
            os.killpg(int(received), signal.SIGKILL)
    finally:
        os._exit(0)


def _set_process_name(name: bytes) -> None:
    """Change the name in the process table (Linux only)."""
    with suppress(OSError):
        file = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(file, name)
        os.close(file)
