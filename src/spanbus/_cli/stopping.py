"""A command that goes on until SIGINT or SIGTERM, and then ends in order."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue


class Stop:
    """Whether the command was told to stop.

    No ``threading.Event``: its lock is not reentrant, so that a handler which runs while the main thread is in ``wait`` would
    wait for itself. ``SimpleQueue.put`` may be called from a handler.
    """

    def __init__(self) -> None:
        self._told = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """May be called from a signal handler, or any thread."""
        self._told = True
        self._woken.put(None)

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._told

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is told, at most so long; whether it was."""
        if not self._told:
            with suppress(Empty):
                self._woken.get(timeout=timeout_s)
        return self._told


@contextmanager
def until_told() -> Generator[Stop]:
    """Set by SIGINT and SIGTERM, whose handlers are those from before afterwards."""
    stop = Stop()

    def told(number: int, frame: object) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
