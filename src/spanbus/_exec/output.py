"""Capture of a command's output: bytes are forwarded unchanged as they arrive, stdout and stderr separately.

A stream that goes to a terminal is captured by a pseudo-terminal, any other by a pipe. If stdout and stderr go to the same
place they share a channel, so that their order is kept. Closed streams stay closed.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from spanbus._exec.stderr import print_line
from spanbus._workflow.output import Lines, OutputSink, Tail

_CHUNK_BYTES = 65_536
_BACKLOG_CHARS = 32 * 2**20
"""Limit of lines without a sink; above it the command blocks, as it would on a slow disk."""
_REST_S = 0.5
"""Time to read the output of processes that outlive the command."""
_REST_BYTES = 2**20
_OPOST = 1
_EVENTS = select.POLLIN | select.POLLHUP | select.POLLERR
_STDOUT, _STDERR = 1, 2


class Channel:
    """One captured stream: ``numbers`` are the command's descriptors that write to it, ``to`` is our destination."""

    __slots__ = ("is_terminal", "lines", "numbers", "reading", "to", "writing")

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.to = numbers[0]
        self.is_terminal = os.isatty(self.to)
        self.reading, self.writing = _above_standard(
            os.openpty() if self.is_terminal else os.pipe()
        )
        self.lines: Lines | None = None
        if self.is_terminal:
            self._copy_settings()

    def resize(self) -> None:
        """Copy the terminal's size to the pseudo-terminal."""
        import fcntl
        import termios

        with suppress(OSError, termios.error):
            size = fcntl.ioctl(self.to, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.reading, termios.TIOCSWINSZ, size)

    def _copy_settings(self) -> None:
        """Copy the terminal's settings, except output processing, which the terminal does itself."""
        import termios

        with suppress(OSError, termios.error):
            settings = termios.tcgetattr(self.to)
            settings[_OPOST] &= ~termios.OPOST
            termios.tcsetattr(self.writing, termios.TCSANOW, settings)
        self.resize()

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


class Output:
    """Forwards output in background threads. Keeps its tail, and its lines until a sink takes them."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._tail = Tail()
        self._lines: deque[str] = deque()
        self._waiting_chars = 0
        self._changed = threading.Condition()
        self._sink: OutputSink | None = None
        self._is_over, self._over = _above_standard(os.pipe())
        self._running = 0
        self._wake: Callable[[], None] = _no_op

    @classmethod
    def opened(cls) -> Output | None:
        """Open channels for the open standard streams. Returns None if that fails; then output is not kept."""
        made: list[Channel] = []
        try:
            _check_threads()
            made.extend(Channel(numbers) for numbers in _streams())
            return cls(made) if made else None
        except (OSError, RuntimeError) as error:
            for channel in made:
                channel.close()
            print_line(f"the output of this command is not kept: {error}")
            return None

    def connect(self) -> None:
        """Redirect the standard streams to the channels. Call in the process of the command."""
        for channel in self._channels:
            for number in channel.numbers:
                os.dup2(channel.writing, number)

    def begin(self, wake: Callable[[], None]) -> None:
        """Start forwarding; ``wake`` is called when all output has been written."""
        self._wake = wake
        for channel in self._channels:
            os.close(channel.writing)
            channel.lines = Lines(self._take)
        self._running = len(self._channels)
        waiting = list(self._channels)
        while waiting:
            try:
                threading.Thread(
                    target=self._pass_on, args=(waiting[:1],), name="spanbus-output", daemon=True
                ).start()
            except RuntimeError:  # no thread can be started: signals wait until the output ends
                self._pass_on(waiting)
                return
            del waiting[0]

    def resize(self) -> bool:
        """Copy the terminal's new size. Returns whether the command has a pseudo-terminal, so that it needs a SIGWINCH."""
        terminals = [channel for channel in self._channels if channel.is_terminal]
        for channel in terminals:
            channel.resize()
        return bool(terminals)

    def end(self) -> None:
        """Stop after the command's own output; processes that outlive it are not waited for."""
        with suppress(OSError):
            os.write(self._over, b".")

    def busy(self) -> bool:
        """Whether output is still being forwarded."""
        return self._running > 0

    def tail(self) -> str:
        """Return the end of the output."""
        with self._changed:
            return self._tail.text()

    def keep(self, sink: OutputSink) -> None:
        """Pass all lines to ``sink``, earlier ones first."""
        with self._changed:
            while self._lines:
                sink(self._lines.popleft())
            self._waiting_chars = 0
            self._sink = sink
            self._changed.notify_all()

    def forget(self) -> None:
        """Discard all lines."""
        self.keep(_discard)

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _pass_on(self, channels: Sequence[Channel]) -> None:
        ours = {channel.reading: channel for channel in channels}
        poll = select.poll()
        for channel in channels:
            poll.register(channel.reading, select.POLLIN)
            poll.register(channel.to, 0)  # to notice that the reader has gone
        poll.register(self._is_over, select.POLLIN)
        until: float | None = None
        rest = 0
        while ours:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            found = poll.poll(None if left_s is None else left_s * 1e3)
            left = {number for number, event in found if not event & select.POLLIN}
            came = False
            for channel in list(ours.values()):
                data = b""
                if any(number == channel.reading and event & _EVENTS for number, event in found):
                    data = self._read(channel)
                    came, rest = True, rest + len(data)
                elif channel.to not in left:
                    continue
                if not data or not self._written(channel, data):
                    poll.unregister(channel.reading)
                    poll.unregister(channel.to)
                    del ours[channel.reading]
                    self._finish(channel)
            if until is None and any(number == self._is_over for number, _ in found):
                poll.unregister(self._is_over)
                until, rest = time.monotonic() + _REST_S, 0
            elif left_s == 0.0 and (not came or rest > _REST_BYTES):
                for channel in ours.values():
                    self._finish(channel)
                return

    def _read(self, channel: Channel) -> bytes:
        try:
            return os.read(channel.reading, _CHUNK_BYTES)
        except OSError:  # EIO: the last writer has closed the pseudo-terminal
            return b""

    def _written(self, channel: Channel, data: bytes) -> bool:
        """Write all of the data, however long that takes. Returns False if the destination is closed."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(channel.to, view) :]
            except BlockingIOError:
                ready = select.poll()
                ready.register(channel.to, select.POLLOUT)
                ready.poll()
            except OSError as error:
                if error.errno != errno.EPIPE:
                    print_line(f"the output cannot be written: {error.strerror}")
                return False
        with self._changed:
            self._tail.add(data)
            if channel.lines is not None:
                channel.lines.add(data)
        return True

    def _finish(self, channel: Channel) -> None:
        os.close(channel.reading)  # further writes fail, as they would without us
        with self._changed:
            if channel.lines is not None:
                channel.lines.end()
            self._running -= 1
        if not self._running:
            self._wake()

    def _take(self, line: str) -> None:
        """Take one line. Called with the lock held."""
        while self._sink is None and self._waiting_chars > _BACKLOG_CHARS:
            self._changed.wait()
        if self._sink is not None:
            self._sink(line)
            return
        self._lines.append(line)
        self._waiting_chars += len(line) + 1


def _streams() -> list[tuple[int, ...]]:
    """Return the open ones of stdout and stderr, grouped by destination."""
    places: dict[tuple[int, int], list[int]] = {}
    for number in (_STDOUT, _STDERR):
        with suppress(OSError):
            status = os.fstat(number)
            places.setdefault((status.st_dev, status.st_ino), []).append(number)
    return [tuple(numbers) for numbers in places.values()]


def _above_standard(pair: tuple[int, int]) -> tuple[int, int]:
    """Duplicate the descriptors to numbers above the standard streams, some of which may be closed."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    reading, writing = (fcntl(number, F_DUPFD_CLOEXEC, _STDERR + 1) for number in pair)
    for number in pair:
        os.close(number)
    return reading, writing


def _check_threads() -> None:
    """Raise ``RuntimeError`` if no thread can be started."""
    thread = threading.Thread(target=_no_op, daemon=True)
    thread.start()
    thread.join()


def _no_op() -> None:
    pass


def _discard(line: str) -> None:
    del line


def is_wanted(text: str) -> bool:
    """Whether the value of ``SPANBUS_KEEP_OUTPUT`` is true. An invalid value is reported."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word not in ("", "0", "false", "no", "off"):
        print_line(f"SPANBUS_KEEP_OUTPUT={text!r}: must be true or false")
    return False
