"""Events of a bus to NATS JetStream, through an outbox on disk that survives the process: :func:`carry`. Back to handlers:
:func:`deliver`. To spans and metrics: :func:`observe`.

Publishing on the bus writes to a mapped file and waits for nothing; a thread of its own sends. Needs the extra ``nats``.
``docs/distributed.md`` has the wire format, for producers in other languages too.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from spanbus._attaching.elsewhere import mark_as_carried
from spanbus._closing import Closing
from spanbus._delivery.batches import Stored
from spanbus._delivery.endpoints import shown_url
from spanbus._delivery.outcomes import Delivered, Outcome, Retry
from spanbus._delivery.quiet import Quiet
from spanbus._delivery.sender import Sender
from spanbus._delivery.sender_options import SenderOptions
from spanbus._delivery.spool import MemorySpool, Spool
from spanbus._delivery.spool_files import SpoolUnavailable
from spanbus._delivery.spool_status import EVENTS_FOLDER
from spanbus._delivery.statistics import DeliveryStatistics
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal
from spanbus._runtime import current_runtime
from spanbus._settings import Settings
from spanbus._telemetry.redaction import Redactor
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.event_ids import new_event_id
from spanbus._workflow.events import Event, ReceivedEvent, WorkflowEvent
from spanbus.errors import InputError
from spanbus.integrations._nats_client import (
    Client,
    Unanswered,
    credentials_of,
    library,
    servers_of,
)
from spanbus.integrations._nats_deliver import Deliverer, DelivererState, deliver
from spanbus.integrations._nats_left_open import RUN_ENDS, LeftOpen, ends_of
from spanbus.integrations._nats_life_sign import RENEW_S, LifeSign
from spanbus.integrations._nats_observe import Observation, observe
from spanbus.integrations._nats_wire import Lines, Message, TooLong, messages_of
from spanbus.integrations.nats_stream import STREAM, checked_name

__all__ = [
    "Carrier",
    "CarrierState",
    "Deliverer",
    "DelivererState",
    "Observation",
    "ReceivedEvent",
    "carry",
    "deliver",
    "observe",
]

logger = logging.getLogger("spanbus")

_NAME: Final = "nats"
_STARTED: Final = str(WorkflowEvent.WORKFLOW_STARTED)
_LIFE: Final = frozenset({_STARTED, *map(str, RUN_ENDS)})
_EVENTS: Final = Signal.EVENTS
_RUNS_KEPT: Final = 4_096
_EXIT_S: Final = 0.25
_LONGEST_BACKOFF_S: Final = 2.0
_ATTEMPT_S: Final = 15.0


class CarrierState(NamedTuple):
    """Counts of events: taken from the bus, stored by JetStream, waiting in the outbox, known to JetStream already,
    dropped by reason.

    ``outage`` says why nothing is stored just now, ``oldest_age_s`` how long the oldest has waited.
    """

    carried: int
    stored: int
    waiting: int
    doubled: int
    dropped: Mapping[str, int]
    outage: str | None
    oldest_age_s: float | None


def carry(
    bus: WorkflowEventBus,
    servers: str | Sequence[str],
    *,
    credentials: str | Path | None = None,
    stream: str = STREAM,
    redact: bool = True,
    linger_s: float = 0.02,
) -> Carrier:
    """Carry every event of ``bus`` to a JetStream stream; a context manager, closed at exit.

    Nothing is waited for and nothing is raised by publishing: events lie in the state directory until they are stored, in the
    order of their run, and the next process there sends what a killed one left. ``redact`` lets through what span events
    show. ``linger_s`` is how long an event waits for others of its run, to travel in one message.

    Raises :class:`~spanbus.errors.InputError` for what cannot be used, before anything is subscribed.
    """
    if not isinstance(bus, WorkflowEventBus):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"carry takes a WorkflowEventBus, not {type(bus).__name__}; publish its events on one, or to NATS directly"
        )
    library()
    settings = current_runtime().settings
    found = Carrier(
        settings.state_dir,
        servers_of(servers),
        credentials_of(credentials),
        checked_name(stream),
        _redactor(settings) if redact else None,
        linger_s,
        elsewhere=settings.telemetry == "elsewhere",
    )
    return found.carrying(bus)


def outbox_of(settings: Settings) -> Carrier:
    """The outbox that the settings ask for, with their ``nats_url``; it sends nothing before it is told to.

    Raises :class:`~spanbus.errors.InputError`.
    """
    library()
    return Carrier(
        settings.state_dir,
        servers_of(settings.nats_url, "nats_url"),
        credentials_of(settings.nats_creds, "nats_creds"),
        checked_name(settings.nats_stream),
        _redactor(settings) if settings.redact else None,
        elsewhere=settings.telemetry == "elsewhere",
    )


def _redactor(settings: Settings) -> Redactor:
    return Redactor(patterns=settings.redact_patterns, payload_allow=settings.payload_allow)


class Carrier(Closing):
    """The outbox of one process, with the thread that empties it. All methods may be called from any thread."""

    def __init__(
        self,
        state_dir: Path,
        servers: Sequence[str],
        credentials: str | None,
        stream: str,
        redactor: Redactor | None,
        linger_s: float = 0.02,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._lines = Lines(redactor)
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._workflows: OrderedDict[str | None, str] = OrderedDict()
        self._open: OrderedDict[str | None, None] = OrderedDict()
        """The runs that began here and have not ended."""
        self._carried = 0
        self._too_large = self._unreadable = 0
        self._bus: tuple[weakref.ref[WorkflowEventBus], str] | None = None
        self._closed = False
        self.spool: Spool = Spool(state_dir / EVENTS_FOLDER, destinations=(_NAME,))
        kept_in, remedy = "memory", "they are lost when the program ends"
        try:
            self.spool.open()
        except SpoolUnavailable as error:
            logger.warning("events for NATS wait in memory alone: %s", error)
            self.spool = MemorySpool(destinations=(_NAME,))
        else:
            kept_in = str(self.spool.directory)
            remedy = "the next program sends them, or `spanbus flush` does"
        self._destination = NatsDestination(
            servers, credentials, stream, open_runs=lambda: len(self._open)
        )
        self._sender = Sender(
            self.spool,
            [Quiet(self._destination)],
            SenderOptions(
                kept_in,
                remedy,
                linger_s=linger_s,
                attempt_s=_ATTEMPT_S,
                longest_backoff_s=_LONGEST_BACKOFF_S,
                prepare_every_s=RENEW_S,
            ),
            prepare=self._look_around,
        )
        self._group = self.spool.group(b"")
        self._left_open = LeftOpen(self.spool) if elsewhere else None
        _carriers.add(self)

    def carrying(self, bus: WorkflowEventBus) -> Self:
        """Subscribe to ``bus`` and begin to send, also what dead processes left."""
        if self._elsewhere:
            mark_as_carried(bus)
        self._bus = weakref.ref(bus), bus.subscribe(None, self._take, description="events to NATS")
        self._sender.start()
        return self

    def _take(self, event: Event) -> None:
        """One event, in the thread that publishes it. Never raises."""
        if isinstance(event, ReceivedEvent):  # it came from the stream
            return
        try:
            if event.event_type in _LIFE:
                event = self._followed(event)
            workflow = self._workflows.get(event.run_id)
            data = self._lines.record_of(event, workflow)
        except TooLong:
            self._too_large += 1
            return
        except Exception as error:  # a wall: somebody's payload
            self._unreadable += 1
            logger.debug("an event for NATS cannot be read", exc_info=error)
            return
        self._carried += 1
        if self._left_open is None:
            self.spool.put(_EVENTS, self._group, data)
        else:
            self._left_open.ends(event)
            self.spool.put(_EVENTS, self._group, data)
            self._left_open.begins(event, workflow)
        self._sender.wake()

    def _followed(self, event: Event) -> Event:
        """The beginning or the end of a run, remembered; with it goes who makes its telemetry."""
        run_id = event.run_id
        if event.event_type != _STARTED:
            if event.phase is None:
                with self._lock:
                    self._open.pop(run_id, None)
            return event
        name = event.payload.get("workflow")
        if run_id is not None:
            with self._lock:
                self._workflows[run_id] = str(name) if name is not None else ""
                self._open[run_id] = None
                for known in (self._workflows, self._open):
                    while len(known) > _RUNS_KEPT:
                        known.popitem(last=False)
        if self._elsewhere:
            return event
        return event._replace(metadata={**event.metadata, "telemetry": "here"})

    def _look_around(self) -> None:
        """In the thread that sends, now and then."""
        self._take_over()
        if self._left_open is not None:
            self.spool.journal_alive(time.time_ns())
        self._destination.renew()

    def _take_over(self) -> None:
        """Send what dead processes left, and the ends of what they left open."""
        for leftover in self.spool.adopt():
            for event, workflow in ends_of(leftover):
                self.spool.put(_EVENTS, self._group, self._lines.record_of(event, workflow))
            self.spool.adopted(leftover)

    def state(self) -> CarrierState:
        """A frozen snapshot of the counts."""
        spool, lane = self.spool.statistics(), self._sender.statistics()[_NAME]
        dropped = {reason: count for (_, reason), count in spool.dropped.items()}
        for reason, count in (("too_large", self._too_large), ("not_encodable", self._unreadable)):
            if count:
                dropped[reason] = dropped.get(reason, 0) + count
        waiting = self.spool.pending(_NAME)
        oldest_ns = spool.oldest_at_ns if waiting else None
        age_s = max(0.0, time.time() - oldest_ns / 1e9) if oldest_ns is not None else None
        return CarrierState(
            self._carried,
            lane.delivered.get(_EVENTS, 0),
            waiting,
            self._destination.doubled,
            dropped,
            lane.outage,
            age_s,
        )

    def delivery(self) -> DeliveryStatistics:
        """The same for the metrics of delivery: records of the signal ``events``."""
        found, spool, signal = self.state(), self.spool.statistics(), str(_EVENTS)
        return DeliveryStatistics(
            {signal: found.carried},
            {signal: found.stored},
            {},
            {(signal, reason): count for reason, count in found.dropped.items()},
            spool.bytes,
            found.waiting,
            spool.oldest_at_ns if found.waiting else None,
            found.outage,
        )

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything is stored, also what dead processes left; False when that took longer."""
        self._take_over()
        return self._sender.flush(timeout_s)

    def detach(self) -> None:
        """Leave the bus; what was taken is still sent."""
        if self._bus is not None:
            (known, subscription), self._bus = self._bus, None
            bus = known()
            if bus is not None:
                bus.unsubscribe(subscription)

    def begin_close(self, timeout_s: float) -> None:
        """Leave the bus and send what can be sent within ``timeout_s``, without waiting for it."""
        self.detach()
        self._sender.begin_shutdown(timeout_s)

    def close(self, timeout_s: float = _EXIT_S) -> bool:
        """Leave the bus and send within ``timeout_s`` what can be sent; True when nothing waits. May be called twice."""
        if self._closed:
            return not self.spool.pending(_NAME)
        self._closed = True
        self.detach()
        complete = self._sender.stop(timeout_s)
        if not complete:
            self.spool.give_up_memory()
        self.spool.close()
        return complete

    def forked(self) -> None:
        """In a child process: the thread and what waits are the parent's."""
        self._lock = threading.Lock()
        self.spool.forked()
        self._destination.forked()
        self._sender.forked()
        self._group = self.spool.group(b"")
        if self._left_open is not None:
            self._left_open.forked()


class NatsDestination:
    """Takes batches of events: messages of one run go one after another, those of different runs at once."""

    name = _NAME

    def __init__(
        self,
        servers: Sequence[str],
        credentials: str | None,
        stream: str,
        *,
        open_runs: Callable[[], int] = lambda: 0,
    ) -> None:
        self._servers, self._credentials, self._stream = tuple(servers), credentials, stream
        self._open_runs = open_runs
        self.doubled = 0
        self.forked()

    @property
    def shown(self) -> str:
        """The servers, without passwords."""
        return ",".join(shown_url(each) for each in self._servers)

    def warm_up(self) -> None:
        """Import the client, which takes a tenth of a second."""
        library()

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        """Connect."""
        del signal
        return self._outcome(self._client.connected, timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        """Store these records. A failed attempt is repeated with the same messages, whose ids JetStream then knows."""
        del signal
        by_subject = list(messages_of([record.data for record in records]).values())

        async def store() -> None:
            for number in range(max(map(len, by_subject), default=0)):
                round_ = [found[number] for found in by_subject if len(found) > number]
                self._count(round_, await self._client.store(round_, self._publisher))
            await self._life_sign.given(self._client, self._open_runs())

        return self._outcome(store, timeout_s)

    def renew(self) -> None:
        """Say that this publisher lives, where runs of it are open."""
        if self._life_sign.is_due(self._open_runs()):
            with suppress(Unanswered):  # whoever sends next tells about it
                self._client.run(self._life_sign.given(self._client, self._open_runs()), _ATTEMPT_S)

    def _count(self, sent: Sequence[Message], answers: Sequence[Mapping[str, object]]) -> None:
        for message, answer in zip(sent, answers, strict=True):
            if answer.get("stream") != self._stream:
                raise Unanswered(
                    f"stream {answer.get('stream')} took these events, not {self._stream}; set SPANBUS_NATS_STREAM to it, or remove it"
                )
            if answer.get("duplicate"):
                self.doubled += message.lines

    def _outcome(self, work: object, timeout_s: float) -> Outcome:
        assert callable(work)
        try:
            self._client.run(work(), timeout_s)
        except Unanswered as error:
            return Retry(str(error))
        return Delivered()

    def interrupt(self) -> None:
        """End the attempt that is under way."""
        self._client.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def forked(self) -> None:
        """In a child process: the connection is the parent's."""
        self._publisher = new_event_id.prefix
        self._life_sign = LifeSign(self._publisher)
        self._client = Client(self._servers, self._credentials)


_carriers: weakref.WeakSet[Carrier] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for carrier in list(_carriers):
        carrier.close()


def _forked() -> None:
    for carrier in list(_carriers):
        carrier.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
