"""Background workers of a bus: they serve queues and retry failed handlers, in the event loop of each subscription."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from time import perf_counter_ns

import anyio
from anyio.abc import TaskGroup

from spanbus._workflow.events import Event
from spanbus._workflow.loops import LoopClosed, LoopHandle, cancelled_from_outside
from spanbus._workflow.receipts import EventHandlerResult, wake
from spanbus._workflow.subscribers import Delivery, Subscriber
from spanbus.errors import BusError

logger = logging.getLogger(__name__)

_inside: ContextVar[frozenset[int]] = ContextVar("spanbus_inside_bus", default=frozenset())
"""``id()`` of the :class:`Workers` that call the current code."""


class EventDropped(BusError):
    """An event was dropped because the queue of a subscription was full or the bus was left."""


class Workers:
    """Starts as many workers for each subscriber as its queue needs, up to ``max_concurrent``; ``lock`` is the bus's.

    Workers are child tasks of the bus's ``async with`` block if there is one, else tasks in the subscriber's event loop.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._group: TaskGroup | None = None
        self.home: LoopHandle | None = None
        """Event loop of the ``async with`` block."""
        self.handled = self.failed = self.retried = self.dropped = 0

    # --- the bus's block ----------------------------------------------------------------------------------------------

    def enter(self, group: TaskGroup) -> None:
        """Start workers in ``group`` from now on."""
        self._group, self.home = group, LoopHandle()

    def leave(self) -> LoopHandle | None:
        """Stop using the task group; return the event loop of its block."""
        home, self._group, self.home = self.home, None, None
        return home

    # --- queues -------------------------------------------------------------------------------------------------------

    def enqueue(self, subscriber: Subscriber, delivery: Delivery) -> None:
        """Queue a delivery; if the queue is full, drop one by the subscriber's policy."""
        dropped_delivery: Delivery | None = None
        with self._lock:
            delivery.receipt.expect()
            if len(subscriber.queue) >= subscriber.queue_size and subscriber.when_full != "wait":
                newest = subscriber.when_full == "drop_newest"
                dropped_delivery = delivery if newest else subscriber.queue.popleft()
                subscriber.dropped += 1
                self.dropped += 1
            if dropped_delivery is not delivery:
                subscriber.queue.append(delivery)
        if dropped_delivery is not None:
            dropped_delivery.close()
            error = EventDropped(
                f"the queue of {subscriber.id} holds {subscriber.queue_size} events and drops ({subscriber.when_full})"
            )
            dropped_delivery.receipt.finish(EventHandlerResult(subscriber.id, False, error, 0))
        self.serve(subscriber)

    async def wait_for_room(self, subscribers: Sequence[Subscriber]) -> None:
        """Wait for space in the queues with the policy ``wait``. A handler of this bus does not wait, to avoid a deadlock."""
        if id(self) in _inside.get():
            return
        for subscriber in subscribers:
            while subscriber.queued and subscriber.when_full == "wait":
                with self._lock:
                    if len(subscriber.queue) <= subscriber.queue_size:
                        break
                    happened = anyio.Event()
                    subscriber.room.append((LoopHandle(), happened))
                await happened.wait()

    def abandon(self, served: Sequence[Subscriber]) -> None:
        """Drop all queued deliveries, because the block was cancelled or left by an exception."""
        for subscriber in served:
            with self._lock:
                left, room = list(subscriber.queue), subscriber.take_waiters()
                subscriber.queue.clear()
                subscriber.dropped += len(left)
                self.dropped += len(left)
            error = EventDropped(f"the bus was left before {subscriber.id} came to this event")
            for delivery in left:
                delivery.close()
                _finish(subscriber, delivery, delivery.attempt - 1, delivery.spent_ns, error)
            wake(room)

    # --- workers ------------------------------------------------------------------------------------------------------

    def home_of(self, subscriber: Subscriber) -> LoopHandle | None:
        """Return the event loop for a subscriber: its own, else the bus's, else the running one."""
        with self._lock:
            if subscriber.home is None or subscriber.home.is_closed():
                subscriber.reset_loop()
                subscriber.home = self.home or LoopHandle.current()
            return subscriber.home

    def serve(self, subscriber: Subscriber) -> None:
        """Start a worker if the queue needs one."""
        with self._lock:
            wanted = min(
                len(subscriber.queue),
                subscriber.max_concurrent - subscriber.running - subscriber.starting,
            )
            if wanted <= subscriber.starting:
                return
            home = self.home_of(subscriber)
            if home is None:  # the next publish in an event loop starts the worker
                return
            subscriber.starting += 1
        start = functools.partial(self._start, subscriber, home)
        if not self._call_in_loop(subscriber, home, start) and LoopHandle.current() is not None:
            self.serve(subscriber)

    def _call_in_loop(
        self, subscriber: Subscriber, home: LoopHandle, start: Callable[[], None]
    ) -> bool:
        """Call ``start`` in the event loop; return False if the loop is closed."""
        if home.is_here():
            start()
            return True
        try:
            home.call(start)
        except LoopClosed:
            with self._lock:
                subscriber.reset_loop()
            return False
        return True

    def _spawn(self, home: LoopHandle, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run ``work`` in the bus's task group if that is in this event loop, else as a task of its own."""
        if self._group is not None and self.home is home:
            self._group.start_soon(work)
        else:
            home.spawn(work)

    def _start(self, subscriber: Subscriber, home: LoopHandle) -> None:
        with self._lock:
            subscriber.starting = max(0, subscriber.starting - 1)
            subscriber.running += 1
        self._spawn(home, functools.partial(self._work, subscriber))

    async def _work(self, subscriber: Subscriber) -> None:
        """Deliver until the queue is empty; the next event starts another worker."""
        token = _inside.set(_inside.get() | {id(self)})
        try:
            while True:
                with self._lock:
                    if not subscriber.queue:
                        subscriber.running -= 1
                        return
                    delivery = subscriber.queue.popleft()
                    room = subscriber.take_waiters()
                wake(room)
                if len(subscriber.queue) and subscriber.max_concurrent > 1:
                    self.serve(subscriber)
                await self._deliver(subscriber, delivery)
        except BaseException:
            with self._lock:
                subscriber.running -= 1
            raise
        finally:
            _inside.reset(token)

    async def _deliver(self, subscriber: Subscriber, delivery: Delivery) -> None:
        event, _, attempt, spent_ns, started = delivery
        began_ns = perf_counter_ns()
        try:
            value = started if started is not None else subscriber.handler(event)
            if inspect.isawaitable(value):
                await value
        except Exception as error:
            spent_ns += perf_counter_ns() - began_ns
            delay_s = subscriber.retry.delay_s(attempt)
            if delay_s is not None:
                self.retry_later(
                    subscriber, delivery._replace(spent_ns=spent_ns, started=None), delay_s
                )
                return
            self.handler_failed(subscriber, event, error, attempt)
            _finish(subscriber, delivery, attempt, spent_ns, error)
        except BaseException as error:  # cancelled: recorded as a failure
            self._record_failure(
                subscriber,
                delivery._replace(spent_ns=spent_ns + perf_counter_ns() - began_ns),
                error,
            )
            if isinstance(error, anyio.get_cancelled_exc_class()) and not cancelled_from_outside():
                return
            raise
        else:
            with self._lock:
                self.handled += 1
            _finish(subscriber, delivery, attempt, spent_ns + perf_counter_ns() - began_ns)

    # --- failures -----------------------------------------------------------------------------------------------------

    def handler_failed(
        self, subscriber: Subscriber, event: Event, error: Exception, attempts: int
    ) -> None:
        """Count and log a final failure."""
        with self._lock:
            self.failed += 1
        name = subscriber.description or getattr(
            subscriber.handler, "__qualname__", type(subscriber.handler).__name__
        )
        logger.error(
            "handler %s failed on %s after %d attempt(s)",
            name,
            event.event_type,
            attempts,
            exc_info=error,
        )

    def retry_later(self, subscriber: Subscriber, delivery: Delivery, delay_s: float) -> None:
        """Queue a delivery again after ``delay_s`` seconds, during which it does not count as running."""
        with self._lock:
            subscriber.retrying += 1
            self.retried += 1

        async def wait() -> None:
            try:
                await anyio.sleep(delay_s)
            except BaseException as error:  # cancelled: finish the receipt for its waiters
                self._record_failure(subscriber, delivery, error)
                raise
            finally:
                with self._lock:
                    subscriber.retrying -= 1
            with self._lock:
                again = delivery._replace(attempt=delivery.attempt + 1, started=None)
                subscriber.queue.append(again)
            self.serve(subscriber)

        while (home := self.home_of(subscriber)) is not None:
            if self._call_in_loop(subscriber, home, functools.partial(self._spawn, home, wait)):
                return
        with self._lock:
            subscriber.retrying -= 1
        error = BusError(f"{subscriber.id} cannot be retried: no event loop runs any more")
        self._record_failure(subscriber, delivery, error)

    def _record_failure(
        self, subscriber: Subscriber, delivery: Delivery, error: BaseException
    ) -> None:
        """Record the failure of a delivery that is not retried, without logging it."""
        with self._lock:
            self.failed += 1
        _finish(subscriber, delivery, delivery.attempt, delivery.spent_ns, error)


def _finish(
    subscriber: Subscriber,
    delivery: Delivery,
    attempts: int,
    spent_ns: int,
    error: BaseException | None = None,
) -> None:
    result = EventHandlerResult(subscriber.id, error is None, error, attempts, spent_ns / 1e9)
    delivery.receipt.finish(result)
