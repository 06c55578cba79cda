"""Deliver the events of a stream to the handlers of a bus in this process: :func:`deliver`. Needs the extra ``nats``."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from spanbus._delivery.endpoints import shown_url
from spanbus._named_tuple import NamedTuple
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.events import Event
from spanbus.errors import BackendError, InputError
from spanbus.integrations._nats_client import (
    Client,
    RequestFailed,
    credentials_of,
    library,
    servers_of,
)
from spanbus.integrations._nats_durable_consumer import (
    ACK_WAIT_S,
    MAX_DELIVER,
    DeliveredMessage,
    DurableConsumer,
    Start,
)
from spanbus.integrations._nats_handlers import Handlers
from spanbus.integrations._nats_wire import event_of
from spanbus.integrations.nats_stream import STREAM, checked_name

logger = logging.getLogger("spanbus")

_AT_ONCE: Final = 16
"""Messages in flight in one process. Few, so that other processes of the same name get work too."""
_DONE_KEPT: Final = 4_096
_START_S: Final = 10.0
_AWAY_S: Final = 0.5
_TURN_S: Final = 1.0
_CLOSE_S: Final = 5.0
_EXIT_S: Final = 0.25
_AGAIN_S: Final = (0.5, 1.0, 2.0, 4.0)
"""Pauses before the second to fifth attempt to handle an event."""


class DelivererState(NamedTuple):
    """Counts of events: delivered (all handlers succeeded), retried, given up after five attempts, left out by type, and
    lines that are not events (``broken``).

    ``lost`` counts messages that were delivered five times without an acknowledgement, ``in_hand`` messages in progress.
    ``outage`` is the reason why no messages arrive at present, or None.
    """

    delivered: int
    retried: int
    given_up: int
    left_out: int
    broken: int
    lost: int
    in_hand: int
    outage: str | None


def deliver(
    servers: str | Sequence[str],
    into: WorkflowEventBus | Callable[[Event], object],
    *,
    name: str,
    types: str | Collection[str] | None = None,
    start: Start = "new",
    stream: str = STREAM,
    credentials: str | Path | None = None,
) -> Deliverer:
    """Deliver the events of a stream to a bus in this process or to a function. A context manager, also closed at exit.

    An event is acknowledged when all its handlers have succeeded. If one raises, all of them are called again, up to five
    times in all; then the event is counted as given up. Processes with the same ``name`` share the events; the events of a
    run arrive in order if there is only one such process. A new name begins with new events, or with ``start="all"`` at
    the beginning of the stream; a known name continues where it stopped. Delivery is at least once: use ``event_id`` to
    detect duplicates. Delivered events are not carried to the stream again, and no spans are made of them here.

    Plain functions are called in a separate thread, coroutine functions in the event loop in which they were subscribed.
    Raises :class:`~spanbus.errors.InputError` for invalid arguments and :class:`~spanbus.errors.BackendError`, one line,
    if NATS does not answer within ten seconds. Later outages are waited out.
    """
    library()
    wanted = frozenset([types] if isinstance(types, str) else types) if types is not None else None
    if wanted is not None and not (wanted and all(isinstance(each, str) for each in wanted)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            "deliver: types are names of events, such as ('workflow.failed',), or None for all"
        )
    if start not in ("new", "all"):
        raise InputError(f"deliver: start is 'new' or 'all', not {start!r}")
    return Deliverer(
        servers_of(servers, "deliver"),
        credentials_of(credentials, "deliver"),
        checked_name(stream),
        _durable(name),
        _bus_of(into),
        wanted,
        start,
    ).delivering()


def _durable(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InputError("deliver needs a name: processes with the same one share the events")
    try:
        checked_name(f"deliver-{name}")
    except InputError:
        raise InputError(
            f"deliver: {name[:100]!r} is no name: letters, digits, _ and -, at most 56"
        ) from None
    return f"deliver-{name}"


def _bus_of(into: object) -> WorkflowEventBus:
    if isinstance(into, WorkflowEventBus):
        return into
    handler: Any = into if callable(into) else getattr(into, "dispatch", None)
    if not callable(handler):
        raise InputError(
            f"deliver gives events to a bus or a function, not to {type(into).__name__}"
        )
    bus = WorkflowEventBus()
    bus.subscribe(None, handler, description="events of a stream")
    return bus


class _Stopping(Exception):
    """The deliverer stops before this message is done."""


class Deliverer:
    """Delivers this process's share of the events of a name. All methods may be called from any thread."""

    def __init__(
        self,
        servers: Sequence[str],
        credentials: str | None,
        stream: str,
        durable: str,
        bus: WorkflowEventBus,
        types: frozenset[str] | None,
        start: Start,
    ) -> None:
        self.shown = ",".join(shown_url(each) for each in servers)
        self._client = Client(servers, credentials)
        self._stream, self._durable = stream, durable
        self._start: Start = start
        self._bus, self._types = bus, types
        self._handlers = Handlers(bus)
        self._consumer: DurableConsumer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_hand: dict[int, DeliveredMessage] = {}
        self._done: OrderedDict[int, None] = OrderedDict()
        self._lanes: dict[str, deque[DeliveredMessage]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._stopped = asyncio.Event()
        """The same as ``_stopping``, for tasks of the event loop."""
        self._close_s = _CLOSE_S
        self._delivered = self._retried = self._given_up = 0
        self._left_out = self._broken = self._lost = 0
        self._outage: str | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="spanbus-deliver", daemon=True)
        self._pid = os.getpid()

    def delivering(self) -> Self:
        """Start. Raises :class:`~spanbus.errors.BackendError` if the consumer cannot be opened."""
        self._handlers.start()
        self._thread.start()
        try:
            self._ready.result(_START_S)
        except (RequestFailed, TimeoutError) as error:
            self.close(0.0)
            why = str(error) or "no answer in time"
            raise BackendError(f"{self.shown}: {why}") from None
        _deliverers.add(self)
        return self

    def state(self) -> DelivererState:
        """Return an immutable snapshot of the counts."""
        return DelivererState(
            self._delivered,
            self._retried,
            self._given_up,
            self._left_out,
            self._broken,
            self._lost,
            len(self._in_hand),
            self._outage,
        )

    def close(self, timeout_s: float = _CLOSE_S) -> bool:
        """Stop taking messages and wait up to ``timeout_s`` for running handlers. Unfinished messages go to other processes.

        Returns whether all messages were finished. May be called twice.
        """
        if self._pid != os.getpid():  # a forked child: the threads belong to the parent
            return True
        self._close_s = timeout_s
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        self._handlers.stop()
        return not self._in_hand

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import anyio
        import anyio.to_thread

        with anyio.CancelScope(shield=True):  # close() has its own time limit
            await anyio.to_thread.run_sync(self.close)

    # --- in the thread that talks to NATS -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._client.run(self._follow(), math.inf)
        except RequestFailed as error:
            self._outage = str(error)
            logger.warning("events of %s are not delivered any more: %s", self._durable, error)
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self._client.close()

    async def _follow(self) -> None:
        self._loop = asyncio.get_running_loop()
        consumer = self._consumer = DurableConsumer(
            self._client, self._stream, self._durable, self._start, self._take, self._on_lost
        )
        while not self._stopping.is_set():
            try:
                await consumer.open()
                if not self._ready.done():
                    self._ready.set_result(None)
                self._outage = None
                await self._pull(consumer)
            except Exception as error:  # the server may come back
                why = str(error) or type(error).__name__
                if not self._ready.done():
                    self._ready.set_exception(RequestFailed(why))
                    return
                if self._outage is None and not self._stopping.is_set():
                    logger.warning(
                        "%s: events for %s do not come: %s; they are waited for",
                        self.shown,
                        self._durable,
                        why,
                    )
                self._outage = why
                await self._wait_for_change(consumer, _AWAY_S)
        await self._leave(consumer)

    async def _pull(self, consumer: DurableConsumer) -> None:
        """Request messages while there is room, and extend the acknowledgement deadline of those in progress."""
        next_s = time.monotonic() + ACK_WAIT_S / 3
        while not self._stopping.is_set():
            room = _AT_ONCE - len(self._in_hand)
            if room > 0:
                await consumer.ask_for(room)
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + ACK_WAIT_S / 3
                for message in list(self._in_hand.values()):
                    await consumer.acknowledge(message, b"+WPI")
            await self._wait_for_change(consumer, _TURN_S)

    async def _wait_for_change(self, consumer: DurableConsumer, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await consumer.changed.wait()
        consumer.changed.clear()

    def _wake(self) -> None:
        if self._consumer is not None:
            self._consumer.changed.set()
        if self._stopping.is_set():
            self._stopped.set()

    async def _leave(self, consumer: DurableConsumer) -> None:
        """Wait for running handlers, and return unfinished messages to the server."""
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=0.8 * self._close_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for message in self._in_hand.values():
            await consumer.acknowledge(message, b"-NAK")
        await consumer.flush(0.2 * self._close_s)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _take(self, message: DeliveredMessage) -> None:
        """Queue a message behind the others of its bucket. All events of a run are in one bucket."""
        known = self._in_hand.get(message.sequence)
        if known is not None:  # redelivered while in progress
            known.reply = message.reply
            return
        if message.sequence in self._done:  # its acknowledgement was lost
            self._spawn(self._acknowledge(message))
            return
        self._in_hand[message.sequence] = message
        lane = self._lanes.get(message.subject)
        if lane is not None:
            lane.append(message)
            return
        self._lanes[message.subject] = deque([message])
        self._spawn(self._lane(message.subject))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lane(self, subject: str) -> None:
        """Handle the messages of one bucket in order."""
        lane = self._lanes[subject]
        try:
            while lane and not self._stopping.is_set():
                message = lane[0]
                for number, text in enumerate(message.body.split(b"\n")):
                    await self._line(text, message, message.deliveries - 1 if number == 0 else 0)
                await self._acknowledge(message)
                lane.popleft()
                del self._in_hand[message.sequence]
                self._wake()
        except _Stopping:
            pass
        finally:
            del self._lanes[subject]

    async def _acknowledge(self, message: DeliveredMessage) -> None:
        assert self._consumer is not None
        await self._consumer.acknowledge(message, b"+ACK")
        self._done[message.sequence] = None
        while len(self._done) > _DONE_KEPT:
            self._done.popitem(last=False)

    async def _line(self, text: bytes, message: DeliveredMessage, tries: int) -> None:
        """Handle one event until its handlers succeed, at most five times."""
        event = event_of(text, message.sequence, message.stamp_ns)
        if event is None:
            self._broken += 1
            return
        if self._types is not None and event.event_type not in self._types:
            self._left_out += 1
            return
        while True:
            error = await self._handlers.handle(event)
            if error is None:
                self._delivered += 1
                return
            tries += 1
            if tries >= MAX_DELIVER:
                break
            self._retried += 1
            await self._pause(_AGAIN_S[tries - 1])
        self._given_up += 1
        logger.error(
            "%s: event %s (%s) of run %s is given up after %d times: %s: %s",
            self._durable,
            event.event_id,
            event.event_type,
            event.run_id,
            tries,
            type(error).__name__,
            error,
        )

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopped.wait()
            raise _Stopping

    def _on_lost(self, sequence: int) -> None:
        self._lost += 1
        logger.error(
            "%s: message %d of stream %s was taken %d times and acknowledged by nobody; it is given up",
            self._durable,
            sequence,
            self._stream,
            MAX_DELIVER,
        )


_deliverers: weakref.WeakSet[Deliverer] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for deliverer in list(_deliverers):
        deliverer.close(_EXIT_S)
