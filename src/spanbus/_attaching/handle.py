"""Observes one bus: it is fed events, and tells what came of them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self, TypeVar, overload

from spanbus._attaching.answer import AnswerForm, AwaitableTrue, answer
from spanbus._attaching.call import event_in, is_event
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
_EVENT, _BEGINS = Verb.EVENT, (Verb.START, Verb.RETRY)  # members cost a look-up each
_WARN_AFTER = 50
_FEW_EVENTS = 5
"""Events of a bus that is left after a short time, of which the same is said."""
_TYPES_NAMED = 8


class Handle:
    """A bus under observation. A context manager; ``detach`` may be called any number of times."""

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
        known = self.mark = weakref.ref(self)
        """Stands for this handle in the contexts of tasks, which may outlive it."""

        def leave(records: list[SpanState], error: BaseException | None) -> None:
            if (handle := known()) is not None:
                handle.leave_open(records, error)

        self._task_ends = TaskEnds(leave)
        self.answer_form: AnswerForm = "unknown"
        """The form of what the observer returns, by what the bus does with it."""
        self.bus: Callable[[], object] | None = None
        """A weak reference to the bus."""
        self.in_place = False
        """The bus calls its observers in the context of the publisher, so that no tap is needed to know it: ours does."""
        self.by_publisher = True
        """Whether the publishing task says to which run and phase an event belongs."""
        self.observer = observer_of(self)
        """The subscription: a function that returns True (on foreign buses None counts as failure), in a form that can
        be awaited where the bus may do so; with itself as its ``handle`` and ``on_event``, for buses of sinks."""
        self.awaited_observer = awaited_observer_of(self)
        """The same as a coroutine function, for buses that take nothing else."""

    @property
    def off(self) -> bool:
        """Telemetry is switched off (``OTEL_SDK_DISABLED``): nothing is subscribed, nothing is read."""
        return self._off

    @property
    def detached(self) -> bool:
        """Whether it has left its bus for good."""
        return self._detached

    @property
    def bus_is_gone(self) -> bool:
        """Whether no more events can come: the bus was collected, and nothing was fed by hand."""
        return not self._fed and self.bus is not None and self.bus() is None

    @property
    def correlator(self) -> Correlator:
        """The state machine behind this handle."""
        return self._correlator

    # --- events by hand -----------------------------------------------------------------------------------------------

    def feed(self, event: object) -> None:
        """Push one event by hand: a mapping, an object of any bus, or one decoded JSON line.

        Never raises: what cannot be read is counted in ``state().errors`` and logged once for each kind of error.
        """
        if self._off:
            return
        self._fed = True
        self._take(event, None, publications.get(), live=False)

    def tell(self, event_type: str, /, **payload: object) -> None:
        """One event by its type and payload, as the task that calls this publishes it: for hooks and callbacks.

        Never raises, like :meth:`feed`.
        """
        if self._off:
            return
        publication = Publication(self.mark, "tell")
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
        """The events of ``stream``, each passed on and fed.

        An exception that comes out of the stream ends what its events opened and left open, with its class, and goes on
        to the caller; at the end of the stream runs that nobody announced end. Takes an async iterable, or a plain one.
        """
        from spanbus._attaching.streams import watched

        return watched(self, stream)

    def watching_calls(
        self, thing: object, method: str, *, name: Callable[..., object] | str | None = None
    ) -> AbstractContextManager[None]:
        """While this is entered, each call of ``thing.method`` is a phase: its result ends it, its exception fails it.

        ``name`` is the phase's name, or is called with the call's arguments and returns it; by default the first text
        among the arguments, else the method's name. Raises :class:`~spanbus.errors.InputError` where there is no such
        method or it cannot be replaced.
        """
        from spanbus._attaching.streams import calls_watched

        return calls_watched(self, thing, method, name)

    def watching_work(
        self, kind: Kind, name: str, /, **said: object
    ) -> AbstractContextManager[Work]:
        """While this is entered a ``run``, ``phase``, ``job`` or ``hook`` of that name is at work, its span current.

        What leaves the block ends it: nothing is success, ``TimeoutError`` a time-out, ``CancelledError`` a cancellation,
        any other exception a failure. Phases belong to the run in whose block they are; a ``job`` is a run and its phase
        where the dialect says ``run = "each"``. ``said`` is the payload of its start, such as ``run_id``.
        """
        from spanbus._attaching.work import watched

        return watched(self, kind, name, said)

    def take(self, fact: Fact) -> None:
        """One fact of a recorded stream; the order is the stream's. Never raises, like :meth:`feed`."""
        try:
            self._correlator.apply(fact)
        except Exception as error:
            self.failed(error)

    # --- events of a bus ----------------------------------------------------------------------------------------------

    def handle(self, *arguments: object, **options: object) -> bool | AwaitableTrue | None:
        """Sink method for buses of sinks; the same as :attr:`observer`."""
        return self.observer(*arguments, **options)

    def called(self, arguments: tuple[object, ...], options: Mapping[str, object]) -> None:
        """One event, however a bus passes it to its handlers. Never raises, like :meth:`feed`."""
        if self._off:
            return
        try:
            event = event_in(arguments, options)
            if type(event) is Event and self.in_place:
                self._receive_in_place(event)
                return
            if type(event) is ReceivedEvent:
                return
            publication, here = self._publication_of(event)
        except Exception as error:
            self.failed(error)
        else:
            self._take(event, publication, here)

    def published(self, event: object, publication: Publication) -> None:
        """One event, told by the method that published it. Never raises, like :meth:`feed`."""
        if type(event) is not ReceivedEvent:
            self._take(event, publication, publications.get())

    def heard(self, event: object, publication: Publication) -> None:
        """One event of a stream, of which only the stream says what opened with it. Never raises, like :meth:`feed`."""
        self._take(event, publication, ())

    def waiting(self, publication: Publication) -> None:
        """A publication whose event has not been heard yet: it comes from a queue, or never."""
        if not self._off:
            self._queued.put(publication)

    def stream_failed(self, error: object = None) -> None:
        """The stream of events ended with an error: what is open ends with it."""
        failure = error if isinstance(error, BaseException) else None
        self.stream_ended(self._correlator.open_records(), failure)

    def stream_ended(self, opened: Iterable[SpanState], error: BaseException | None) -> None:
        """A stream is over: what it opened ends now."""
        self.leave_open(opened, error, at_end=True)

    def leave_open(
        self, records: Iterable[SpanState], error: BaseException | None, *, at_end: bool = False
    ) -> None:
        """The publisher of these records is gone: those that are open end with ``error``, where there is one.

        ``at_end`` says that nobody else can publish of them.
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
                    continue  # others go on with it
                self._correlator.publisher_ended(record, result, failure)
        except Exception as problem:
            self.failed(problem)

    def _receive_in_place(self, event: Event) -> None:
        """An event of our own bus: where it says its run and phase itself, its publisher need not be asked."""
        if event.run_id is not None and event.phase is not None:
            self._take(event, None, ())
            return
        publication = Publication(self.mark, "dispatch")
        enter(publication, publications.get())
        self._take(event, publication, publications.get())
        leave(publication)

    def tick(self) -> None:
        """Let time pass: what became of work by the end of its task holds when nobody has said otherwise."""
        self._task_ends.tick()

    def _publication_of(self, event: object) -> tuple[Publication | None, tuple[Publication, ...]]:
        """Find the publication of an event, with those before it; none in the context of a worker that delivers them."""
        here = publications.get()
        if here:
            last = here[-1]
            if last.owner is self.mark and (last.running or not last.heard):
                if not last.running:
                    self._queued.forget(last)
                return last, here
        if self._queued and (found := self._queued.find(event)) is not None:
            return found, (*found.before, found)
        return None, ()

    def _take(
        self,
        event: object,
        publication: Publication | None,
        here: tuple[Publication, ...],
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
            within = innermost(self.mark, here) if here and self.by_publisher else None
            task = publication.key if publication is not None and self.by_publisher else None
            record = self._correlator.apply(fact, within, task)
            if publication is not None:
                publication.heard += 1
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
        """The fact of an event; where a handler is not told its type, that of the call which published it."""
        if publication.heard or not publication.running:
            return self._reader.read(event, live=live)
        try:
            fact = self._reader.read(event, live=live)
        except ValueError:
            said = publication.as_event()
            if said is None:
                raise
            return self._reader.read(said, live=live)
        if fact.verb is _EVENT and ending(fact.event.name) is None:
            said = publication.as_event()
            if (
                said is not None
                and ending(str(said["event_type"])) is not None
                and kind_of(event) is None
                and not is_event(event)
            ):
                return self._reader.read(said, live=live)
        return fact

    def _note_opened(self, publication: Publication, record: SpanState) -> None:
        """Note that ``publication`` opened ``record``, and the run above it where that was opened for it alone."""
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
        """Say so when many events came that begin and end nothing, and no phase was recognised."""
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
        """An error of our own: counted, and logged once for each kind with its traceback."""
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
        """A frozen snapshot of the counts."""
        self.tick()
        return self._correlator.state()._replace(errors=self._errors, last_error=self._last_error)

    def detach(self) -> None:
        """Stop observing. What is open ends as abandoned; a handle that saw nothing says so in the log."""
        with self._lock:
            if self._detached:
                return
            self._detached = True
            off, self._off = self._off, True  # a bus that keeps its handlers is not heard any more
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
        """Do not warn when no event comes."""
        self._expects_events = False

    def records_to(self, recorder: Recorder) -> None:
        """Write each event to ``recorder`` too."""
        self._recorder = recorder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def subscribed(self, bus: object, undo: Callable[[], None]) -> None:
        """Keep ``undo``, which leaves ``bus``; forgotten with the bus, because programs make many."""
        try:
            self._subscriptions.put(bus, undo)
        except TypeError:
            self._undo.append(undo)

    def subscribed_to(self, bus: object) -> bool:
        """Events of ``bus`` come by a subscription."""
        return self._subscriptions.get(bus) is not None

    def add_undo(self, undo: Callable[[], None]) -> None:
        """Add a step for ``detach`` to take back; the last added goes first."""
        self._undo.append(undo)


def observer_of(handle: Handle) -> Callable[..., bool | AwaitableTrue | None]:
    """A function of its own, so that it is there for buses that refer to their handlers weakly, and a sink for those
    that call a method.
    """

    def observer(*arguments: object, **options: object) -> bool | AwaitableTrue | None:
        handle.called(arguments, options)
        return answer(handle.answer_form)

    for name in ("handle", "on_event", "handle_event"):
        setattr(observer, name, observer)
    return observer


def awaited_observer_of(handle: Handle) -> Callable[..., object]:
    """The observer as a coroutine function."""

    async def observer(*arguments: object, **options: object) -> bool:
        handle.called(arguments, options)
        return True

    return observer
