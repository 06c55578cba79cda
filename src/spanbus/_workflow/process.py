"""Run a child process in its own process group: stream its output, keep the tail, terminate the group on cancellation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from spanbus._named_tuple import NamedTuple
from spanbus._workflow.definition import Command
from spanbus._workflow.output import Lines, OutputSink, Tail

GRACE_S = 3.0
_WINDOWS = sys.platform == "win32"
_groups: set[int] = set()
"""The running process groups."""


class Interruption(NamedTuple):
    """The signal that ends the work. ``delivered``: the terminal has sent it to the tools in its foreground as well."""

    number: signal.Signals
    delivered: bool


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """Result of a command. ``exit_code`` is negative for a signal, None if the program could not be started."""

    exit_code: int | None
    duration_s: float
    tail: str
    error: str | None = None

    @property
    def success(self) -> bool:
        return self.exit_code == 0 and self.error is None


class Remains:
    """Output tail and exit code of a process, available even after a cancellation."""

    def __init__(self) -> None:
        self.tail = Tail()
        self.exit_code: int | None = None


async def run_process(
    command: Command,
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    on_line: OutputSink | None = None,
    inherit: bool = False,
    interruption: Callable[[], Interruption | None] | None = None,
    stopping: Callable[[], bool] | None = None,
    remains: Remains | None = None,
) -> ProcessResult:
    """Run ``command`` to its end. A program that cannot be started gives a result with ``error``, not an exception.

    On cancellation the process group gets SIGTERM, after three seconds SIGKILL, and the cancellation propagates. With
    ``inherit`` the child uses our standard streams and stays in our process group, so that the terminal can signal it. On
    cancellation it gets the signal of ``interruption``; if the terminal has sent that already, it gets no second one and is
    given unlimited time. ``stopping``: the run was asked to stop while the process was being started, so that
    :func:`signal_all` missed it; it is signalled here. ``remains`` receives output tail and exit code even on cancellation.
    """
    argv: list[str] | str = command.argv[0] if command.shell else list(command.argv)
    directory = (
        cwd / command.cwd if cwd is not None and command.cwd is not None else command.cwd or cwd
    )
    began_ns = time.perf_counter_ns()
    remains = Remains() if remains is None else remains
    tail = remains.tail
    try:
        process = await anyio.open_process(
            argv,
            stdin=None if inherit else subprocess.DEVNULL,
            stdout=None if inherit else subprocess.PIPE,
            stderr=None if inherit else subprocess.STDOUT,
            cwd=directory,
            env=dict(env),
            start_new_session=not inherit and not _WINDOWS,
        )
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: a NUL, or text that the locale cannot encode
        return ProcessResult(
            None,
            (time.perf_counter_ns() - began_ns) / 1e9,
            "",
            _cannot_start(command, directory, error),
        )
    if not inherit:
        _groups.add(process.pid)
        if stopping is not None and stopping():
            asked = interruption() if interruption is not None else None
            _signal(process, asked.number if asked is not None else signal.SIGTERM, group=True)
    try:
        if process.stdout is not None:
            await _stream(process, process.stdout, tail, on_line)
        exit_code = await process.wait()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await _terminate(
                process,
                interruption() if inherit and interruption is not None else None,
                group=not inherit,
            )
        remains.exit_code = process.returncode
        raise
    finally:
        _groups.discard(process.pid)
        with anyio.CancelScope(shield=True):
            await process.aclose()
    return ProcessResult(exit_code, (time.perf_counter_ns() - began_ns) / 1e9, tail.text())


def signal_all(number: signal.Signals) -> None:
    """Send a signal to every running process group."""
    for group in list(_groups):
        with suppress(ProcessLookupError, PermissionError):
            if _WINDOWS:
                os.kill(group, signal.SIGTERM)
            else:
                os.killpg(group, number)


def kill_all() -> None:
    """Kill every running process group, for a program that exits without waiting."""
    for group in list(_groups):
        with suppress(ProcessLookupError, PermissionError):
            if _WINDOWS:
                os.kill(group, signal.SIGTERM)
            else:
                os.killpg(group, signal.SIGKILL)


async def _stream(
    process: Process, stream: ByteReceiveStream, tail: Tail, on_line: OutputSink | None
) -> None:
    """Read the output until the child has ended; a grandchild that keeps the stream open is not waited for."""
    lines = Lines(on_line) if on_line is not None else None
    with anyio.CancelScope() as reading:
        async with anyio.create_task_group() as group:

            async def ended() -> None:
                await process.wait()
                with anyio.move_on_after(0.5):  # for the rest of the output
                    await done.wait()
                reading.cancel()

            done = anyio.Event()
            group.start_soon(ended)
            async for data in stream:
                tail.add(data)
                if lines is not None:
                    lines.add(data)
            done.set()
    if lines is not None:
        lines.end()


async def _terminate(process: Process, interruption: Interruption | None, *, group: bool) -> None:
    """Terminate the process and its process group."""
    if interruption is not None and interruption.delivered:
        await process.wait()
        return
    _signal(
        process, interruption.number if interruption is not None else signal.SIGTERM, group=group
    )
    with anyio.move_on_after(GRACE_S):
        await process.wait()
    _signal(process, signal.SIGKILL if not _WINDOWS else signal.SIGTERM, group=group)
    await process.wait()


def _signal(process: Process, number: signal.Signals, *, group: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if group and not _WINDOWS:
            os.killpg(process.pid, number)
        elif process.returncode is None:
            process.send_signal(number)


def _cannot_start(command: Command, directory: Path | None, error: OSError | ValueError) -> str:
    if directory is not None and not directory.is_dir():
        return f"cannot run {command.executable}, the folder {directory} does not exist"
    if isinstance(error, FileNotFoundError):
        return f"cannot run {command.executable}, no such program; is it installed and on the PATH?"
    return f"cannot run {command.executable}, {getattr(error, 'strerror', None) or error}"
