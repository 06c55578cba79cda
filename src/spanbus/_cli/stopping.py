"""Orderly end of a long-running command on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue


class Stop:
    """A stop flag that a signal handler may set.

    A ``threading.Event`` would deadlock: its lock is not reentrant, and the handler may run while the main thread is in
    ``wait``. ``SimpleQueue.put`` is reentrant.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Set the flag. May be called from a signal handler or any thread."""
        self._is_set = True
        self._woken.put(None)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait for the flag at most ``timeout_s`` and return it."""
        if not self._is_set:
            with suppress(Empty):
                self._woken.get(timeout=timeout_s)
        return self._is_set


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Yield a flag that SIGINT and SIGTERM set. The previous handlers are restored afterwards."""
    stop = Stop()

    def handle(number: int, frame: object) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
