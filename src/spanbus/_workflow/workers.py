"""Background of a bus: queues are served, and handlers that failed are tried again, in the event loop of each subscription."""

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
"""The workers, by identity, that the running code is called by."""


class EventDropped(BusError):
    """The queue of a subscription was full, and its policy gave this event up."""


class Workers:
    """Starts, for each subscriber, as many workers as its queue needs within ``max_concurrent``; ``lock`` is the bus's.

    Workers are children of the bus's block while there is one, else tasks of their own in the subscriber's event loop.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._group: TaskGroup | None = None
        self.home: LoopHandle | None = None
        """The event loop of the bus's block."""
        self.handled = self.failed = self.retried = self.dropped = 0

    # --- the bus's block ----------------------------------------------------------------------------------------------

    def enter(self, group: TaskGroup) -> None:
        """From now on workers are children of ``group``."""
        self._group, self.home = group, LoopHandle()

    def leave(self) -> LoopHandle | None:
        """The event loop of the block that ends here."""
        home, self._group, self.home = self.home, None, None
        return home

    # --- queues -------------------------------------------------------------------------------------------------------

    def enqueue(self, subscriber: Subscriber, delivery: Delivery) -> None:
        """Put it into the queue, or drop what the subscriber's policy gives up."""
        gone: Delivery | None = None
        with self._lock:
            delivery.receipt.expect()
            if len(subscriber.queue) >= subscriber.queue_size and subscriber.when_full != "wait":
                newest = subscriber.when_full == "drop_newest"
                gone = delivery if newest else subscriber.queue.popleft()
                subscriber.dropped += 1
                self.dropped += 1
            if gone is not delivery:
                subscriber.queue.append(delivery)
        if gone is not None:
            gone.close()
            error = EventDropped(
                f"the queue of {subscriber.id} holds {subscriber.queue_size} events and drops ({subscriber.when_full})"
            )
            gone.receipt.finish(EventHandlerResult(subscriber.id, False, error, 0))
        self.serve(subscriber)

    async def wait_for_room(self, subscribers: Sequence[Subscriber]) -> None:
        """Wait until no queue whose policy is ``wait`` is over full; at once for a handler of this bus."""
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
        """The block was left cancelled or by an exception: nobody comes for what is queued, and nobody shall wait for it."""
        for subscriber in served:
            with self._lock:
                left, room = list(subscriber.queue), subscriber.take_room()
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
        """Event loop for this subscriber: its own, else the bus's, else the running one."""
        with self._lock:
            if subscriber.home is None or subscriber.home.is_closed():
                subscriber.lost_home()
                subscriber.home = self.home or LoopHandle.current()
            return subscriber.home

    def serve(self, subscriber: Subscriber) -> None:
        """Start workers as the queue needs them."""
        with self._lock:
            wanted = min(
                len(subscriber.queue),
                subscriber.max_concurrent - subscriber.running - subscriber.starting,
            )
            if wanted <= subscriber.starting:
                return
            home = self.home_of(subscriber)
            if home is None:  # no event loop yet: the next publish in a loop starts the worker
                return
            subscriber.starting += 1
        start = functools.partial(self._start, subscriber, home)
        if not self._called(subscriber, home, start) and LoopHandle.current() is not None:
            self.serve(subscriber)

    def _called(self, subscriber: Subscriber, home: LoopHandle, start: Callable[[], None]) -> bool:
        """Call ``start`` in its event loop; False for one that is closed."""
        if home.is_here():
            start()
            return True
        try:
            home.call(start)
        except LoopClosed:
            with self._lock:
                subscriber.lost_home()
            return False
        return True

    def _spawn(self, home: LoopHandle, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run ``work`` as a child of the bus's block, where that is in this loop."""
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
        """Worker: deliver until the queue is empty; the next event starts another."""
        token = _inside.set(_inside.get() | {id(self)})
        try:
            while True:
                with self._lock:
                    if not subscriber.queue:
                        subscriber.running -= 1
                        return
                    delivery = subscriber.queue.popleft()
                    room = subscriber.take_room()
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
            self._gave_up(
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
        """Count and log an error that is the last word."""
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
        """Queue it again after ``delay_s``, which holds no slot."""
        with self._lock:
            subscriber.retrying += 1
            self.retried += 1

        async def wait() -> None:
            try:
                await anyio.sleep(delay_s)
            except BaseException as error:  # cancelled; those that await the result shall have it
                self._gave_up(subscriber, delivery, error)
                raise
            finally:
                with self._lock:
                    subscriber.retrying -= 1
            with self._lock:
                again = delivery._replace(attempt=delivery.attempt + 1, started=None)
                subscriber.queue.append(again)
            self.serve(subscriber)

        while (home := self.home_of(subscriber)) is not None:
            if self._called(subscriber, home, functools.partial(self._spawn, home, wait)):
                return
        with self._lock:
            subscriber.retrying -= 1
        error = BusError(f"{subscriber.id} cannot be retried: no event loop runs any more")
        self._gave_up(subscriber, delivery, error)

    def _gave_up(self, subscriber: Subscriber, delivery: Delivery, error: BaseException) -> None:
        """Record the failure of a delivery that will not be tried again, without a line in the log."""
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
