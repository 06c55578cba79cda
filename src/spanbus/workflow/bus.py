"""The event bus of a workflow: publishing never waits for those who listen.

A plain function is an *observer*: it is called at once, in the order of subscription, in the publisher's context. A
coroutine function has its own bounded queue, from which at most ``max_concurrent`` of its calls run side by side (1, the
default, keeps the order). Whatever a handler raises stays here: it is logged once with its traceback, and counted.
"""

# Bus, subscribers and receipts are friends.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter_ns, time_ns
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple, Self, cast

import anyio
from anyio.abc import TaskGroup

from spanbus.errors import BusError
from spanbus.workflow.current import current_scope
from spanbus.workflow.events import EMPTY, Event, WorkflowEvent, new_event_id
from spanbus.workflow.loops import LoopClosed, LoopHandle, cancelled_from_outside
from spanbus.workflow.retry import RetryPolicy

logger = logging.getLogger(__name__)

Handler = Callable[[Event], object]
Predicate = Callable[[Event], bool]
WhenFull = Literal["wait", "drop_oldest", "drop_newest"]

QUEUE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class EventHandlerResult:
    """How one handler fared with one event. ``None`` as return value is success; being cancelled is not.

    ``attempts`` counts tries from 1 (0: dropped before the first); ``duration_s`` is the time in the handler, all attempts together, without waits.
    """

    subscription_id: str
    success: bool
    error: BaseException | None = None
    attempts: int = 1
    duration_s: float = 0.0


class EventDropped(BusError):
    """The queue of a subscription was full, and its policy gave this event up."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What :meth:`WorkflowEventBus.list_subscriptions` tells of a subscription."""

    id: str
    event_type: str | None
    description: str | None
    max_concurrent: int
    max_retries: int
    queued: int
    dropped: int


class BusStatistics(NamedTuple):
    """Counts since the bus was made."""

    published: int
    subscriptions: int
    queued: int
    running: int
    handled: int
    failed: int
    retried: int
    dropped: int


_inside: ContextVar[frozenset[int]] = ContextVar("spanbus_inside_bus", default=frozenset())


class _Later:
    """The handlers of one event that finish later."""

    __slots__ = ("expected", "lock", "results", "waiters")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.expected = 0
        self.results: list[EventHandlerResult] = []
        self.waiters: list[tuple[LoopHandle, anyio.Event]] = []

    def done(self) -> bool:
        return len(self.results) >= self.expected


class Receipt:
    """What ``publish`` returns at once; awaiting it gives the results of all handlers of that event."""

    # One is made for every event: what is rare is set only where it happens.
    __slots__ = ("_errors", "_later", "_marks", "_observers", "event")
    event: Event
    _observers: Sequence[_Subscriber]
    _marks: list[int]
    """The monotonic clock in nanoseconds before the first observer and after each."""
    _later: _Later | None
    _errors: dict[int, BaseException | None] | None
    """By its place among the observers: why it failed, or None when what it began goes on elsewhere."""

    def __getattr__(self, name: str) -> None:
        if name not in ("_errors", "_later"):  # None as long as they are not set
            raise AttributeError(f"a receipt has no {name}", name=name, obj=self)

    def done(self) -> bool:
        """Whether all handlers have finished."""
        return self._later is None or self._later.done()

    def results(self) -> list[EventHandlerResult]:
        """The results so far: observers in order, then the others as they finished."""
        marks, errors = self._marks, self._errors or {}
        found: list[EventHandlerResult] = []
        for place, subscriber in enumerate(self._observers[: len(marks) - 1]):
            error = errors.get(place)
            if error is not None or place not in errors:
                found.append(EventHandlerResult(subscriber.id, error is None, error, 1, (marks[place + 1] - marks[place]) / 1e9))
        return found + list(self._later.results) if self._later is not None else found

    def __await__(self) -> Generator[object, None, list[EventHandlerResult]]:
        return self._wait().__await__()

    async def _wait(self) -> list[EventHandlerResult]:
        later = self._later
        if later is not None and not later.done():
            handle = LoopHandle()
            happened = anyio.Event()
            with later.lock:
                waiting = not later.done()
                if waiting:
                    later.waiters.append((handle, happened))
            if waiting:
                await happened.wait()
        return self.results()

    def _odd(self, place: int, error: BaseException | None) -> None:
        if self._errors is None:
            self._errors = {}
        self._errors[place] = error

    def _expect(self) -> None:
        if self._later is None:
            self._later = _Later()
        self._later.expected += 1

    def _finish(self, result: EventHandlerResult) -> None:
        later = self._later
        assert later is not None
        with later.lock:
            later.results.append(result)
            waiters = later.waiters if later.done() else []
            later.waiters = [] if waiters else later.waiters
        _tell(waiters)


class _Plan(NamedTuple):
    """Who gets the events of one type: ``plain`` are the handlers alone where all are observers without a predicate, ``only`` where it is one."""

    subscribers: tuple[_Subscriber, ...]
    plain: tuple[Handler, ...] | None
    only: Handler | None


class _Delivery(NamedTuple):
    event: Event
    receipt: Receipt
    attempt: int = 1
    spent_ns: int = 0
    started: Awaitable[object] | None = None


@dataclass(slots=True, eq=False)
class _Subscriber:
    id: str
    order: int
    event_type: str | None
    handler: Handler
    predicate: Predicate | None
    max_concurrent: int
    retry: RetryPolicy
    description: str | None
    queue_size: int
    when_full: WhenFull
    queued: bool
    queue: deque[_Delivery] = field(default_factory=deque[_Delivery])
    home: LoopHandle | None = None
    running: int = 0
    starting: int = 0
    retrying: int = 0
    dropped: int = 0
    room: list[tuple[LoopHandle, anyio.Event]] = field(default_factory=list[tuple[LoopHandle, anyio.Event]])


class WorkflowEventBus:
    """Publishes events to plain functions at once, and to coroutine functions through a queue of their own.

    It works without being entered: the queue of a coroutine handler is then served in the event loop in which it was
    subscribed, or else the first in which something was published. ``async with bus`` makes its workers children of that
    block; leaving it waits until every queue is empty. Events may be published from any thread and any event loop.
    """

    def __init__(self) -> None:
        self._subscribers: dict[str, _Subscriber] = {}
        self._leaving: list[_Subscriber] = []
        """Unsubscribed, with something in the queue still."""
        self._plans: dict[str, _Plan] = {}
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._group: TaskGroup | None = None
        self._group_home: LoopHandle | None = None
        self._published = itertools.count()
        self._publishing = self._published.__next__
        self._has_queues = False
        self._handled = self._failed = self._retried = self._dropped = 0

    # --- subscribing --------------------------------------------------------------------------------------------------

    def subscribe(
        self, event_type: WorkflowEvent | str | None, handler: Handler, *, predicate: Predicate | None = None, max_concurrent: int = 1,
        max_retries: int = 0, retry_backoff: float = 0.5, description: str | None = None, queue_size: int = QUEUE_SIZE, when_full: WhenFull = "wait",
    ) -> str:
        """Call ``handler`` with every event of this type, None or ``"*"`` for all; the id is for :meth:`unsubscribe`.

        ``retry_backoff`` is in seconds and doubles with every retry; a retry that waits holds no slot. ``queue_size`` and
        ``when_full`` are for coroutine handlers: ``wait`` makes an async ``publish`` wait for room, the others drop and count.
        Raises :class:`~spanbus.errors.BusError` for arguments that cannot work.
        """
        if not callable(handler):
            raise BusError(f"handler must be callable, not {type(handler).__name__}")
        if max_concurrent < 1 or max_retries < 0 or retry_backoff < 0 or queue_size < 1:
            raise BusError("max_concurrent and queue_size must be at least 1, max_retries and retry_backoff at least 0")
        if when_full not in ("wait", "drop_oldest", "drop_newest"):
            raise BusError(f"when_full must be wait, drop_oldest or drop_newest, not {when_full!r}")
        wanted = None if event_type is None or event_type == "*" else str(event_type)
        with self._lock:
            order = next(self._ids)
            subscriber = _Subscriber(
                f"sub-{order}", order, wanted, handler, predicate, max_concurrent, RetryPolicy(max_retries, retry_backoff), description,
                queue_size, when_full, queued=is_coroutine_handler(handler),
            )
            if subscriber.queued:
                self._has_queues = True
                subscriber.home = self._group_home or LoopHandle.current()
            self._subscribers[subscriber.id] = subscriber
            self._plans = {}
        return subscriber.id

    def unsubscribe(self, subscription_id: str) -> bool:
        """Forget a subscription; what is queued for it is still delivered. False when there is none with this id."""
        with self._lock:
            found = self._subscribers.pop(subscription_id, None)
            self._plans = {}
            if found is not None and found.queued:
                self._leaving = [*(each for each in self._leaving if each.queue or each.running), found]
        return found is not None

    def list_subscriptions(self) -> list[Subscription]:
        """All subscriptions, oldest first."""
        with self._lock:
            return [
                Subscription(each.id, each.event_type, each.description, each.max_concurrent, each.retry.max_retries, len(each.queue), each.dropped)
                for each in self._subscribers.values()
            ]

    def statistics(self) -> BusStatistics:
        """A snapshot of the counts."""
        with self._lock:
            queued = sum(len(each.queue) + each.retrying for each in self._subscribers.values())
            running = sum(each.running for each in self._subscribers.values())
            published = int(repr(self._published)[len("count("):-1])  # its only other way to tell ends with Python 3.14
            return BusStatistics(
                published, len(self._subscribers), queued, running, self._handled, self._failed, self._retried, self._dropped
            )

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self, event_type: WorkflowEvent | str, payload: Mapping[str, object] | None = None, *, source: str = "", **metadata: object
    ) -> Receipt:
        """Publish an event; returns as soon as the observers were called and the queues took it.

        ``run_id``, ``phase``, ``attempt``, ``traceparent`` and ``tracestate`` are the event's identity, by default that of
        the current run; other keywords are its metadata. Only a full queue with the policy ``wait`` can make this wait,
        and not when the publisher is a handler of this bus itself.
        """
        receipt = self.publish_nowait(event_type, payload, source=source, **metadata)
        if self._has_queues:
            await self._wait_for_room(receipt.event.event_type)
        return receipt

    def publish_nowait(
        self, event_type: WorkflowEvent | str, payload: Mapping[str, object] | None = None, *, source: str = "", **metadata: object
    ) -> Receipt:
        """Like :meth:`publish`, from plain code in any thread; a full queue with the policy ``wait`` grows instead."""
        scope = current_scope.get()
        if not metadata and scope is None:
            return self.dispatch(Event(event_type, new_event_id(), time_ns(), MappingProxyType(dict(payload)) if payload else EMPTY, source))
        if metadata:
            identity = {name: metadata.pop(name) for name in ("run_id", "phase", "attempt", "traceparent", "tracestate") if name in metadata}
        else:
            identity = None
        if scope is not None and not identity:
            event = Event(
                event_type, new_event_id(), time_ns(), MappingProxyType(dict(payload)) if payload else EMPTY, source, scope.run_id,
                scope.phase, scope.attempt, scope.traceparent, scope.tracestate, metadata or EMPTY,
            )
        else:
            event = Event(event_type, new_event_id(), time_ns(), MappingProxyType(dict(payload)) if payload else EMPTY, source)
            if identity or metadata:
                base: dict[str, object] = {}
                if scope is not None:
                    base = {"run_id": scope.run_id, "phase": scope.phase, "attempt": scope.attempt, "traceparent": scope.traceparent, "tracestate": scope.tracestate}
                event = event._replace(**base | (identity or {}), metadata=MappingProxyType(dict(metadata)) if metadata else EMPTY)
        return self.dispatch(event)

    def dispatch(self, event: Event) -> Receipt:
        """Publish an event that exists already, as it is."""
        self._publishing()
        try:
            subscribers, plain, only = self._plans[event.event_type]
        except KeyError:
            subscribers, plain, only = self._plan(event.event_type)
        receipt = Receipt()
        receipt.event = event
        if only is not None:
            receipt._observers = subscribers  # noqa: SLF001 - the receipt is ours
            failed: Exception | None = None
            value: object = None
            began_ns = perf_counter_ns()
            try:
                value = only(event)
            except Exception as error:
                failed = error
            receipt._marks = [began_ns, perf_counter_ns()]  # noqa: SLF001
            if failed is not None:
                self._observer_failed(subscribers[0], event, receipt, failed)
            elif value is not None and value is not True and inspect.isawaitable(value):
                self._is_a_coroutine_after_all(subscribers[0], event, receipt, value)
            return receipt
        receipt._marks = marks = [perf_counter_ns()]  # noqa: SLF001
        if plain is None:
            self._dispatch_mixed(event, subscribers, receipt, marks)
            return receipt
        receipt._observers = subscribers  # noqa: SLF001
        for handler in plain:
            try:
                value = handler(event)
            except Exception as error:
                marks.append(perf_counter_ns())
                self._observer_failed(subscribers[len(marks) - 2], event, receipt, error)
                continue
            marks.append(perf_counter_ns())
            if value is not None and value is not True and inspect.isawaitable(value):
                self._is_a_coroutine_after_all(subscribers[len(marks) - 2], event, receipt, value)
        return receipt

    def _dispatch_mixed(self, event: Event, subscribers: tuple[_Subscriber, ...], receipt: Receipt, marks: list[int]) -> None:
        """The same where some have a queue or a predicate."""
        receipt._observers = observers = list[_Subscriber]()  # noqa: SLF001
        for subscriber in subscribers:
            if subscriber.predicate is not None and not self._wanted(subscriber, event, receipt, observers):
                continue
            if subscriber.queued:
                self._enqueue(subscriber, _Delivery(event, receipt))
                continue
            observers.append(subscriber)
            marks[-1] = perf_counter_ns()
            try:
                value = subscriber.handler(event)
            except Exception as error:
                marks.append(perf_counter_ns())
                self._observer_failed(subscriber, event, receipt, error)
                continue
            marks.append(perf_counter_ns())
            if value is not None and value is not True and inspect.isawaitable(value):
                self._is_a_coroutine_after_all(subscriber, event, receipt, value)

    def _plan(self, event_type: str) -> _Plan:
        with self._lock:
            wanted = tuple(each for each in self._subscribers.values() if each.event_type is None or each.event_type == event_type)
            mixed = any(each.queued or each.predicate is not None for each in wanted)
            plan = _Plan(wanted, None if mixed else tuple(each.handler for each in wanted), wanted[0].handler if len(wanted) == 1 and not mixed else None)
            if len(self._plans) < 1_000:
                self._plans[str(event_type)] = plan
            return plan

    def _wanted(self, subscriber: _Subscriber, event: Event, receipt: Receipt, observers: list[_Subscriber]) -> bool:
        assert subscriber.predicate is not None
        marks = receipt._marks  # noqa: SLF001 - the receipt is ours
        try:
            return bool(subscriber.predicate(event))
        except Exception as error:
            observers.append(subscriber)
            marks.append(marks[-1])
            self._observer_failed(subscriber, event, receipt, error)
            return False

    def _observer_failed(self, subscriber: _Subscriber, event: Event, receipt: Receipt, error: Exception) -> None:
        """The observer that was called last raised: it is tried again in the background, or this is its result."""
        marks = receipt._marks  # noqa: SLF001
        place = len(marks) - 2
        delay_s = subscriber.retry.delay_s(1)
        if delay_s is not None and self._home(subscriber) is not None:
            receipt._odd(place, None)  # noqa: SLF001
            receipt._expect()  # noqa: SLF001
            self._retry_later(subscriber, _Delivery(event, receipt, 1, marks[-1] - marks[-2]), delay_s)
            return
        self._log(subscriber, event, error, 1)
        receipt._odd(place, error)  # noqa: SLF001

    def _is_a_coroutine_after_all(self, subscriber: _Subscriber, event: Event, receipt: Receipt, value: Awaitable[object]) -> None:
        """A plain callable that returned an awaitable: it is awaited by a worker, and queued from now on."""
        receipt._odd(len(receipt._marks) - 2, None)  # noqa: SLF001
        with self._lock:
            subscriber.queued = self._has_queues = True
            self._plans = {}
        self._enqueue(subscriber, _Delivery(event, receipt, started=value))

    # --- queues -------------------------------------------------------------------------------------------------------

    def _enqueue(self, subscriber: _Subscriber, delivery: _Delivery) -> None:
        gone: _Delivery | None = None
        with self._lock:
            delivery.receipt._expect()  # noqa: SLF001
            if len(subscriber.queue) >= subscriber.queue_size and subscriber.when_full != "wait":
                gone = delivery if subscriber.when_full == "drop_newest" else subscriber.queue.popleft()
                subscriber.dropped += 1
                self._dropped += 1
            if gone is not delivery:
                subscriber.queue.append(delivery)
        if gone is not None:
            _close(gone)
            error = EventDropped(f"the queue of {subscriber.id} holds {subscriber.queue_size} events and drops ({subscriber.when_full})")
            gone.receipt._finish(EventHandlerResult(subscriber.id, False, error, 0))  # noqa: SLF001
        self._serve(subscriber)

    def _home(self, subscriber: _Subscriber) -> LoopHandle | None:
        """The loop that serves this subscriber: its own, else the bus's, else the one that runs here."""
        with self._lock:
            home = subscriber.home
            if home is None or home.is_closed():
                subscriber.running = subscriber.starting = 0
                home = self._group_home or LoopHandle.current()
                subscriber.home = home
            return home

    def _serve(self, subscriber: _Subscriber) -> None:
        """See to it that enough workers run for what is queued."""
        with self._lock:
            wanted = min(len(subscriber.queue), subscriber.max_concurrent - subscriber.running - subscriber.starting)
            if wanted <= subscriber.starting:
                return
            home = self._home(subscriber)
            if home is None:  # no event loop anywhere yet: the next publisher in one takes over
                return
            subscriber.starting += 1
        start = functools.partial(self._start_worker, subscriber, home)
        if home.is_here():
            start()
            return
        try:
            home.call(start)
        except LoopClosed:
            with self._lock:
                subscriber.home = None
                subscriber.running = subscriber.starting = 0
            if LoopHandle.current() is not None:
                self._serve(subscriber)

    def _start_worker(self, subscriber: _Subscriber, home: LoopHandle) -> None:
        with self._lock:
            subscriber.starting = max(0, subscriber.starting - 1)
            subscriber.running += 1
        work = functools.partial(self._work, subscriber)
        group = self._group
        if group is not None and self._group_home is home:
            group.start_soon(work)
        else:
            home.spawn(work)

    async def _work(self, subscriber: _Subscriber) -> None:
        """Take from the queue until it is empty; workers are started again when something comes."""
        delivery: _Delivery | None = None
        token = _inside.set(_inside.get() | {id(self)})
        try:
            while True:
                with self._lock:
                    if not subscriber.queue:
                        subscriber.running -= 1
                        return
                    delivery = subscriber.queue.popleft()
                    room, subscriber.room = subscriber.room, []
                _tell(room)
                if len(subscriber.queue) and subscriber.max_concurrent > 1:
                    self._serve(subscriber)
                await self._deliver(subscriber, delivery)
                delivery = None
        except BaseException:
            with self._lock:
                subscriber.running -= 1
            raise
        finally:
            _inside.reset(token)

    async def _deliver(self, subscriber: _Subscriber, delivery: _Delivery) -> None:
        event, receipt, attempt, spent_ns, started = delivery
        began_ns = perf_counter_ns()
        try:
            value = started if started is not None else subscriber.handler(event)
            if inspect.isawaitable(value):
                await value
        except Exception as error:
            spent_ns += perf_counter_ns() - began_ns
            delay_s = subscriber.retry.delay_s(attempt)
            if delay_s is None:
                self._log(subscriber, event, error, attempt)
                receipt._finish(EventHandlerResult(subscriber.id, False, error, attempt, spent_ns / 1e9))  # noqa: SLF001
            else:
                self._retry_later(subscriber, _Delivery(event, receipt, attempt, spent_ns), delay_s)
        except BaseException as error:  # cancelled: not a success, and not ours to stop
            spent_ns += perf_counter_ns() - began_ns
            with self._lock:
                self._failed += 1
            receipt._finish(EventHandlerResult(subscriber.id, False, error, attempt, spent_ns / 1e9))  # noqa: SLF001
            if isinstance(error, anyio.get_cancelled_exc_class()) and not cancelled_from_outside():
                return
            raise
        else:
            with self._lock:
                self._handled += 1
            spent_ns += perf_counter_ns() - began_ns
            receipt._finish(EventHandlerResult(subscriber.id, True, None, attempt, spent_ns / 1e9))  # noqa: SLF001

    def _retry_later(self, subscriber: _Subscriber, delivery: _Delivery, delay_s: float) -> None:
        with self._lock:
            subscriber.retrying += 1
            self._retried += 1

        async def wait() -> None:
            try:
                await anyio.sleep(delay_s)
            except BaseException as error:  # the retry will not come, and somebody may wait for its result
                self._gave_up(subscriber, delivery, error)
                raise
            finally:
                with self._lock:
                    subscriber.retrying -= 1
            with self._lock:
                subscriber.queue.append(delivery._replace(attempt=delivery.attempt + 1, started=None))
            self._serve(subscriber)

        def start(home: LoopHandle) -> None:
            group = self._group
            if group is not None and self._group_home is home:
                group.start_soon(wait)
            else:
                home.spawn(wait)

        while (home := self._home(subscriber)) is not None:
            if home.is_here():
                start(home)
                return
            try:
                home.call(functools.partial(start, home))
            except LoopClosed:
                with self._lock:
                    subscriber.home = None
                    subscriber.running = subscriber.starting = 0
                continue
            return
        with self._lock:
            subscriber.retrying -= 1
        self._gave_up(subscriber, delivery, BusError(f"{subscriber.id} cannot be retried: no event loop runs any more"))

    def _gave_up(self, subscriber: _Subscriber, delivery: _Delivery, error: BaseException) -> None:
        """What will not be tried again ends as it stands."""
        with self._lock:
            self._failed += 1
        delivery.receipt._finish(EventHandlerResult(subscriber.id, False, error, delivery.attempt, delivery.spent_ns / 1e9))  # noqa: SLF001

    async def _wait_for_room(self, event_type: str) -> None:
        if id(self) in _inside.get():
            return
        plan = self._plans.get(event_type)
        for subscriber in plan.subscribers if plan is not None else ():
            while subscriber.queued and subscriber.when_full == "wait":
                with self._lock:
                    if len(subscriber.queue) <= subscriber.queue_size:
                        break
                    happened = anyio.Event()
                    subscriber.room.append((LoopHandle(), happened))
                await happened.wait()

    def _log(self, subscriber: _Subscriber, event: Event, error: Exception, attempts: int) -> None:
        with self._lock:
            self._failed += 1
        name = subscriber.description or getattr(subscriber.handler, "__qualname__", type(subscriber.handler).__name__)
        logger.error("handler %s failed on %s after %d attempt(s)", name, event.event_type, attempts, exc_info=error)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Raises :class:`~spanbus.errors.BusError` when the bus is entered already."""
        if self._group is not None:
            raise BusError("this bus is entered already; its workers belong to that block")
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._group_home = LoopHandle()
        with self._lock:
            for subscriber in self._subscribers.values():
                if subscriber.queued and subscriber.running == 0:
                    subscriber.home = self._group_home
        for subscriber in list(self._subscribers.values()):
            self._serve(subscriber)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        group, home = self._group, self._group_home
        assert group is not None
        drained = False
        try:
            swallowed = await group.__aexit__(kind, error, trace)
            drained = kind is None
            return swallowed
        finally:
            self._group = None
            self._group_home = None
            with self._lock:
                served = [each for each in (*self._subscribers.values(), *self._leaving) if each.home is home]
                for subscriber in self._subscribers.values():
                    subscriber.home = None
            if not drained:
                self._abandon(served)

    def _abandon(self, served: list[_Subscriber]) -> None:
        """The block was left cancelled or by an exception: nobody comes for what is queued, and nobody shall wait for it."""
        for subscriber in served:
            with self._lock:
                left, room = list(subscriber.queue), subscriber.room
                subscriber.queue.clear()
                subscriber.room = []
                subscriber.dropped += len(left)
                self._dropped += len(left)
            for delivery in left:
                _close(delivery)
                error = EventDropped(f"the bus was left before {subscriber.id} came to this event")
                delivery.receipt._finish(EventHandlerResult(subscriber.id, False, error, delivery.attempt - 1, delivery.spent_ns / 1e9))  # noqa: SLF001
            _tell(room)


def _close(delivery: _Delivery) -> None:
    """A coroutine that will not be awaited."""
    if inspect.iscoroutine(delivery.started):
        delivery.started.close()


def _tell(waiters: Sequence[tuple[LoopHandle, anyio.Event]]) -> None:
    for handle, happened in waiters:
        try:
            handle.call(happened.set)
        except LoopClosed:
            continue


def is_coroutine_handler(handler: object) -> bool:
    """Whether calling this gives a coroutine: coroutine functions, partials of them, objects with an async ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = cast("object", handler.func)
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(type(handler), "__call__", None))  # noqa: B004 - asks what kind, not whether
