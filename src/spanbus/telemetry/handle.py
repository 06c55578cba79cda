"""What observes one bus: it is fed events, and tells what came of them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self, cast

from spanbus.telemetry.by_identity import ByIdentity
from spanbus.telemetry.context import Incoming
from spanbus.telemetry.current import fed_here, within
from spanbus.telemetry.dialect import Dialect
from spanbus.telemetry.facts import Fact, Verb
from spanbus.telemetry.plain_events import PlainEvents
from spanbus.telemetry.raw import read
from spanbus.telemetry.recorder import Recorder
from spanbus.workflow.events import Event

logger = logging.getLogger("spanbus")

_EVENT_TYPE_KEYS = ("event_type", "type", "topic", "kind")


@dataclass(frozen=True, slots=True)
class HandleState:
    """What a handle saw and made, counted together."""

    events_seen: int
    events_recorded: int
    runs_open: int
    phases_open: int
    runs_ended: int
    phases_ended: int
    orphan_ends: int
    unmatched_ends: int
    errors: int
    last_error: str | None
    run_failures: int = 0
    phase_failures: int = 0
    retries: int = 0
    abandoned: int = 0


class Handle:
    """A bus under observation. A context manager; ``detach`` may be called any number of times."""

    def __init__(
        self, recorder: Recorder, dialect: Dialect, *, label: str, caller: Callable[[], Incoming] | None = None, off: bool = False,
        expects_events: bool = True, on_detach: Callable[[], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._dialect = dialect
        self._label = label
        self._caller = caller
        self._off = off
        self._expects_events = expects_events
        self._undo: list[Callable[[], None]] = []
        self._subscriptions: ByIdentity[Callable[[], None]] = ByIdentity()
        self._on_detach = on_detach
        self._errors = 0
        self._last_error: str | None = None
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._detached = False
        self._plain = PlainEvents(recorder, dialect)
        self.observer = observer_of(self)
        """The subscription: a plain function that returns True (on foreign buses None counts as failure), with itself as its ``handle``."""

    @property
    def off(self) -> bool:
        """Telemetry is switched off (``OTEL_SDK_DISABLED``): nothing is subscribed, nothing is read."""
        return self._off

    @property
    def detached(self) -> bool:
        """It has left its bus for good."""
        return self._detached

    @property
    def recorder(self) -> Recorder:
        """The state machine behind this handle."""
        return self._recorder

    def feed(self, event: object) -> None:
        """Push one event by hand: a mapping, an object of any bus, or one decoded JSON line.

        Never raises: what cannot be read is counted in ``state().errors`` and logged once for each kind of error.
        """
        if self._off:
            return
        try:
            if type(event) is Event:
                if self._plain.take(event):
                    return
                fact = self._dialect.of(event)
            else:
                fact = self._dialect.fact(read(event))
            if fact.verb is Verb.START and fact.traceparent is None and self._caller is not None and self._recorder.would_open_run(fact):
                came = self._caller()
                if came.traceparent is not None:
                    fact = fact._replace(traceparent=came.traceparent, tracestate=came.tracestate)
            record = self._recorder.feed(fact, within=within())
            fed = fed_here.get()
            if fed is not None and record is not None:
                fed.append((fact, record))
        except Exception as error:
            self.failed(error)

    def take(self, fact: Fact) -> None:
        """One fact of a recorded stream; the order is the stream's. Never raises, like :meth:`feed`."""
        try:
            self._recorder.feed(fact)
        except Exception as error:
            self.failed(error)

    def handle(self, *arguments: object, **options: object) -> bool:
        """What a bus of sinks calls; the same as :attr:`observer`."""
        return self.observer(*arguments, **options)

    def called(self, arguments: tuple[object, ...], options: Mapping[str, object]) -> None:
        """One event, however a bus passes it: the event; its type and its payload; any of these by keyword. Never raises, like :meth:`feed`."""
        try:
            event = _event_among(arguments, options)
        except Exception as error:
            self.failed(error)
        else:
            self.feed(event)

    def failed(self, error: Exception) -> None:
        """An error of our own: counted, and logged once for each kind with its traceback."""
        with self._lock:
            self._errors += 1
            self._last_error = f"{type(error).__name__}: {error}"
            kind = type(error).__qualname__
            first = kind not in self._told and len(self._told) < 20
            self._told.add(kind)
        if first:
            logger.warning("telemetry of %s met an error, the workflow is not affected: %s", self._label, error, exc_info=error)

    def state(self) -> HandleState:
        """A frozen snapshot of the counts."""
        state = self._recorder.state()
        return HandleState(
            state.events_seen, state.events_recorded, state.runs_open, state.phases_open, state.runs_ended, state.phases_ended,
            state.orphan_ends, state.unmatched_ends, self._errors, self._last_error, state.run_failures, state.phase_failures,
            state.retries, state.abandoned,
        )

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
        self._recorder.close()
        if self._recorder.state().events_seen == 0 and self._errors == 0 and self._expects_events and not off:
            logger.warning(
                "spanbus was attached to %s and saw no event; was this the bus that the workflow publishes on, and before it began?", self._label
            )
        if self._on_detach is not None:
            self._on_detach()

    def expect_nothing(self) -> None:
        """It is no mistake when no event comes."""
        self._expects_events = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def subscribed(self, bus: object, undo: Callable[[], None]) -> None:
        """How to leave ``bus``; forgotten with the bus, for programs make many."""
        try:
            self._subscriptions.put(bus, undo)
        except TypeError:
            self._undo.append(undo)

    def add_undo(self, undo: Callable[[], None]) -> None:
        """What ``detach`` has to take back, last first."""
        self._undo.append(undo)


def observer_of(handle: Handle) -> Callable[..., bool]:
    """A function of its own, so that it is there for buses that refer to their handlers weakly, and a sink for those that call ``handle``."""

    def spanbus_observer(*arguments: object, **options: object) -> bool:
        if len(arguments) == 1 and not options and not isinstance(arguments[0], str | Enum):
            handle.feed(arguments[0])
        else:
            handle.called(arguments, options)
        return True

    setattr(spanbus_observer, "handle", spanbus_observer)  # noqa: B010
    return spanbus_observer


def _event_among(arguments: tuple[object, ...], options: Mapping[str, object]) -> object:
    """The event in what a bus calls its handlers with, or in what its ``publish`` was asked for."""
    first = arguments[0] if arguments else None
    if isinstance(first, str | Enum):
        payload = next((argument for argument in arguments[1:] if argument is not None), None)
        if payload is None:
            payload = options.get("payload", options.get("data", options))
        if _is_event(payload):  # a topic, then the event
            return payload
        return {"event_type": first, "payload": payload}
    if not arguments or (len(options) > 0 and not _is_event(first)):  # by keyword, with the sender before them or without
        event = options.get("event")
        if isinstance(event, str | Enum):
            return _event_among((event,), {key: value for key, value in options.items() if key != "event"})
        if event is not None:
            return event
        if any(key in options for key in _EVENT_TYPE_KEYS):
            return options
        return next(iter(options.values())) if len(options) == 1 and not arguments else first
    return first


def _is_event(thing: object) -> bool:
    """It has a type and a payload of its own."""
    get = cast("Mapping[str, object]", thing).get if isinstance(thing, Mapping) else functools.partial(getattr, thing)
    payload, data, metadata = get("payload", None), get("data", None), get("metadata", None)
    typed = any(isinstance(get(key, None), str | Enum) for key in _EVENT_TYPE_KEYS)
    return (typed and (payload is not None or data is not None)) or (metadata is not None and payload is not None)
