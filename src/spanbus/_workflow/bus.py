"""The event bus of a workflow. Publishing does not wait for coroutine handlers.

A plain function is an *observer*: it is called synchronously, in the order of subscription, in the publisher's context. A
coroutine function has its own bounded queue, and at most ``max_concurrent`` of its calls run concurrently; the default of 1
preserves the order. An exception of a handler never reaches the publisher: it is logged once with its traceback, and counted.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Awaitable, Mapping
from time import perf_counter_ns
from types import MappingProxyType, TracebackType
from typing import Self

import anyio

from spanbus._named_tuple import NamedTuple
from spanbus._workflow.current import current_scope, now_ns
from spanbus._workflow.events import EMPTY, Event, WorkflowEvent, new_event_id
from spanbus._workflow.loops import LoopHandle
from spanbus._workflow.receipts import EventHandlerResult, Receipt
from spanbus._workflow.retry import RetryPolicy
from spanbus._workflow.subscribers import (
    QUEUE_SIZE,
    Delivery,
    Handler,
    Predicate,
    Subscriber,
    Subscription,
    WhenFull,
    is_coroutine_handler,
)
from spanbus._workflow.workers import EventDropped, Workers
from spanbus.errors import BusError

__all__ = [
    "BusStatistics",
    "EventDropped",
    "EventHandlerResult",
    "Receipt",
    "Subscription",
    "WorkflowEventBus",
    "is_coroutine_handler",
]

_PLANS_CACHED = 1_000
_IDENTITY = ("run_id", "phase", "attempt", "traceparent", "tracestate")


class BusStatistics(NamedTuple):
    """Counts since the bus was created."""

    published: int
    subscriptions: int
    queued: int
    running: int
    handled: int
    failed: int
    retried: int
    dropped: int


class WorkflowEventBus:
    """Calls plain functions synchronously, and coroutine functions through a queue of their own.

    The bus works without being entered: a coroutine handler then runs in the event loop in which it was subscribed, else in
    the first one in which an event was published. With ``async with bus`` its workers are child tasks of that block, and
    leaving the block waits until every queue is empty. Events may be published from any thread and any event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._subscribers: dict[str, Subscriber] = {}
        self._leaving: list[Subscriber] = []
        """Unsubscribed subscribers with queued deliveries."""
        self._plans: dict[str, tuple[Subscriber, ...]] = {}
        """Cache of the subscribers by event type."""
        self._ids = itertools.count(1)
        self._workers = Workers(self._lock)
        self._entered: anyio.abc.TaskGroup | None = None
        self._count = itertools.count().__next__
        self._statistics_calls = 0
        """Numbers that :meth:`statistics` itself drew from the lock-free counter."""
        self._has_queues = False

    # --- subscribing --------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        event_type: WorkflowEvent | str | None,
        handler: Handler,
        *,
        predicate: Predicate | None = None,
        max_concurrent: int = 1,
        max_retries: int = 0,
        retry_backoff: float = 0.5,
        description: str | None = None,
        queue_size: int = QUEUE_SIZE,
        when_full: WhenFull = "wait",
    ) -> str:
        """Call ``handler`` with every event of this type, or of all types for None or ``"*"``.

        Returns the id for :meth:`unsubscribe`. ``retry_backoff`` is in seconds and doubles with every retry; a waiting retry
        does not count against ``max_concurrent``. ``queue_size`` and ``when_full`` apply to coroutine handlers: ``wait``
        makes an async ``publish`` wait for space, the other policies drop an event and count it. Raises
        :class:`~spanbus.errors.BusError` for invalid arguments.
        """
        if not callable(handler):
            raise BusError(f"handler must be callable, not {type(handler).__name__}")
        if max_concurrent < 1 or max_retries < 0 or retry_backoff < 0 or queue_size < 1:
            raise BusError(
                "max_concurrent and queue_size must be at least 1, max_retries and retry_backoff at least 0"
            )
        if when_full not in ("wait", "drop_oldest", "drop_newest"):
            raise BusError(f"when_full must be wait, drop_oldest or drop_newest, not {when_full!r}")
        wanted = None if event_type is None or event_type == "*" else str(event_type)
        with self._lock:
            queued = is_coroutine_handler(handler)
            subscriber = Subscriber(
                f"sub-{next(self._ids)}",
                wanted,
                handler,
                predicate,
                max_concurrent,
                RetryPolicy(max_retries, retry_backoff),
                description,
                queue_size,
                when_full,
                queued=queued,
                called_directly=not queued and predicate is None,
            )
            if subscriber.queued:
                self._has_queues = True
                subscriber.home = self._workers.home or LoopHandle.current()
            self._subscribers[subscriber.id] = subscriber
            self._plans = {}
        return subscriber.id

    def unsubscribe(self, subscription_id: str) -> bool:
        """Remove a subscription; queued events are still delivered. Return False if there is none with this id."""
        with self._lock:
            found = self._subscribers.pop(subscription_id, None)
            self._plans = {}
            if found is not None and found.queued:
                self._leaving = [
                    *(each for each in self._leaving if each.queue or each.running),
                    found,
                ]
        return found is not None

    def list_subscriptions(self) -> list[Subscription]:
        """Return all subscriptions, oldest first."""
        with self._lock:
            return [
                Subscription(
                    each.id,
                    each.event_type,
                    each.description,
                    each.max_concurrent,
                    each.retry.max_retries,
                    len(each.queue),
                    each.dropped,
                )
                for each in self._subscribers.values()
            ]

    def statistics(self) -> BusStatistics:
        """Return a snapshot of the counts."""
        workers = self._workers
        with self._lock:
            published = self._count() - self._statistics_calls
            self._statistics_calls += 1
            return BusStatistics(
                published,
                len(self._subscribers),
                sum(len(each.queue) + each.retrying for each in self._subscribers.values()),
                sum(each.running for each in self._subscribers.values()),
                workers.handled,
                workers.failed,
                workers.retried,
                workers.dropped,
            )

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self,
        event_type: WorkflowEvent | str,
        payload: Mapping[str, object] | None = None,
        *,
        source: str = "",
        **metadata: object,
    ) -> Receipt:
        """Publish an event; returns as soon as the observers were called and the queues took it.

        ``run_id``, ``phase``, ``attempt``, ``traceparent`` and ``tracestate`` are the event's identity, by default that of
        the current run; other keywords are its metadata. Only a full queue with the policy ``wait`` can make this wait,
        and not when the publisher is a handler of this bus itself.
        """
        receipt = self.publish_nowait(event_type, payload, source=source, **metadata)
        if self._has_queues:
            await self._workers.wait_for_room(self._plans.get(receipt.event.event_type, ()))
        return receipt

    def publish_nowait(
        self,
        event_type: WorkflowEvent | str,
        payload: Mapping[str, object] | None = None,
        *,
        source: str = "",
        **metadata: object,
    ) -> Receipt:
        """Publish from synchronous code in any thread; a full queue with the policy ``wait`` grows instead of blocking."""
        scope = current_scope.get()
        frozen = MappingProxyType(dict(payload)) if payload else EMPTY
        if scope is None:
            event = Event(event_type, new_event_id(), now_ns(), frozen, source)
        else:
            event = Event(
                event_type,
                new_event_id(),
                now_ns(),
                frozen,
                source,
                scope.run_id,
                scope.phase,
                scope.attempt,
                scope.traceparent,
                scope.tracestate,
            )
        if metadata:
            identity: dict[str, object] = {
                name: metadata.pop(name) for name in _IDENTITY if name in metadata
            }
            event = event._replace(
                **identity, metadata=MappingProxyType(metadata) if metadata else EMPTY
            )
        return self.dispatch(event)

    def dispatch(self, event: Event) -> Receipt:
        """Publish an existing event unchanged."""
        self._count()
        try:
            subscribers = self._plans[event.event_type]
        except KeyError:
            subscribers = self._plan(event.event_type)
        marks = [perf_counter_ns()]
        receipt = Receipt(event, subscribers, marks)
        for subscriber in subscribers:
            if not subscriber.called_directly and not self._call_here(subscriber, receipt):
                continue
            try:
                value = subscriber.handler(event)
            except Exception as error:
                marks.append(perf_counter_ns())
                self._observer_failed(subscriber, receipt, error)
                continue
            marks.append(perf_counter_ns())
            if value is not None and value is not True and inspect.isawaitable(value):
                self._await_in_background(subscriber, receipt, value)
        return receipt

    def _plan(self, event_type: str) -> tuple[Subscriber, ...]:
        with self._lock:
            plan = tuple(
                each
                for each in self._subscribers.values()
                if each.event_type is None or each.event_type == event_type
            )
            if len(self._plans) < _PLANS_CACHED:
                self._plans[str(event_type)] = plan
            return plan

    def _call_here(self, subscriber: Subscriber, receipt: Receipt) -> bool:
        """Whether the publisher itself calls this subscriber: it has no queue, and its predicate is true and did not raise."""
        failed: Exception | None = None
        try:
            wanted = subscriber.predicate is None or subscriber.predicate(receipt.event)
        except Exception as error:
            wanted, failed = False, error
        if wanted and not subscriber.queued:
            return True
        if wanted:
            self._workers.enqueue(subscriber, Delivery(receipt.event, receipt))
        receipt.marks.append(perf_counter_ns())
        if failed is not None:
            self._observer_failed(subscriber, receipt, failed)
        else:
            receipt.exclude_last()
        return False

    def _observer_failed(self, subscriber: Subscriber, receipt: Receipt, error: Exception) -> None:
        """Handle an error of the last observer: retry it in the background, or record the error as its result."""
        delay_s, workers = subscriber.retry.delay_s(1), self._workers
        if delay_s is not None and workers.home_of(subscriber) is not None:
            spent_ns = receipt.exclude_last()
            receipt.expect()
            workers.retry_later(subscriber, Delivery(receipt.event, receipt, 1, spent_ns), delay_s)
        else:
            workers.handler_failed(subscriber, receipt.event, error, 1)
            receipt.failed(error)

    def _await_in_background(
        self, subscriber: Subscriber, receipt: Receipt, value: Awaitable[object]
    ) -> None:
        """Let a worker await the result of a plain callable; the subscriber gets a queue from now on."""
        receipt.exclude_last()
        with self._lock:
            subscriber.queued = self._has_queues = True
            subscriber.called_directly = False
        self._workers.enqueue(subscriber, Delivery(receipt.event, receipt, started=value))

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Enter the bus. Raises :class:`~spanbus.errors.BusError` when it is already entered."""
        if self._entered is not None:
            raise BusError("this bus is entered already; its workers belong to that block")
        group = anyio.create_task_group()
        await group.__aenter__()
        self._entered = group
        self._workers.enter(group)
        with self._lock:
            for subscriber in self._subscribers.values():
                if subscriber.queued and subscriber.running == 0:
                    subscriber.home = self._workers.home
        for subscriber in list(self._subscribers.values()):
            self._workers.serve(subscriber)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        group = self._entered
        assert group is not None
        drained = False
        try:
            swallowed = await group.__aexit__(kind, error, trace)
            drained = kind is None
            return swallowed
        finally:
            self._entered = None
            home = self._workers.leave()
            with self._lock:
                known = (*self._subscribers.values(), *self._leaving)
                served = [each for each in known if each.home is home]
                for subscriber in self._subscribers.values():
                    subscriber.home = None
            if not drained:
                self._workers.abandon(served)
