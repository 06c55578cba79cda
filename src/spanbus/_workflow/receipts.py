"""Results of the handlers of one event, those of the background included."""

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
    """Outcome of one handler for one event. ``None`` as return value is success; being cancelled is not.

    ``attempts`` counts tries from 1 (0: dropped before the first); ``duration_s`` is the time in the handler, all
    attempts together, without waits.
    """

    subscription_id: str
    success: bool
    error: BaseException | None = None
    attempts: int = 1
    duration_s: float = 0.0


class _Pending:
    """Results of the handlers of one event that run in the background."""

    __slots__ = ("expected", "lock", "results", "waiters")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.expected = 0
        self.results: list[EventHandlerResult] = []
        self.waiters: list[Waiter] = []

    def done(self) -> bool:
        return len(self.results) >= self.expected


class Receipt:
    """Return value of ``publish``; awaiting it gives the results of all handlers of that event."""

    _pending: _Pending | None = None
    _errors: dict[int, BaseException | None] | None = None
    """Error by the subscriber's index; None where there is no result of the publisher's own call, or none yet."""

    def __init__(self, event: Event, subscribers: Sequence[Subscriber], marks: list[int]) -> None:
        self.event = event
        self._subscribers = subscribers
        self.marks = marks
        """The monotonic clock in nanoseconds before the first subscriber and after each."""

    def done(self) -> bool:
        """Whether all handlers have finished."""
        return self._pending is None or self._pending.done()

    def results(self) -> list[EventHandlerResult]:
        """The results so far: observers in order, then the others as they finished."""
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
        """Note the error of the subscriber that the last mark is of."""
        if self._errors is None:
            self._errors = {}
        self._errors[len(self.marks) - 2] = error

    def not_here(self) -> int:
        """Leave out the subscriber that the last mark is of; the time that it took, in nanoseconds."""
        self.failed(None)
        return self.marks[-1] - self.marks[-2]

    def expect(self) -> None:
        """One more result comes from the background."""
        if self._pending is None:
            self._pending = _Pending()
        self._pending.expected += 1

    def finish(self, result: EventHandlerResult) -> None:
        """Take a result from the background, and wake those that wait when it is the last."""
        pending = self._pending
        assert pending is not None
        with pending.lock:
            pending.results.append(result)
            waiters = pending.waiters if pending.done() else []
            pending.waiters = [] if waiters else pending.waiters
        wake(waiters)


def wake(waiters: Sequence[Waiter]) -> None:
    """Set each event in its own loop; one whose loop is closed has nobody who waits."""
    for handle, happened in waiters:
        try:
            handle.call(happened.set)
        except LoopClosed:
            continue
