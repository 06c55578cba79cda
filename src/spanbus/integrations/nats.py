"""NATS JetStream: send the events of a bus (:func:`carry`), deliver them to handlers (:func:`deliver`), or record them as
spans and metrics (:func:`observe`).

Events go through an outbox on disk that survives the process. Publishing on the bus writes to a memory-mapped file and never
blocks; a background thread sends. Needs the extra ``nats``. ``docs/distributed.md`` specifies the wire format.
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
    RequestFailed,
    credentials_of,
    library,
    servers_of,
)
from spanbus.integrations._nats_deliver import Deliverer, DelivererState, deliver
from spanbus.integrations._nats_heartbeat import RENEW_S, Heartbeat
from spanbus.integrations._nats_observe import Observation, observe
from spanbus.integrations._nats_run_journal import RUN_ENDS, RunJournal, ends_of
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
    """Counts of events: taken from the bus, stored by JetStream, waiting in the outbox, recognized by JetStream as duplicates,
    dropped by reason.

    ``outage`` is the reason why nothing can be stored at present, or None; ``oldest_age_s`` the age of the oldest waiting event.
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
    """Send every event of ``bus`` to a JetStream stream. Returns a context manager, also closed at exit.

    Publishing on the bus neither blocks nor raises. Events stay in the state directory until they are stored, in order within
    a run. The next process with the same state directory sends the events of a killed one. With ``redact`` payloads are
    reduced to what span events show. ``linger_s`` is how long an event waits for others of its run, to share a message.

    Raises :class:`~spanbus.errors.InputError` for invalid arguments, before anything is subscribed.
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
    """Return the outbox for ``nats_url`` of the settings. It does not send yet. Raises :class:`~spanbus.errors.InputError`."""
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
    """The outbox of one process and its sending thread. All methods may be called from any thread."""

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
        """Open runs of this process."""
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
            prepare=self._maintain,
        )
        self._group = self.spool.group(b"")
        self._run_journal = RunJournal(self.spool) if elsewhere else None
        _carriers.add(self)

    def carrying(self, bus: WorkflowEventBus) -> Self:
        """Subscribe to ``bus`` and start sending, including the events of dead processes."""
        if self._elsewhere:
            mark_as_carried(bus)
        self._bus = weakref.ref(bus), bus.subscribe(None, self._take, description="events to NATS")
        self._sender.start()
        return self

    def _take(self, event: Event) -> None:
        """Put one event into the outbox, in the publishing thread. Never raises."""
        if isinstance(event, ReceivedEvent):  # it was delivered from the stream
            return
        try:
            if event.event_type in _LIFE:
                event = self._track_run(event)
            workflow = self._workflows.get(event.run_id)
            data = self._lines.record_of(event, workflow)
        except TooLong:
            self._too_large += 1
            return
        except Exception as error:  # payloads may be anything
            self._unreadable += 1
            logger.debug("an event for NATS cannot be read", exc_info=error)
            return
        self._carried += 1
        if self._run_journal is None:
            self.spool.put(_EVENTS, self._group, data)
        else:
            self._run_journal.record_end(event)
            self.spool.put(_EVENTS, self._group, data)
            self._run_journal.record_start(event, workflow)
        self._sender.wake()

    def _track_run(self, event: Event) -> Event:
        """Record the start or end of a run. A start is marked if this process makes the telemetry of the run."""
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
        if self._run_journal is not None:
            self.spool.journal_alive(time.time_ns())
        self._destination.renew()

    def _adopt(self) -> None:
        """Take over the events of dead processes, and end their open runs."""
        for leftover in self.spool.adopt():
            for event, workflow in ends_of(leftover):
                self.spool.put(_EVENTS, self._group, self._lines.record_of(event, workflow))
            self.spool.adopted(leftover)

    def state(self) -> CarrierState:
        """Return an immutable snapshot of the counts."""
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
        """Return the counts for the delivery metrics, as records of the signal ``events``."""
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
        """Wait up to ``timeout_s`` until all events are stored, including those of dead processes. Returns whether they are."""
        self._adopt()
        return self._sender.flush(timeout_s)

    def detach(self) -> None:
        """Unsubscribe from the bus. Events in the outbox are still sent."""
        if self._bus is not None:
            (known, subscription), self._bus = self._bus, None
            bus = known()
            if bus is not None:
                bus.unsubscribe(subscription)

    def begin_close(self, timeout_s: float) -> None:
        """Unsubscribe, and let the sending thread send for at most ``timeout_s``, without waiting for it."""
        self.detach()
        self._sender.begin_shutdown(timeout_s)

    def close(self, timeout_s: float = _EXIT_S) -> bool:
        """Unsubscribe and send for at most ``timeout_s``. Returns whether the outbox is empty. May be called twice."""
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
        """Reset in a forked child: the thread and the waiting events belong to the parent."""
        self._lock = threading.Lock()
        self.spool.forked()
        self._destination.forked()
        self._sender.forked()
        self._group = self.spool.group(b"")
        if self._run_journal is not None:
            self._run_journal.forked()


class NatsDestination:
    """Stores batches of events in JetStream: messages of one run in sequence, those of different runs concurrently."""

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
        """Server URLs without passwords."""
        return ",".join(shown_url(each) for each in self._servers)

    def warm_up(self) -> None:
        """Import the client library, which takes a tenth of a second."""
        library()

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        """Connect."""
        del signal
        return self._outcome(self._client.connected, timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        """Store these records. A retry sends the same messages with the same ids, so JetStream drops duplicates."""
        del signal
        by_subject = list(messages_of([record.data for record in records]).values())

        async def store() -> None:
            for number in range(max(map(len, by_subject), default=0)):
                round_ = [found[number] for found in by_subject if len(found) > number]
                self._count(round_, await self._client.store(round_, self._publisher))
            await self._heartbeat.write_if_due(self._client, self._open_runs())

        return self._outcome(store, timeout_s)

    def renew(self) -> None:
        """Write the heartbeat if it is due."""
        if self._heartbeat.is_due(self._open_runs()):
            with suppress(RequestFailed):  # the next send reports the problem
                self._client.run(
                    self._heartbeat.write_if_due(self._client, self._open_runs()), _ATTEMPT_S
                )

    def _count(self, sent: Sequence[Message], answers: Sequence[Mapping[str, object]]) -> None:
        for message, answer in zip(sent, answers, strict=True):
            if answer.get("stream") != self._stream:
                raise RequestFailed(
                    f"stream {answer.get('stream')} took these events, not {self._stream}; set SPANBUS_NATS_STREAM to it, or remove it"
                )
            if answer.get("duplicate"):
                self.doubled += message.lines

    def _outcome(self, work: object, timeout_s: float) -> Outcome:
        assert callable(work)
        try:
            self._client.run(work(), timeout_s)
        except RequestFailed as error:
            return Retry(str(error))
        return Delivered()

    def interrupt(self) -> None:
        """Cancel the current attempt."""
        self._client.interrupt()

    def close(self) -> None:
        self._client.close()

    def forked(self) -> None:
        """Reset in a forked child: the connection belongs to the parent."""
        self._publisher = new_event_id.prefix
        self._heartbeat = Heartbeat(self._publisher)
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
