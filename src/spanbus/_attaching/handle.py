"""The handle: observes one bus and passes its events to a correlator."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self, TypeVar, overload

from spanbus._attaching.answer import AnswerForm, AwaitableTrue
from spanbus._attaching.call import event_in, is_event
from spanbus._attaching.observer import Observer, awaited_observer_of
from spanbus._attaching.publication import (
    Publication,
    QueuedPublications,
    enter,
    innermost,
    kind_of,
    leave,
    publications,
)
from spanbus._attaching.task_ends import TaskEnds, ended_with
from spanbus._attaching.weak_identity_map import WeakIdentityMap
from spanbus._correlation.correlator import Correlator, CorrelatorState
from spanbus._correlation.span_state import SpanState
from spanbus._reading.facts import Fact, Verb
from spanbus._reading.read import Unreadable
from spanbus._reading.reader import Reader
from spanbus._reading.spelling import ending
from spanbus._semantics import Flag, Level
from spanbus._workflow.events import Event, ReceivedEvent

if TYPE_CHECKING:
    from spanbus._attaching.record import Recorder
    from spanbus._attaching.work import Kind, Work

logger = logging.getLogger("spanbus")

T = TypeVar("T")
_WORK_LEVELS = (Level.RUN, Level.PHASE, Level.ATTEMPT)
_EVENT, _BEGINS = Verb.EVENT, (Verb.START, Verb.RETRY)  # saves the lookup of the members
_WARN_AFTER = 50
_FEW_EVENTS = 5
"""At detach, this many unrecognised events are enough for the warning."""
_TYPES_NAMED = 8


class Handle:
    """A bus under observation. Also a context manager that calls :meth:`detach`, which is idempotent."""

    def __init__(
        self,
        correlator: Correlator,
        reader: Reader,
        *,
        label: str,
        off: bool = False,
        expects_events: bool = True,
    ) -> None:
        self._correlator = correlator
        self._reader = reader
        self._label = label
        self._off = off
        self._expects_events = expects_events
        self._undo: list[Callable[[], None]] = []
        self._subscriptions: WeakIdentityMap[Callable[[], None]] = WeakIdentityMap()
        self._errors = 0
        self._last_error: str | None = None
        self._logged_kinds: set[str] = set()
        self._lock = threading.Lock()
        self._detached = False
        self._fed = False
        self._unrecognised_types: dict[str, None] | None = {}
        self._unrecognised = 0
        self._recorder: Recorder | None = None
        self._queued = QueuedPublications()
        known = self.ref = weakref.ref(self)
        """Weak reference to this handle, for task contexts, which may outlive it."""

        def leave(records: list[SpanState], error: BaseException | None) -> None:
            if (handle := known()) is not None:
                handle.leave_open(records, error)

        self._task_ends = TaskEnds(leave)
        self.answer_form: AnswerForm = "unknown"
        """Form of the observer's return value; depends on how the bus uses it."""
        self.bus: Callable[[], object] | None = None
        """A weak reference to the bus."""
        self.in_place = False
        """The bus calls its observers in the publisher's context (ours does), so no tap is needed."""
        self.by_publisher = True
        """Whether the publishing task decides to which run and phase an event belongs."""
        self.observer = Observer(self)
        """The subscriber: a callable that returns True, because some buses take None for a failure. The value is awaitable
        where the bus may await it. Its methods ``handle`` and ``on_event`` do the same, for buses of sinks."""
        self.awaited_observer = awaited_observer_of(self)
        """The observer as a coroutine function, for buses that accept nothing else."""

    @property
    def off(self) -> bool:
        """Whether telemetry is disabled (``OTEL_SDK_DISABLED``): nothing is subscribed or read."""
        return self._off

    @property
    def detached(self) -> bool:
        """Whether :meth:`detach` was called."""
        return self._detached

    @property
    def bus_is_gone(self) -> bool:
        """Whether no more events can come: the bus was garbage-collected, and nothing was fed by hand."""
        return not self._fed and self.bus is not None and self.bus() is None

    @property
    def correlator(self) -> Correlator:
        """The correlator of this handle."""
        return self._correlator

    # --- events by hand -----------------------------------------------------------------------------------------------

    def feed(self, event: object) -> None:
        """Feed one event by hand: a mapping, an event object of any bus, or one decoded JSON line.

        Never raises. Unreadable events are counted in ``state().errors`` and logged once for each kind of error.
        """
        if self._off:
            return
        self._fed = True
        self._take(event, None, publications.get(), live=False)

    def tell(self, event_type: str, /, **payload: object) -> None:
        """Publish one event by type and payload in the context of the calling task, for hooks and callbacks.

        Never raises, like :meth:`feed`.
        """
        if self._off:
            return
        publication = Publication(self.ref, "tell")
        enter(publication, publications.get())
        try:
            self.published({"event_type": event_type, "payload": payload}, publication)
        finally:
            leave(publication)

    @overload
    def watching(self, stream: AsyncIterator[T]) -> AsyncIterator[T]: ...
    @overload
    def watching(self, stream: Iterator[T]) -> Iterator[T]: ...
    @overload
    def watching(self, stream: Iterable[T]) -> Iterator[T]: ...
    def watching(self, stream: AsyncIterator[T] | Iterable[T]) -> AsyncIterator[T] | Iterator[T]:
        """Iterate over ``stream`` and feed each event. Takes an iterable or an async iterable.

        An exception of the stream ends the work that its events left open, with its class as the error type, and propagates.
        At the end of the stream, unannounced runs end.
        """
        from spanbus._attaching.streams import watched

        return watched(self, stream)

    def watching_calls(
        self, thing: object, method: str, *, name: Callable[..., object] | str | None = None
    ) -> AbstractContextManager[None]:
        """Return a context manager in which each call of ``thing.method`` is a phase. An exception fails the phase.

        ``name`` is the phase's name, or a function of the call's arguments that returns it. The default is the first text
        among the arguments, else the method's name. Raises :class:`~spanbus.errors.InputError` if there is no such method
        or it cannot be replaced.
        """
        from spanbus._attaching.streams import calls_watched

        return calls_watched(self, thing, method, name)

    def watching_work(
        self, kind: Kind, name: str, /, **payload: object
    ) -> AbstractContextManager[Work]:
        """Return a context manager that is a ``run``, ``phase``, ``job`` or ``hook`` of that name; its span is current inside.

        The block's exit decides the result: no exception is success, ``TimeoutError`` a timeout, ``CancelledError`` a
        cancellation, any other exception a failure. A phase belongs to the enclosing run. A ``job`` is a run with one phase
        where the dialect has ``run = "each"``. ``payload`` is that of the start event, such as ``run_id``.
        """
        from spanbus._attaching.work import watched

        return watched(self, kind, name, payload)

    def take(self, fact: Fact) -> None:
        """Apply one fact of a recorded stream. Never raises, like :meth:`feed`."""
        try:
            self._correlator.apply(fact)
        except Exception as error:
            self.failed(error)

    # --- events of a bus ----------------------------------------------------------------------------------------------

    def handle(self, *arguments: object, **options: object) -> bool | AwaitableTrue | None:
        """Call :attr:`observer`: the sink method for buses of sinks."""
        return self.observer(*arguments, **options)

    def called(self, arguments: tuple[object, ...], options: Mapping[str, object]) -> None:
        """Receive one event from a bus, in whatever form the bus calls its handlers. Never raises, like :meth:`feed`."""
        if self._off:
            return
        try:
            event = event_in(arguments, options)
            if type(event) is Event and self.in_place:
                self._receive_in_place(event)
                return
            if type(event) is ReceivedEvent:
                return
            publication, stack = self._publication_of(event)
        except Exception as error:
            self.failed(error)
        else:
            self._take(event, publication, stack)

    def published(self, event: object, publication: Publication) -> None:
        """Receive one event from a tapped publishing method. Never raises, like :meth:`feed`."""
        if type(event) is not ReceivedEvent:
            self._take(event, publication, publications.get())

    def stream_event(self, event: object, publication: Publication) -> None:
        """Receive one event of a stream. Never raises, like :meth:`feed`.

        The context of the reading task is not used: a stream may carry many runs, and an event without an id need not belong
        to the one that is open here.
        """
        self._take(event, publication, ())

    def waiting(self, publication: Publication) -> None:
        """Register a publication whose event was not received yet: it is queued by the bus, or lost."""
        if not self._off:
            self._queued.put(publication)

    def stream_failed(self, error: object = None) -> None:
        """End all open work with the error of a stream."""
        failure = error if isinstance(error, BaseException) else None
        self.stream_ended(self._correlator.open_records(), failure)

    def stream_ended(self, opened: Iterable[SpanState], error: BaseException | None) -> None:
        """End the work that a stream opened; ``error`` is its exception, if any."""
        self.leave_open(opened, error, at_end=True)

    def leave_open(
        self, records: Iterable[SpanState], error: BaseException | None, *, at_end: bool = False
    ) -> None:
        """End the open ones of these records, whose publisher is gone; ``error`` is its exception, if any.

        ``at_end``: nobody else can publish events of them. Otherwise a record with open children stays open.
        """
        try:
            result, failure = ended_with(error)
            for record in reversed(list(records)):
                if record.result is not None or record.level is Level.ATTEMPT:
                    continue
                if (
                    error is None
                    and not at_end
                    and any(one.result is None for one in record.children)
                ):
                    continue  # other publishers continue it
                self._correlator.publisher_ended(record, result, failure)
        except Exception as problem:
            self.failed(problem)

    def _receive_in_place(self, event: Event) -> None:
        """Receive an event of our own bus. The publisher is not looked up if the event names its run and phase."""
        if event.run_id is not None and event.phase is not None:
            self._take(event, None, ())
            return
        publication = Publication(self.ref, "dispatch")
        enter(publication, publications.get())
        self._take(event, publication, publications.get())
        leave(publication)

    def tick(self) -> None:
        """Apply the ends of tasks whose grace period is over."""
        self._task_ends.tick()

    def _publication_of(self, event: object) -> tuple[Publication | None, tuple[Publication, ...]]:
        """Return the publication of an event and its context; neither in a worker that only delivers events."""
        stack = publications.get()
        if stack:
            last = stack[-1]
            if last.owner is self.ref and (last.running or not last.received):
                if not last.running:
                    self._queued.forget(last)
                return last, stack
        if self._queued and (found := self._queued.find(event)) is not None:
            return found, (*found.before, found)
        return None, ()

    def _take(
        self,
        event: object,
        publication: Publication | None,
        stack: tuple[Publication, ...],
        *,
        live: bool = True,
    ) -> None:
        if self._off:
            return
        try:
            if publication is None:
                fact = self._reader.read(event, live=live)
            else:
                fact = self._fact(event, publication, live=live)
            within = innermost(self.ref, stack) if stack and self.by_publisher else None
            task = publication.key if publication is not None and self.by_publisher else None
            record = self._correlator.apply(fact, within, task)
            if publication is not None:
                publication.received += 1
                verb = fact.verb
                if (
                    record is not None
                    and verb is not _EVENT
                    and (verb in _BEGINS or record.events.total == 1)  # an orphan end
                    and record.level in _WORK_LEVELS
                ):
                    self._note_opened(publication, record)
            if self._unrecognised_types is not None and fact.verb is _EVENT:
                self._count_unrecognised(fact.event.name)
        except Exception as error:
            self.failed(error)
        if self._recorder is not None:
            self._recorder.record(event, self._reader.dialect.keys)

    def _fact(self, event: object, publication: Publication, *, live: bool) -> Fact:
        """Return the fact of an event. If handlers do not get the event type, it is taken from the publishing call."""
        if publication.received or not publication.running:
            return self._reader.read(event, live=live)
        try:
            fact = self._reader.read(event, live=live)
        except ValueError:
            call_event = publication.as_event() or (publication.event if event is None else None)
            if call_event is None:
                raise
            return self._reader.read(call_event, live=live)
        if fact.verb is _EVENT and ending(fact.event.name) is None:
            call_event = publication.as_event()
            if (
                call_event is not None
                and ending(str(call_event["event_type"])) is not None
                and kind_of(event) is None
                and not is_event(event)
            ):
                return self._reader.read(call_event, live=live)
        return fact

    def _note_opened(self, publication: Publication, record: SpanState) -> None:
        """Add ``record`` to its publication, with its run if that was opened implicitly for this record."""
        run, opened = record.parent, [record] if record.result is None else []
        if (
            run is not None
            and run.level is Level.RUN
            and run.children_total == 1
            and Flag.INFERRED in run.flags
        ):
            opened.insert(0, run)
        task = publication.task() if publication.task is not None else None
        for one in opened:
            publication.add_opened(one)
            if task is not None:
                self._task_ends.opened(task, one)

    def _count_unrecognised(self, event_type: str) -> None:
        """Count an event that starts and ends nothing; warn after 50 of them if no phase was recognised."""
        types = self._unrecognised_types
        if types is None:
            return
        self._unrecognised += 1
        if len(types) < _TYPES_NAMED:
            types[event_type] = None
        if self._unrecognised < _WARN_AFTER:
            return
        self._warn_unrecognised()

    def _warn_unrecognised(self) -> None:
        types, self._unrecognised_types = self._unrecognised_types, None
        state = self._correlator.state()
        if types and state.phases_open + state.phases_ended == 0 and self._expects_events:
            logger.warning(
                "%d events of %s and no phase among them: the dialect %r does not know types such as %s. "
                "`spanbus dialect check FILE STREAM` shows how each is read, `spanbus dialect suggest STREAM` writes a dialect",
                self._unrecognised,
                self._label,
                self._reader.dialect.name,
                ", ".join(types),
            )

    def failed(self, error: Exception) -> None:
        """Count an internal error, and log it with its traceback once for each kind."""
        if isinstance(error, Unreadable) and not self.by_publisher:
            error = Unreadable(
                f"{error}. Handlers of this bus may not be told the type: mode='auto' also reads the call that publishes"
            )
        with self._lock:
            self._errors += 1
            self._last_error = f"{type(error).__name__}: {error}"
            kind = type(error).__qualname__
            first = kind not in self._logged_kinds and len(self._logged_kinds) < 20
            self._logged_kinds.add(kind)
        if first:
            logger.warning(
                "telemetry of %s met an error, the workflow is not affected: %s",
                self._label,
                error,
                exc_info=None if isinstance(error, Unreadable) else error,
            )

    # --- life ---------------------------------------------------------------------------------------------------------

    def state(self) -> CorrelatorState:
        """Return a snapshot of the counts."""
        self.tick()
        return self._correlator.state()._replace(errors=self._errors, last_error=self._last_error)

    def detach(self) -> None:
        """Stop observing; later calls do nothing. Open work ends as abandoned. Logs a warning if no event came."""
        with self._lock:
            if self._detached:
                return
            self._detached = True
            off, self._off = self._off, True  # the bus may keep its handlers
        for undo in [*self._subscriptions.values(), *reversed(self._undo)]:
            try:
                undo()
            except Exception as error:
                self.failed(error)
        self._task_ends.tick(at_end=True)
        if self._unrecognised >= _FEW_EVENTS and self._correlator.state().runs_open == 0:
            self._warn_unrecognised()
        self._correlator.close()
        if self._recorder is not None:
            self._recorder.close()
        if (
            self._correlator.state().events_seen == 0
            and self._errors == 0
            and self._expects_events
            and not off
        ):
            logger.warning(
                "spanbus was attached to %s and saw no event; was this the bus that the workflow publishes on, and before it began?",
                self._label,
            )

    def expect_nothing(self) -> None:
        """Do not warn if no event arrives."""
        self._expects_events = False

    def records_to(self, recorder: Recorder) -> None:
        """Also write each event to ``recorder``."""
        self._recorder = recorder

    def __reduce__(self) -> tuple[object, ...]:
        """A copy with a bus of sinks is a sink that reports to no handle."""
        return Observer, (None, self.answer_form)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def subscribed(self, bus: object, undo: Callable[[], None]) -> None:
        """Keep ``undo``, which unsubscribes from ``bus``, as long as the bus lives."""
        try:
            self._subscriptions.put(bus, undo)
        except TypeError:
            self._undo.append(undo)

    def subscribed_to(self, bus: object) -> bool:
        """Whether events of ``bus`` arrive by subscription."""
        return self._subscriptions.get(bus) is not None

    def add_undo(self, undo: Callable[[], None]) -> None:
        """Add a function for ``detach`` to call; the last added is called first."""
        self._undo.append(undo)
