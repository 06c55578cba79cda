"""End a command's group where something ends us that cannot be passed on.

Without a terminal the command has a process group of its own. A SIGKILL for ours, as ``timeout -s KILL`` and CI runners send
it, would reach the command by its parent-death signal, and leave alone what the command has started: a process beside us,
which waits for nothing but our end, kills the rest. It holds none of our descriptors and hears no signal.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Self

_MOST_DESCRIPTORS = 1 << 20
_DISMISSED = b"."
_NAME = b"exec-guard"
"""Not ours: ``killall -9 spanbus`` would kill it with us."""


class Guard:
    """Waits beside one command, which it knows once that one has said :meth:`guard_this_group`.

    :meth:`dismiss` it when the command has ended: a later process may get its number.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    @classmethod
    def started(cls) -> Self | None:
        """A guard that a signal for our group does not reach; None where no process is to be had, which is no reason not to run.

        All signals are blocked in it, as they must be in the caller.
        """
        try:
            from fcntl import F_DUPFD_CLOEXEC, fcntl  # not on Windows, which has no fork either

            reading, low = os.pipe()
        except (ImportError, OSError):  # also a module that no descriptor is left for
            return None
        try:
            writing = fcntl(
                low, F_DUPFD_CLOEXEC, 3
            )  # where a standard stream is closed, messages would go in there
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
            os.setpgid(pid, pid)  # here and there, for nobody knows who is first
        return cls(pid, writing)

    def guard_this_group(self) -> None:
        """Called in the process of the command, which leads its group."""
        with suppress(OSError):  # it is gone: the command runs all the same
            os.write(self._pipe, b"%d" % os.getpid())

    def dismiss(self) -> None:
        """Let it go, and wait until it is gone."""
        with suppress(OSError):
            os.write(self._pipe, _DISMISSED)
        os.close(self._pipe)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _wait(pipe: int) -> None:
    try:
        os.setpgid(0, 0)
        _be_called(_NAME)
        os.dup2(pipe, 0)
        os.closerange(1, _MOST_DESCRIPTORS)
        told = b""
        while data := os.read(0, 64):
            told += data
        if told and not told.endswith(_DISMISSED):
            os.killpg(int(told), signal.SIGKILL)
    finally:
        os._exit(0)


def _be_called(name: bytes) -> None:
    """Have another name in the process table; Linux has it."""
    with suppress(OSError):
        file = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(file, name)
        os.close(file)
