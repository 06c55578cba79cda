"""A program in its own session with its own pseudo-terminal. No wait for it is longer than a minute."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

LONGEST_S = 60.0


class Terminal:
    """A context manager around a program with a pseudo-terminal; its exit kills the program."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._screen, terminal = pty.openpty()
        try:
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *argv],  # no fork of this process, which has other threads
                cwd=cwd,
                env=env,
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
            )
        finally:
            os.close(terminal)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait(LONGEST_S)
        os.close(self._screen)

    def type(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def resize(self, *, columns: int, lines: int) -> None:
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, wanted: bytes) -> bytes:
        """Return the output since the last read, up to and including ``wanted``."""
        return self._read(wanted)

    def rest(self) -> bytes:
        """Return the output since the last read, until the last program has closed the terminal."""
        return self._read(None)

    def exit_code(self) -> int:
        return self._process.wait(LONGEST_S)

    def _read(self, wanted: bytes | None) -> bytes:
        seen, end = b"", time.monotonic() + LONGEST_S
        while wanted is None or wanted not in seen:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{wanted!r} is not shown: {seen!r}"
            try:
                data = os.read(self._screen, 65_536)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                assert wanted is None, f"{wanted!r} is not shown: {seen!r}"
                return seen
            seen += data
        return seen
