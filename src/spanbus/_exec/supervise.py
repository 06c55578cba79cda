"""Wait for a command and forward signals that reached only this process.

All signals are blocked and read one by one, with their sender. At a terminal the command stays in our process group, so
signals for keys reach it directly and are not forwarded. Without a terminal it has its own process group, to which every
signal is forwarded.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from spanbus._exec.launch import Child, Inherited

_BY_KERNEL = 0x80  # si_code SI_KERNEL: sent for a key or by the terminal
_ENDS_WORK = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_BY_KEY = frozenset(("SIGINT", "SIGQUIT", "SIGTSTP", "SIGWINCH"))
_NEVER = ("SIGKILL", "SIGSTOP")


class CommandExit:
    """End of a command: ``status`` as a shell reports it, ``signal_name`` of the signal that requested the end, if any."""

    __slots__ = ("duration_ns", "ended_at_ns", "exit_code", "signal_name")

    def __init__(self, exit_code: int, duration_ns: int, ended_at_ns: int) -> None:
        self.exit_code = exit_code
        """Negative for the signal that ended it."""
        self.duration_ns = duration_ns
        self.ended_at_ns = ended_at_ns
        self.signal_name: str | None = None

    @property
    def status(self) -> int:
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


class Supervisor:
    """Waits for one command in the main thread; only :meth:`wake` may be called from other threads."""

    def __init__(
        self, child: Child, inherited: Inherited, resize: Callable[[], bool] | None = None
    ) -> None:
        """``resize`` copies the terminal's size to the command's pseudo-terminal, and returns whether there is one."""
        self._child = child
        self._resize = resize
        never = {int(getattr(signal, name)) for name in _NEVER}
        self._signals = {int(number) for number in signal.valid_signals()} - never
        self._signals -= inherited.ignored - {int(signal.SIGCHLD)}
        self._end_signal: str | None = None

    def wait(self) -> CommandExit:
        """Wait until the command has ended. If it is stopped, this process stops too."""
        while True:
            code = self._reap()
            if code is not None:
                ended = CommandExit(
                    code, time.perf_counter_ns() - self._child.started_ns, time.time_ns()
                )
                ended.signal_name = self._end_signal
                return ended
            number, by_kernel = self._next()
            if number != signal.SIGCHLD:
                self._forward(number, by_kernel)

    def wake(self) -> None:
        """End :meth:`wait_while`."""
        with suppress(OSError):
            os.kill(os.getpid(), signal.SIGCHLD)

    def wait_while(self, still: Callable[[], bool], timeout_s: float) -> bool:
        """Wait while ``still()`` is true, at most ``timeout_s`` or until a signal requests the end. Returns whether it ended.

        The signal that ended the command may arrive twice, because ``timeout`` and supervisors send it to the process and to
        its group. The second one is ignored.
        """
        until = time.monotonic() + timeout_s
        same = self._end_signal if self._end_signal not in _BY_KEY else None
        while still():
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            number = self._next_within(left_s)
            if number is None or (name := _name(number)) not in _ENDS_WORK:
                continue
            if name != same:
                return not still()
            same = None
        return True

    # --- signals ------------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[int, bool]:
        """Return the next signal, and whether the kernel sent it to our whole process group."""
        if hasattr(signal, "sigwaitinfo"):
            while True:
                info = signal.sigwaitinfo(self._signals)
                if info.si_signo == signal.SIGCHLD or info.si_pid != os.getpid():
                    return info.si_signo, info.si_code == _BY_KERNEL
        number = signal.sigwait(self._signals)  # the sender is unknown
        return int(number), signal.Signals(number).name in _BY_KEY

    def _next_within(self, timeout_s: float) -> int | None:
        if hasattr(signal, "sigtimedwait"):
            info = signal.sigtimedwait(self._signals, timeout_s)
            return info.si_signo if info is not None else None
        return int(signal.sigwait(self._signals))

    def _forward(self, number: int, by_kernel: bool) -> None:
        name = _name(number)
        if self._end_signal is None and name in _ENDS_WORK:
            self._end_signal = name
        resized = name == "SIGWINCH" and self._resize is not None and self._resize()
        if by_kernel and not self._child.own_group and not resized:
            return
        if self._child.own_group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)
            return
        for pid in _family(self._child.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    # --- the command --------------------------------------------------------------------------------------------------

    def _reap(self) -> int | None:
        while True:
            try:
                pid, status = os.waitpid(self._child.pid, os.WNOHANG | os.WUNTRACED)
            except InterruptedError:
                continue
            if pid == 0:
                return None
            if os.WIFSTOPPED(status):
                self._stop_with_command(os.WSTOPSIG(status))
                continue
            return os.waitstatus_to_exitcode(status)

    def _stop_with_command(self, number: int) -> None:
        """Stop this process too, so that the shell sees a stopped job. Its SIGCONT is forwarded to the command."""
        if number == signal.SIGSTOP and self._child.own_group:  # sent to the command alone
            return
        os.kill(os.getpid(), signal.SIGSTOP)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


def _family(pid: int) -> list[int]:
    """Return a process and its descendants in our process group."""
    found, group = [pid], os.getpgrp()
    try:
        beneath = _children_by_parent(group)
    except OSError:  # no /proc
        return found
    for one in found:
        found.extend(beneath.get(one, ()))
    return found


def _children_by_parent(group: int) -> dict[int, list[int]]:
    beneath: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    fields = file.read(4096).rpartition(b")")[2].split()
                if int(fields[2]) == group:
                    beneath.setdefault(int(fields[1]), []).append(int(name))
    return beneath
