"""Events over NATS JetStream: :func:`carry` sends those of a bus, :func:`deliver` calls handlers, :func:`observe` makes spans.

Events to send wait in an outbox on disk, which survives the process: publishing on the bus writes to a mapped file and never
waits; a thread sends. Needs the extra ``nats``. ``docs/distributed.md`` has the wire format, also for producers in other
languages.
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
_RUN_EVENTS: Final = frozenset({_STARTED, *map(str, RUN_ENDS)})
_EVENTS: Final = Signal.EVENTS
_RUNS_KEPT: Final = 4_096
_EXIT_S: Final = 0.25
_LONGEST_BACKOFF_S: Final = 2.0
_ATTEMPT_S: Final = 15.0


class CarrierState(NamedTuple):
    """Counts of events: taken from the bus, stored by JetStream, waiting in the outbox, duplicates in JetStream, dropped by
    reason.

    ``outage`` is the reason that nothing can be stored now; ``oldest_age_s`` is the age of the oldest waiting event.
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

    Publishing neither waits nor raises: events wait in the state directory until they are stored, in the order of their run.
    The next process on that directory sends the events of a killed one. ``redact`` applies the redaction of span events.
    ``linger_s`` is the time in seconds that an event waits for others of its run, to share a message.

    Raises :class:`~spanbus.errors.InputError` for invalid arguments, before it subscribes.
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
    """Create the outbox of the settings, for their ``nats_url``; it sends nothing until :meth:`Carrier.carrying` or
    :meth:`Carrier.flush`.

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
    """Outbox of one process, with its sending thread. Thread-safe."""

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
        """Runs that began here and have not ended."""
        self._carried = 0
        self._too_large = self._not_encodable = 0
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
            prepare=self._maintain,
        )
        self._group = self.spool.group(b"")
        self._left_open = LeftOpen(self.spool) if elsewhere else None
        _carriers.add(self)

    def carrying(self, bus: WorkflowEventBus) -> Self:
        """Subscribe to ``bus`` and start sending, including the events of dead processes."""
        if self._elsewhere:
            mark_as_carried(bus)
        self._bus = (
            weakref.ref(bus),
            bus.subscribe(None, self._on_event, description="events to NATS"),
        )
        self._sender.start()
        return self

    def _on_event(self, event: Event) -> None:
        """Put one event into the outbox, in the publishing thread. Never raises."""
        if isinstance(event, ReceivedEvent):  # from the stream: do not send it back
            return
        try:
            if event.event_type in _RUN_EVENTS:
                event = self._track_run(event)
            workflow = self._workflows.get(event.run_id)
            data = self._lines.record_of(event, workflow)
        except TooLong:
            self._too_large += 1
            return
        except Exception as error:  # a foreign payload may raise anything
            self._not_encodable += 1
            logger.debug("an event for NATS cannot be read", exc_info=error)
            return
        self._carried += 1
        if self._left_open is None:
            self.spool.put(_EVENTS, self._group, data)
        else:
            self._left_open.close_ended(event)
            self.spool.put(_EVENTS, self._group, data)
            self._left_open.open_begun(event, workflow)
        self._sender.wake()

    def _track_run(self, event: Event) -> Event:
        """Track the start or end of a run; add to its start event that telemetry is made here, if it is."""
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

    def _maintain(self) -> None:
        """Periodic work of the sending thread."""
        self._adopt()
        if self._left_open is not None:
            self.spool.journal_alive(time.time_ns())
        self._destination.renew()

    def _adopt(self) -> None:
        """Adopt the outboxes of dead processes, and put ends for their open runs and phases."""
        for leftover in self.spool.adopt():
            for event, workflow in ends_of(leftover):
                self.spool.put(_EVENTS, self._group, self._lines.record_of(event, workflow))
            self.spool.adopted(leftover)

    def state(self) -> CarrierState:
        """Snapshot of the counts."""
        spool, lane = self.spool.statistics(), self._sender.statistics()[_NAME]
        dropped = {reason: count for (_, reason), count in spool.dropped.items()}
        for reason, count in (
            ("too_large", self._too_large),
            ("not_encodable", self._not_encodable),
        ):
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
        """:meth:`state` as delivery statistics of the signal ``events``."""
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
        """Wait until everything is stored, including the events of dead processes; False when that took longer."""
        self._adopt()
        return self._sender.flush(timeout_s)

    def detach(self) -> None:
        """Unsubscribe from the bus; waiting events are still sent."""
        if self._bus is not None:
            (known, subscription), self._bus = self._bus, None
            bus = known()
            if bus is not None:
                bus.unsubscribe(subscription)

    def begin_close(self, timeout_s: float) -> None:
        """Unsubscribe and start sending for at most ``timeout_s`` seconds, without waiting."""
        self.detach()
        self._sender.begin_shutdown(timeout_s)

    def close(self, timeout_s: float = _EXIT_S) -> bool:
        """Unsubscribe and send for at most ``timeout_s`` seconds; True when nothing waits. May be called twice."""
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
        """In a child process: start empty; thread and waiting events belong to the parent."""
        self._lock = threading.Lock()
        self.spool.forked()
        self._destination.forked()
        self._sender.forked()
        self._group = self.spool.group(b"")
        if self._left_open is not None:
            self._left_open.forked()


class NatsDestination:
    """Destination of events: messages of one run are sent in order, those of different runs concurrently."""

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
        """URLs of the servers, without passwords."""
        return ",".join(shown_url(each) for each in self._servers)

    def warm_up(self) -> None:
        """Import the client, which takes a tenth of a second."""
        library()

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        """Connect."""
        del signal
        return self._outcome(self._client.connected, timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        """Store records. A retry sends the same message ids, so that JetStream ignores duplicates."""
        del signal
        by_subject = list(messages_of([record.data for record in records]).values())

        async def store() -> None:
            for number in range(max(map(len, by_subject), default=0)):
                round_ = [found[number] for found in by_subject if len(found) > number]
                self._count(round_, await self._client.store(round_, self._publisher))
            await self._life_sign.renew(self._client, self._open_runs())

        return self._outcome(store, timeout_s)

    def renew(self) -> None:
        """Renew the life sign of this publisher while it has open runs."""
        if self._life_sign.is_due(self._open_runs()):
            with suppress(Unanswered):  # the next send reports it
                self._client.run(self._life_sign.renew(self._client, self._open_runs()), _ATTEMPT_S)

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
        """Abort the attempt under way."""
        self._client.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def forked(self) -> None:
        """In a child process: use a new connection and publisher id."""
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
