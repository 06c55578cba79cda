"""Watch the asyncio tasks that opened runs and phases: without an end event, the end of the task decides their result.

A grace period of a second comes first, because the code that awaits the task often publishes the end or retries.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from spanbus._attaching.opened import Opened
from spanbus._correlation.span_state import SpanState
from spanbus._loaded import is_instance_of, running_loop
from spanbus._named_tuple import NamedTuple
from spanbus._semantics import ErrorType, Failure, Result, class_name

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

_GRACE_NS = 1_000_000_000

Leave = Callable[[list[SpanState], BaseException | None], None]


class _EndedTask(NamedTuple):
    """An ended task and the records that it left open."""

    due_ns: int
    loop: AbstractEventLoop
    records: list[SpanState]
    error: BaseException | None


class TaskEnds:
    """Watches tasks, with weak references. After the grace period ``tick`` passes what they left open to ``leave``."""

    def __init__(self, leave: Leave) -> None:
        self._leave = leave
        self._opened: weakref.WeakKeyDictionary[Task[object], Opened] = weakref.WeakKeyDictionary()
        self._ended: list[_EndedTask] = []
        self._lock = threading.Lock()

    def opened(self, task: Task[object], record: SpanState) -> None:
        """Register that ``task`` opened ``record``."""
        if task.done():
            return
        records = self._opened.get(task)
        if records is None:
            records = self._opened[task] = Opened()
            known, opened, loop = weakref.ref(self), records, task.get_loop()

            def done(error: BaseException | None) -> None:
                ends = known()
                if ends is not None:
                    ends.ended(loop, opened, error)

            _when_done(task, done)
        if record not in records:
            records.add(record)

    def ended(
        self, loop: AbstractEventLoop, records: list[SpanState], error: BaseException | None
    ) -> None:
        left = [one for one in records if one.result is None]
        if left:
            with self._lock:
                self._ended.append(_EndedTask(time.monotonic_ns() + _GRACE_NS, loop, left, error))

    def tick(self, *, at_end: bool = False) -> None:
        """Process tasks whose grace period is over. ``at_end`` and closed event loops end the grace period at once."""
        if not self._ended:
            return
        now_ns = time.monotonic_ns()
        with self._lock:
            over = [
                one for one in self._ended if at_end or one.due_ns <= now_ns or one.loop.is_closed()
            ]
            self._ended = [one for one in self._ended if one not in over]
        for one in over:
            self._leave(one.records, one.error)


def ended_with(error: BaseException | None) -> tuple[Result, Failure | None]:
    """Return the result and failure of work whose task or stream ended with ``error``."""
    if error is None:
        return Result.SUCCESS, None
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or _is_cancellation(error):
        return Result.CANCELLATION, None
    try:
        message = str(error)
    except Exception:  # a broken __str__ of a foreign exception
        message = ""
    if isinstance(error, TimeoutError):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message or None)
    return Result.FAILURE, Failure(class_name(type(error)), message or None)


def _is_cancellation(error: BaseException) -> bool:
    """Whether this is a cancellation of asyncio or trio; neither is imported for the check."""
    kind = type(error)
    return is_instance_of(error, "asyncio", "CancelledError") or (
        kind.__name__ == "Cancelled" and kind.__module__.partition(".")[0] == "trio"
    )


def _when_done(task: Task[object], call: Callable[[BaseException | None], None]) -> None:
    """Call ``call`` with the exception, or None, when an asyncio task ends."""
    from asyncio import CancelledError  # already loaded, since there is a task

    def done(ended: Task[object]) -> None:
        # task.exception() would mark the exception as retrieved, and asyncio would no longer log it
        call(CancelledError() if ended.cancelled() else getattr(ended, "_exception", None))

    loop = task.get_loop()
    if running_loop() is loop:
        task.add_done_callback(done)
    else:
        loop.call_soon_threadsafe(task.add_done_callback, done)
