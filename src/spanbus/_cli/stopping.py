"""Orderly stop of a long-running command on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue


class Stop:
    """Stop flag that a signal handler may set.

    Not a ``threading.Event``: its lock is not reentrant, so a handler that runs while the main thread is in ``wait`` would
    deadlock. ``SimpleQueue.put`` is reentrant.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Set the flag, from a signal handler or any thread."""
        self._is_set = True
        self._woken.put(None)

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait until the flag is set, at most ``timeout_s`` seconds; return whether it is."""
        if not self._is_set:
            with suppress(Empty):
                self._woken.get(timeout=timeout_s)
        return self._is_set


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Yield a flag that SIGINT and SIGTERM set; restore their handlers afterwards."""
    stop = Stop()

    def handler(number: int, frame: object) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
