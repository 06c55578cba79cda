"""Receipts: the results of all handlers of one event, including those in the background."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio

from spanbus._workflow.loops import LoopClosed, LoopHandle

if TYPE_CHECKING:
    from spanbus._workflow.events import Event
    from spanbus._workflow.subscribers import Subscriber

Waiter = tuple[LoopHandle, anyio.Event]


@dataclass(frozen=True, slots=True)
class EventHandlerResult:
    """Outcome of one handler for one event. Returning ``None`` is success; cancellation is a failure.

    ``attempts`` counts from 1; 0 means dropped before the first attempt. ``duration_s`` is the time in the handler over all
    attempts, without waits.
    """

    subscription_id: str
    success: bool
    error: BaseException | None = None
    attempts: int = 1
    duration_s: float = 0.0


class _Pending:
    """Results of background handlers of one event."""

    __slots__ = ("expected", "lock", "results", "waiters")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.expected = 0
        self.results: list[EventHandlerResult] = []
        self.waiters: list[Waiter] = []

    def done(self) -> bool:
        return len(self.results) >= self.expected


class Receipt:
    """Return value of ``publish``. Awaiting it waits for all handlers and returns their results."""

    _pending: _Pending | None = None
    _errors: dict[int, BaseException | None] | None = None
    """Errors by subscriber index; None for a subscriber without a direct result."""

    def __init__(self, event: Event, subscribers: Sequence[Subscriber], marks: list[int]) -> None:
        self.event = event
        self._subscribers = subscribers
        self.marks = marks
        """Monotonic times in nanoseconds: before the first subscriber, and after each."""

    def done(self) -> bool:
        """Whether all handlers have finished."""
        return self._pending is None or self._pending.done()

    def results(self) -> list[EventHandlerResult]:
        """Return the results so far: observers in order, then background handlers as they finished."""
        errors = self._errors or {}
        found = [
            EventHandlerResult(subscriber.id, error is None, error, 1, (after - before) / 1e9)
            for place, (subscriber, (before, after)) in enumerate(
                zip(self._subscribers, pairwise(self.marks), strict=False)
            )
            if (error := errors.get(place)) is not None or place not in errors
        ]
        return found + list(self._pending.results) if self._pending is not None else found

    def __await__(self) -> Generator[object, None, list[EventHandlerResult]]:
        return self._wait().__await__()

    async def _wait(self) -> list[EventHandlerResult]:
        pending = self._pending
        if pending is not None and not pending.done():
            handle = LoopHandle()
            happened = anyio.Event()
            with pending.lock:
                waiting = not pending.done()
                if waiting:
                    pending.waiters.append((handle, happened))
            if waiting:
                await happened.wait()
        return self.results()

    # --- for the bus --------------------------------------------------------------------------------------------------

    def failed(self, error: BaseException | None) -> None:
        """Record the error of the subscriber of the last mark."""
        if self._errors is None:
            self._errors = {}
        self._errors[len(self.marks) - 2] = error

    def exclude_last(self) -> int:
        """Record no direct result for the subscriber of the last mark; return the time that it took, in nanoseconds."""
        self.failed(None)
        return self.marks[-1] - self.marks[-2]

    def expect(self) -> None:
        """Expect one more result from the background."""
        if self._pending is None:
            self._pending = _Pending()
        self._pending.expected += 1

    def finish(self, result: EventHandlerResult) -> None:
        """Add a background result, and wake the waiters if it is the last one."""
        pending = self._pending
        assert pending is not None
        with pending.lock:
            pending.results.append(result)
            waiters = pending.waiters if pending.done() else []
            pending.waiters = [] if waiters else pending.waiters
        wake(waiters)


def wake(waiters: Sequence[Waiter]) -> None:
    """Set each event in its own event loop; closed loops are skipped."""
    for handle, happened in waiters:
        try:
            handle.call(happened.set)
        except LoopClosed:
            continue
