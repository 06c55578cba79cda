"""Timer thread of a runtime: held failures, the journal of open spans, collections of metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from spanbus._correlation.span_state import SpanState

logger = logging.getLogger("spanbus")

TICK_S = 0.25


class Keeper:
    """Daemon thread that calls ``tick`` with the result of ``changed`` every 0.25 s.

    ``changed`` is a method of a runtime. It is held weakly; the thread ends when the runtime is gone.
    """

    def __init__(
        self, changed: Callable[[], list[SpanState]], tick: Callable[[list[SpanState]], object]
    ) -> None:
        self._changed = WeakMethod(changed)
        self._tick = tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spanbus-keeper", daemon=True)

    def start(self) -> None:
        with suppress(RuntimeError):  # no more threads: metrics are collected only at the end
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(0.1)

    def _work(self) -> None:
        while not self._stop.wait(TICK_S):
            changed = self._changed()
            if changed is None:
                return
            try:
                self._tick(changed())
            except Exception as error:  # the thread must outlive its errors
                logger.debug("keeper", exc_info=error)
            del changed
