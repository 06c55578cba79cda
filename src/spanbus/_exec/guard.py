"""Guard process that kills a command's process group when we are killed.

Without a terminal the command has its own process group. A SIGKILL for us, as sent by ``timeout -s KILL`` and CI runners, kills
the command by its parent-death signal, but not the processes that it has started. The guard waits for our end and kills the
group. It holds none of our descriptors and blocks all signals.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Self

_MOST_DESCRIPTORS = 1 << 20
_DISMISSED = b"."
_NAME = b"exec-guard"
"""Another name than ours, so that ``killall -9 spanbus`` does not kill it."""


class Guard:
    """Guard of one command; the command's process sets its group by :meth:`guard_this_group`.

    Call :meth:`dismiss` when the command has ended, because a later process may get its pid.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    @classmethod
    def started(cls) -> Self | None:
        """Start a guard in a process group of its own; None if no process can be created.

        The caller must have blocked all signals; they stay blocked in the guard.
        """
        try:
            from fcntl import F_DUPFD_CLOEXEC, fcntl  # not on Windows, which has no fork either

            reading, low = os.pipe()
        except (ImportError, OSError):  # also an import without a free descriptor
            return None
        try:
            # Not the number of a closed standard stream, to which messages would be written.
            writing = fcntl(low, F_DUPFD_CLOEXEC, 3)
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
            os.setpgid(pid, pid)  # in both processes, because either may be first
        return cls(pid, writing)

    def guard_this_group(self) -> None:
        """Tell the guard its group; called in the command's process, the leader of the group."""
        with suppress(OSError):  # without a guard the command runs anyway
            os.write(self._pipe, b"%d" % os.getpid())

    def dismiss(self) -> None:
        """End the guard, and wait for its end."""
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
    """Set the name in the process table, on Linux."""
    with suppress(OSError):
        file = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(file, name)
        os.close(file)
