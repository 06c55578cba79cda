"""A request from outside to end a run: tools are told and get time, what has not started stays undone.

The first request asks, the ones after it insist. Whoever makes them tells the tools (by signals) itself; here is only
kept how often it was asked, for the engine to see.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio


class Stop:
    """Stop requests to a run, counted; to be used in one event loop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.asked = 0
        self.at_once = False
        self._over = 0
        self._listeners: list[Callable[[], None]] = []
        self._changed = anyio.Event()

    def ask(self, reason: str) -> None:
        """Ask once more; the first reason stands."""
        self.reason = self.reason or reason
        self.asked += 1
        self._tell()

    def time_is_up(self) -> None:
        """Cancel all work that was asked to end so far; work that began after that goes on."""
        self._over = self.asked
        self._tell()

    def end_all(self) -> None:
        """Everything is cancelled, and nothing is started any more."""
        self.at_once = True
        self._tell()

    def ends(self, asked: int) -> bool:
        """Whether work that began after so many requests is to be cancelled."""
        return self.at_once or asked < self._over

    @contextmanager
    def told(self, listener: Callable[[], None]) -> Generator[None]:
        """Call ``listener`` at every change while the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def sleep(self, delay_s: float, asked: int) -> bool:
        """Wait; False when the run was asked to end more often than ``asked`` times."""
        with anyio.move_on_after(delay_s):
            while self.asked <= asked:
                await self._changed.wait()
            return False
        return True

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        for listener in list(self._listeners):
            listener()
