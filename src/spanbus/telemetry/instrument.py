"""Attach to a bus, report what was seen, detach.

Two ways in. *Observe*: one wildcard subscription with a plain function that returns True, which works on any bus with
``subscribe``. *Wrap*: ``publish`` is wrapped too, and the context of a phase is current in the task that published its
start until that task publishes its end, so that spans made inside the phase nest under it, through ``to_thread`` too.
The observed bus is never published on, its events are never changed, and nothing here raises into it.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from spanbus.errors import InputError
from spanbus.telemetry.context import Incoming
from spanbus.telemetry.dialect import Dialect
from spanbus.telemetry.facts import Fact, Verb
from spanbus.telemetry.names import Level
from spanbus.telemetry.raw import read
from spanbus.telemetry.recorder import Recorder
from spanbus.telemetry.records import Record
from spanbus.telemetry.rendering import context_of
from spanbus.workflow.events import Event

logger = logging.getLogger("spanbus")

Mode = Literal["observe", "wrap"]

_HANDLER_NAMES = ("handler", "callback", "fn", "func", "listener", "subscriber", "observer", "sink", "receiver")
_TYPE_NAMES = ("event_type", "type", "event", "topic", "pattern", "name", "event_name", "subject", "kind", "channel")
_CONCURRENCY = 1_000


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


class Attached:
    """The phases whose context this task attached; the innermost that is still open is current."""

    __slots__ = ("base", "records")

    def __init__(self, base: Context, records: tuple[Record, ...]) -> None:
        self.base = base
        self.records = records


_attached: contextvars.ContextVar[Attached | None] = contextvars.ContextVar("spanbus_attached", default=None)
_fed: contextvars.ContextVar[list[tuple[Fact, Record]] | None] = contextvars.ContextVar("spanbus_fed", default=None)


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
        self._subscriptions: weakref.WeakKeyDictionary[object, Callable[[], None]] = weakref.WeakKeyDictionary()
        self._on_detach = on_detach
        self._errors = 0
        self._last_error: str | None = None
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._detached = False

    @property
    def off(self) -> bool:
        """Telemetry is switched off (``OTEL_SDK_DISABLED``): nothing is subscribed, nothing is read."""
        return self._off

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
                if event.phase is not None and self._dialect.only_notes(event.event_type) and self._recorder.note(event):
                    return
                fact = self._dialect.of(event)
            else:
                fact = self._dialect.fact(read(event))
            if fact.verb is Verb.START and fact.traceparent is None and self._caller is not None and self._recorder.would_open_run(fact):
                came = self._caller()
                if came.traceparent is not None:
                    fact = fact._replace(traceparent=came.traceparent, tracestate=came.tracestate)
            attached = _attached.get()
            within = attached.records[-1].run_id if attached is not None and attached.records else None
            record = self._recorder.feed(fact, within=within)
            fed = _fed.get()
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

    def observer(self, event: object, *arguments: object, **options: object) -> bool:
        """The subscription: plain, returns True (on foreign buses None counts as failure).

        A bus that calls its handlers with a type and a payload, or with keywords, is understood too.
        """
        if isinstance(event, str):
            payload = next((cast("Mapping[str, object]", argument) for argument in arguments if isinstance(argument, Mapping)), options)
            self.feed({"event_type": event, "payload": payload})
        else:
            self.feed(event)
        return True

    handle = observer

    def published(self, event: object = None, payload: object = None, **options: object) -> None:
        """What a bus without ``subscribe`` was asked to publish."""
        if isinstance(event, str):
            self.feed({"event_type": event, "payload": cast("Mapping[str, object]", payload) if isinstance(payload, Mapping) else options})
        elif event is not None:
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
        for undo in [*self._subscriptions.values(), *reversed(self._undo)]:
            try:
                undo()
            except Exception as error:
                self.failed(error)
        self._recorder.close()
        if self._recorder.state().events_seen == 0 and self._errors == 0 and self._expects_events and not self._off:
            logger.warning(
                "spanbus was attached to %s and saw no event; was this the bus that the workflow publishes on, and before it began?", self._label
            )
        if self._on_detach is not None:
            self._on_detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def subscribed(self, bus: object, undo: Callable[[], None]) -> None:
        """How to leave ``bus``; forgotten with the bus, for programs make many."""
        try:
            self._subscriptions[bus] = undo
        except TypeError:
            self._undo.append(undo)

    def add_undo(self, undo: Callable[[], None]) -> None:
        """What ``detach`` has to take back, last first."""
        self._undo.append(undo)


_watched: weakref.WeakKeyDictionary[object, Handle] = weakref.WeakKeyDictionary()


def watching(bus: object) -> Handle | None:
    """The handle that observes this bus already, if any."""
    try:
        return _watched.get(bus)
    except TypeError:  # not hashable or not weakly referable: cannot be known again
        return None


def _watch(bus: object, handle: Handle) -> None:
    try:
        _watched[bus] = handle
    except TypeError:
        return
    weakly = weakref.ref(bus)

    def forget() -> None:
        watched = weakly()
        if watched is not None:
            _watched.pop(watched, None)

    handle.add_undo(forget)


def attach(bus: object, handle: Handle, *, mode: Mode = "observe") -> Handle:
    """Subscribe ``handle`` to every event of ``bus``; in ``wrap`` mode also make phases current for their publisher.

    Raises :class:`~spanbus.errors.InputError` when the object has no way in that we know.
    """
    if handle.off:
        return handle
    _subscribe(bus, handle)
    _watch(bus, handle)
    if mode == "wrap":
        _wrap_publish(bus, handle)
    return handle


# --- observing --------------------------------------------------------------------------------------------------------


def _subscribe(bus: object, handle: Handle) -> None:
    subscribe = cast("Callable[..., object] | None", getattr(bus, "subscribe", None))
    if not callable(subscribe):
        raise InputError(
            f"{type(bus).__name__} has no subscribe(); pass its events to handle.feed(event), or use spanbus.instrument_class on the class"
        )
    arguments, options, subscribed = _how_to_subscribe(subscribe, handle)
    try:
        token = subscribe(*arguments, **options)
    except (TypeError, ValueError):
        if not arguments or arguments[0] is not None:
            raise
        token = subscribe("*", *arguments[1:], **options)
    if inspect.isawaitable(token):
        close = getattr(token, "close", None)
        if callable(close):
            close()
        raise InputError(f"{type(bus).__name__}.subscribe() is a coroutine; await it yourself with handle.observer as the handler")

    try:
        weakly: Callable[[], object] = weakref.ref(bus)
    except TypeError:
        weakly = functools.partial(_same, bus)

    def undo() -> None:
        unsubscribe = getattr(weakly(), "unsubscribe", None)
        if callable(token):
            token()
        elif callable(unsubscribe):
            unsubscribe(subscribed if token is None else token)

    handle.subscribed(bus, undo)


def _same(thing: object) -> object:
    return thing


def _how_to_subscribe(subscribe: Callable[..., object], handle: Handle) -> tuple[list[object], dict[str, object], object]:
    """Arguments for a ``subscribe`` we have never seen, from its signature."""
    try:
        parameters = inspect.signature(subscribe).parameters
    except (TypeError, ValueError):
        return [None, handle.observer], {}, handle.observer
    named = [
        parameter for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    options: dict[str, object] = {}
    for parameter in named:
        if parameter.name == "max_concurrent":
            options["max_concurrent"] = _CONCURRENCY
        elif parameter.name == "description":
            options["description"] = "spanbus telemetry"
    positional = [parameter for parameter in named if parameter.kind is not parameter.KEYWORD_ONLY and parameter.name not in options]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    handler = next((parameter for parameter in named if parameter.name in _HANDLER_NAMES), None)
    event_type = next((parameter for parameter in named if parameter.name in _TYPE_NAMES), None)
    if handler is not None and handler.name == "sink" and event_type is None:
        return [handle], options, handle
    if event_type is None and (len(required) == 1 or len(positional) == 1):
        return [handle.observer], options, handle.observer
    if handler is not None and handler.kind is handler.KEYWORD_ONLY:
        options[handler.name] = handle.observer
        return [None], options, handle.observer
    if handler is not None and positional and positional[0] is handler:  # subscribe(handler, event_type=None)
        return [handle.observer], options, handle.observer
    return [None, handle.observer], options, handle.observer


# --- wrapping ---------------------------------------------------------------------------------------------------------


def _wrap_publish(bus: object, handle: Handle) -> None:
    publish = getattr(bus, "publish", None)
    if not callable(publish):
        raise InputError(f"{type(bus).__name__} has no publish() to wrap; use mode='observe'")
    had = "publish" in getattr(bus, "__dict__", {})
    wrapped = wrapping(publish)
    try:
        object.__setattr__(bus, "publish", wrapped)
    except AttributeError as error:
        raise InputError(f"publish of {type(bus).__name__} cannot be replaced on the instance; use spanbus.instrument_class") from error

    def undo() -> None:
        if had:
            object.__setattr__(bus, "publish", publish)
        elif getattr(bus, "__dict__", {}).get("publish") is wrapped:
            object.__delattr__(bus, "publish")

    handle.add_undo(undo)


def wrapping(publish: Callable[..., object], feed: Callable[..., None] | None = None) -> Callable[..., object]:
    """``publish`` so that the phases it starts are current afterwards in the caller's task, and only there."""

    @functools.wraps(publish)
    def published(*arguments: object, **options: object) -> object:
        fed: list[tuple[Fact, Record]] = []
        token = _fed.set(fed)
        try:
            result = publish(*arguments, **options)
            if feed is not None:
                feed(*arguments, **options)
        finally:
            _fed.reset(token)
        if inspect.isawaitable(result):
            return _continued(result, fed)
        follow(fed)
        return result

    return published


async def _continued(result: Awaitable[object], fed: list[tuple[Fact, Record]]) -> object:
    token = _fed.set(fed)
    try:
        value = await result
    finally:
        _fed.reset(token)
        follow(fed)
    return value


def follow(fed: Iterable[tuple[Fact, Record]]) -> None:
    """Make the innermost phase that this task started, and nobody ended, the current span of this task."""
    attached = _attached.get()
    records = attached.records if attached is not None else ()
    started = tuple(
        record for fact, record in fed
        if fact.verb in (Verb.START, Verb.RETRY) and record.level in (Level.RUN, Level.PHASE, Level.ATTEMPT) and record not in records
    )
    open_now = tuple(record for record in records + started if record.result is None)
    if open_now == records:
        return
    base = attached.base if attached is not None else otel_context.get_current()
    otel_context.attach(context_of(_deepest(open_now[-1]), base) if open_now else base)
    _attached.set(Attached(base, open_now) if open_now else None)


def _deepest(record: Record) -> Record:
    """The running attempt of a phase, where it has one."""
    attempts = [child for child in record.children[-4:] if child.level is Level.ATTEMPT and child.result is None]
    return attempts[-1] if attempts else record


# --- a whole class ----------------------------------------------------------------------------------------------------


def attach_class(kind: type, handle: Handle) -> Handle:
    """Wrap ``publish`` on a bus class: every instance, those to come too, is observed and wrapped.

    Instances with a handle of their own are left to it. Raises :class:`~spanbus.errors.InputError` when the class has no
    ``publish``, or is instrumented already.
    """
    if handle.off:
        return handle
    publish = inspect.getattr_static(kind, "publish", None)
    if publish is None or not callable(getattr(kind, "publish", None)):
        raise InputError(f"class {kind.__name__} has no publish() to wrap")
    if getattr(publish, "_spanbus", None) is not None:
        raise InputError(f"class {kind.__name__} is instrumented already; detach its handle first")
    own = "publish" in vars(kind)
    original = cast("Callable[..., object]", getattr(kind, "publish"))  # noqa: B009

    @functools.wraps(original)
    def published(bus: object, *arguments: object, **options: object) -> object:
        feed = None
        if watching(bus) is None:
            try:
                _subscribe(bus, handle)
                _watched[bus] = handle
            except InputError:  # no way to subscribe: what publish is told is all there is
                feed = handle.published
            except Exception as error:
                handle.failed(error)
        return wrapping(functools.partial(original, bus), feed)(*arguments, **options)

    setattr(published, "_spanbus", handle)  # noqa: B010 - a mark on a function
    setattr(kind, "publish", published)  # noqa: B010

    def undo() -> None:
        if vars(kind).get("publish") is published:
            if own:
                setattr(kind, "publish", publish)  # noqa: B010
            else:
                delattr(kind, "publish")

    handle.add_undo(undo)
    return handle


