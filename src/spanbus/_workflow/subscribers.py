"""Subscriptions of a bus, and the queued deliveries."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from spanbus._named_tuple import NamedTuple
from spanbus._workflow.events import Event

if TYPE_CHECKING:
    from spanbus._workflow.loops import LoopHandle
    from spanbus._workflow.receipts import Receipt, Waiter
    from spanbus._workflow.retry import RetryPolicy

Handler = Callable[[Event], object]
Predicate = Callable[[Event], bool]
WhenFull = Literal["wait", "drop_oldest", "drop_newest"]

QUEUE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Subscription:
    """Entry of :meth:`WorkflowEventBus.list_subscriptions`."""

    id: str
    event_type: str | None
    description: str | None
    max_concurrent: int
    max_retries: int
    queued: int
    dropped: int


class Delivery(NamedTuple):
    """An event for one subscriber."""

    event: Event
    receipt: Receipt
    attempt: int = 1
    spent_ns: int = 0
    started: Awaitable[object] | None = None

    def close(self) -> None:
        """Close a coroutine that will not be awaited."""
        if inspect.iscoroutine(self.started):
            self.started.close()


@dataclass(slots=True, eq=False)
class Subscriber:
    """A subscription with its queue and the numbers of its workers."""

    id: str
    event_type: str | None
    handler: Handler
    predicate: Predicate | None
    max_concurrent: int
    retry: RetryPolicy
    description: str | None
    queue_size: int
    when_full: WhenFull
    queued: bool
    called_directly: bool
    """The publisher calls it directly: it has neither queue nor predicate."""
    queue: deque[Delivery] = field(default_factory=deque["Delivery"])
    home: LoopHandle | None = None
    running: int = 0
    starting: int = 0
    retrying: int = 0
    dropped: int = 0
    room: list[Waiter] = field(default_factory=list["Waiter"])

    def take_waiters(self) -> list[Waiter]:
        """Remove and return the publishers that wait for space in the queue."""
        room, self.room = self.room, []
        return room

    def reset_loop(self) -> None:
        """Forget a closed event loop and its workers."""
        self.home = None
        self.running = self.starting = 0


def is_coroutine_handler(handler: object) -> bool:
    """Whether the handler is a coroutine function, a partial of one, or an object with an async ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = cast("object", handler.func)
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(type(handler), "__call__", None)  # noqa: B004
    )
