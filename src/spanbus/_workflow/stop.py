"""Stop requests for a run: running tools get time to end, and further phases are not started.

The first request is gentle, later ones escalate. The caller signals the tools itself; this module only counts the requests
for the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio


class Stop:
    """Counter of stop requests. Use it in one event loop only."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.asked = 0
        self.at_once = False
        self._cancelled_up_to = 0
        self._listeners: list[Callable[[], None]] = []
        self._changed = anyio.Event()

    def ask(self, reason: str) -> None:
        """Request a stop; the reason of the first request is kept."""
        self.reason = self.reason or reason
        self.asked += 1
        self._notify()

    def time_is_up(self) -> None:
        """Cancel all work that was asked to stop so far; work that began later continues."""
        self._cancelled_up_to = self.asked
        self._notify()

    def end_all(self) -> None:
        """Cancel all work, and start nothing any more."""
        self.at_once = True
        self._notify()

    def ends(self, asked: int) -> bool:
        """Whether work that began after ``asked`` requests must be cancelled."""
        return self.at_once or asked < self._cancelled_up_to

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Generator[None]:
        """Context manager in which ``listener`` is called at every change."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def sleep(self, delay_s: float, asked: int) -> bool:
        """Sleep; return False at once if there are more than ``asked`` stop requests."""
        with anyio.move_on_after(delay_s):
            while self.asked <= asked:
                await self._changed.wait()
            return False
        return True

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        for listener in list(self._listeners):
            listener()
