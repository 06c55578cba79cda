"""A command's output on its way through us, to be kept: every byte goes on as it comes, stdout and stderr apart.

A stream that goes to a terminal comes by a pseudo-terminal, any other by a pipe; where stdout and stderr go to the same place,
both come by the same one, so that their order stays. Closed streams stay closed.
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

from spanbus._exec.say import say
from spanbus._workflow.output import Lines, OutputSink, Tail

_CHUNK_BYTES = 65_536
_BACKLOG_CHARS = 32 * 2**20
"""Above it the command waits until somebody takes its lines, as it would for a full disk."""
_REST_S = 0.5
"""For what processes still write that the command has left behind."""
_REST_BYTES = 2**20
_OPOST = 1
_EVENTS = select.POLLIN | select.POLLHUP | select.POLLERR
_STDOUT, _STDERR = 1, 2


class Channel:
    """One way of output: ``numbers`` are the command's descriptors that write to it, ``to`` is ours where it goes."""

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
            self._as_ours()

    def resize(self) -> None:
        """Give the pseudo-terminal the size of the terminal."""
        import fcntl
        import termios

        with suppress(OSError, termios.error):
            size = fcntl.ioctl(self.to, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.reading, termios.TIOCSWINSZ, size)

    def _as_ours(self) -> None:
        """The terminal's settings, but for what it will do with the bytes itself."""
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
    """Passes output on in threads of its own, and keeps its end and, until somebody takes them, its lines."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._tail = Tail()
        self._lines: deque[str] = deque()
        self._waiting_chars = 0
        self._changed = threading.Condition()
        self._sink: OutputSink | None = None
        self._is_over, self._over = _above_standard(os.pipe())
        self._running = 0
        self._wake: Callable[[], None] = _nobody

    @classmethod
    def opened(cls) -> Output | None:
        """Ways for the streams that are open; None where none can be had, for which the command does not wait."""
        made: list[Channel] = []
        try:
            _check_threads()
            made.extend(Channel(numbers) for numbers in _streams())
            return cls(made) if made else None
        except (OSError, RuntimeError) as error:
            for channel in made:
                channel.close()
            say(f"the output of this command is not kept: {error}")
            return None

    def connect(self) -> None:
        """In the process of the command: its streams are ours."""
        for channel in self._channels:
            for number in channel.numbers:
                os.dup2(channel.writing, number)

    def begin(self, wake: Callable[[], None]) -> None:
        """Pass output on from here; ``wake`` is called when all of it has gone."""
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
            except RuntimeError:  # none is to be had any more: signals wait until the output ends
                self._pass_on(waiting)
                return
            del waiting[0]

    def resize(self) -> bool:
        """The terminal has another size; whether the command has to be told by us."""
        terminals = [channel for channel in self._channels if channel.is_terminal]
        for channel in terminals:
            channel.resize()
        return bool(terminals)

    def end(self) -> None:
        """The command has ended: what it wrote is passed on, what it left behind is not waited for."""
        with suppress(OSError):
            os.write(self._over, b".")

    def busy(self) -> bool:
        """Whether some of it is still on its way."""
        return self._running > 0

    def tail(self) -> str:
        """The end of what was written."""
        with self._changed:
            return self._tail.text()

    def keep(self, sink: OutputSink) -> None:
        """Give every line to ``sink``, those that came before it first."""
        with self._changed:
            while self._lines:
                sink(self._lines.popleft())
            self._waiting_chars = 0
            self._sink = sink
            self._changed.notify_all()

    def forget(self) -> None:
        """No line is wanted, now or later."""
        self.keep(_nowhere)

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _pass_on(self, channels: Sequence[Channel]) -> None:
        ours = {channel.reading: channel for channel in channels}
        poll = select.poll()
        for channel in channels:
            poll.register(channel.reading, select.POLLIN)
            poll.register(channel.to, 0)  # a reader that leaves is told
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
        except OSError:  # EIO: the last one has closed a pseudo-terminal
            return b""

    def _written(self, channel: Channel, data: bytes) -> bool:
        """Write all of it, however long that takes; False where nobody takes it any more."""
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
                    say(f"the output cannot be written: {error.strerror}")
                return False
        with self._changed:
            self._tail.add(data)
            if channel.lines is not None:
                channel.lines.add(data)
        return True

    def _finish(self, channel: Channel) -> None:
        os.close(channel.reading)  # who writes on is told, as it would be without us
        with self._changed:
            if channel.lines is not None:
                channel.lines.end()
            self._running -= 1
        if not self._running:
            self._wake()

    def _take(self, line: str) -> None:
        """One line, with the lock held."""
        while self._sink is None and self._waiting_chars > _BACKLOG_CHARS:
            self._changed.wait()
        if self._sink is not None:
            self._sink(line)
            return
        self._lines.append(line)
        self._waiting_chars += len(line) + 1


def _streams() -> list[tuple[int, ...]]:
    """The open ones of stdout and stderr, together where they go to the same place."""
    places: dict[tuple[int, int], list[int]] = {}
    for number in (_STDOUT, _STDERR):
        with suppress(OSError):
            status = os.fstat(number)
            places.setdefault((status.st_dev, status.st_ino), []).append(number)
    return [tuple(numbers) for numbers in places.values()]


def _above_standard(pair: tuple[int, int]) -> tuple[int, int]:
    """The same descriptors, none of which has the number of a standard stream that is closed."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    reading, writing = (fcntl(number, F_DUPFD_CLOEXEC, _STDERR + 1) for number in pair)
    for number in pair:
        os.close(number)
    return reading, writing


def _check_threads() -> None:
    """Raise ``RuntimeError`` where there is no thread to be had."""
    thread = threading.Thread(target=_nobody, daemon=True)
    thread.start()
    thread.join()


def _nobody() -> None:
    """Nobody waits."""


def _nowhere(line: str) -> None:
    del line


def is_wanted(text: str) -> bool:
    """Whether the variable ``SPANBUS_KEEP_OUTPUT`` asks for it; what cannot be understood is told."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word not in ("", "0", "false", "no", "off"):
        say(f"SPANBUS_KEEP_OUTPUT={text!r}: must be true or false")
    return False
