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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Generic, Literal, NamedTuple, Self, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from spanbus.errors import InputError
from spanbus.memo import Memo
from spanbus.telemetry.context import Incoming
from spanbus.telemetry.dialect import PLAIN_START, PLAIN_SUCCESS, Dialect, Rule, seconds_ns
from spanbus.telemetry.facts import Fact, Verb
from spanbus.telemetry.names import Level
from spanbus.telemetry.raw import read
from spanbus.telemetry.recorder import Recorder
from spanbus.telemetry.records import Record
from spanbus.telemetry.rendering import context_of
from spanbus.workflow.bus import Receipt, WorkflowEventBus
from spanbus.workflow.events import Event

logger = logging.getLogger("spanbus")

_T = TypeVar("_T")

Mode = Literal["observe", "wrap"]

_HANDLER_NAMES = ("handler", "callback", "fn", "func", "listener", "subscriber", "observer", "sink", "receiver")
_TYPE_NAMES = ("event_type", "type", "event", "topic", "pattern", "name", "event_name", "subject", "kind", "channel")
_EVENT_TYPE_KEYS = ("event_type", "type", "topic", "kind")
_ENDS_OF_SUBSCRIPTIONS = ("unsubscribe", "dispose", "cancel", "close")
_CONCURRENCY = 1_000
_ENDED_KEPT = 16


def _no_way(event: Event) -> bool:
    del event
    return False


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


class Attached(NamedTuple):
    """A phase whose span this task made current: the id of that span, and the span that was current before."""

    record: Record
    span_id: int
    before: Span


_attached: contextvars.ContextVar[tuple[Attached, ...]] = contextvars.ContextVar("spanbus_attached", default=())
_fed: contextvars.ContextVar[list[tuple[Fact, Record]] | None] = contextvars.ContextVar("spanbus_fed", default=None)


class _ByIdentity(Generic[_T]):
    """Things known of other things, which are told apart by identity and forgotten when they go: a bus may be unhashable, or equal to another."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Callable[[], object], _T]] = {}

    def get(self, thing: object) -> _T | None:
        found = self._found.get(id(thing))
        return found[1] if found is not None and found[0]() is thing else None

    def put(self, thing: object, value: _T) -> None:
        """Raises ``TypeError`` for a thing to which no weak reference can be made."""
        key, found = id(thing), self._found
        self._found[key] = (weakref.ref(thing, lambda gone: found.pop(key, None) if key in found and found[key][0] is gone else None), value)

    def forget(self, thing: object) -> None:
        if self.get(thing) is not None:
            del self._found[id(thing)]

    def values(self) -> list[_T]:
        return [value for _, value in list(self._found.values())]


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
        self._subscriptions: _ByIdentity[Callable[[], None]] = _ByIdentity()
        self._on_detach = on_detach
        self._errors = 0
        self._last_error: str | None = None
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._detached = False
        self._ways: Memo[str, Callable[[Event], bool]] = Memo(self._way, 1_000)
        self.observer = _observer_of(self)
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
                if event.phase and event.run_id is not None and not event.metadata and self._ways[event.event_type](event):
                    return
                fact = self._dialect.of(event)
            else:
                fact = self._dialect.fact(read(event))
            if fact.verb is Verb.START and fact.traceparent is None and self._caller is not None and self._recorder.would_open_run(fact):
                came = self._caller()
                if came.traceparent is not None:
                    fact = fact._replace(traceparent=came.traceparent, tracestate=came.tracestate)
            record = self._recorder.feed(fact, within=_within())
            fed = _fed.get()
            if fed is not None and record is not None:
                fed.append((fact, record))
        except Exception as error:
            self.failed(error)

    # Most events of our own engine are plain: no fact is made of them, and what comes of them is the same.

    def _way(self, event_type: str) -> Callable[[Event], bool]:
        """The short way of events of a type; it returns False for one that is not plain."""
        if self._dialect.only_notes(event_type):
            return self._recorder.note
        plan = self._dialect.of_phase(event_type)
        if plan is not None and plan.begins:
            return functools.partial(self._begin, plan.rule)
        if plan is not None and plan.succeeds:
            return functools.partial(self._end, plan.rule)
        return _no_way

    def _begin(self, rule: Rule, event: Event) -> bool:
        payload = event.payload
        if not payload.keys() <= PLAIN_START or _fed.get() is not None:
            return False
        task_type, needs = payload.get("type"), payload.get("needs") or ()
        if (task_type is not None and type(task_type) is not str) or not isinstance(needs, list | tuple):
            return False
        return self._recorder.begin(event, rule.rank, task_type, [str(need) for need in cast("Sequence[object]", needs)] if needs else ())

    def _end(self, rule: Rule, event: Event) -> bool:
        payload = event.payload
        if not payload.keys() <= PLAIN_SUCCESS or payload.get("success") is False or _fed.get() is not None:
            return False
        return self._recorder.end(event, rule.rank, seconds_ns(payload.get("duration")) if rule.final else None)

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


_watched: _ByIdentity[Handle] = _ByIdentity()
_watching = threading.RLock()


def watching(bus: object) -> Handle | None:
    """The handle that observes this bus already, if any."""
    handle = _watched.get(bus)
    return handle if handle is not None and not handle.detached else None


def _watch(bus: object, handle: Handle) -> None:
    try:
        _watched.put(bus, handle)
        weakly: Callable[[], object] = weakref.ref(bus)
    except TypeError:  # not weakly referable: cannot be known again
        return
    handle.add_undo(lambda: _watched.forget(weakly()))


def attach(bus: object, handle: Handle, *, mode: Mode = "observe") -> Handle:
    """Subscribe ``handle`` to every event of ``bus``; in ``wrap`` mode also make phases current for their publisher.

    Without a bus the handle waits to be fed. Raises :class:`~spanbus.errors.InputError`, with nothing subscribed, when the
    object has no way in that we know.
    """
    if handle.off:
        return handle
    if bus is None:
        handle.expect_nothing()
        return handle
    try:
        _subscribe(bus, handle)
        _watch(bus, handle)
        if mode == "wrap":
            _wrap_publish(bus, handle)
    except Exception:
        handle.expect_nothing()
        handle.detach()
        raise
    return handle


# --- observing --------------------------------------------------------------------------------------------------------


def _observer_of(handle: Handle) -> Callable[..., bool]:
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


def _subscribe(bus: object, handle: Handle) -> None:
    subscribe = cast("Callable[..., object] | None", getattr(bus, "subscribe", None))
    if not callable(subscribe):
        raise InputError(
            f"{type(bus).__name__} has no subscribe(); use spanbus.instrument_class on the class, "
            "or pass its events to handle.feed(event) of handle = spanbus.instrument(None)"
        )
    if inspect.iscoroutinefunction(subscribe):
        raise _awaited(bus)
    arguments, options, type_name, subscribed = _how_to_subscribe(subscribe, handle)
    try:
        token = subscribe(*arguments, **options)
    except (TypeError, ValueError, KeyError, AttributeError):
        if arguments and arguments[0] is None:
            arguments[0] = "*"
        elif type_name is not None and options.get(type_name) is None:
            options[type_name] = "*"
        else:
            raise
        try:
            token = subscribe(*arguments, **options)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"{type(bus).__name__}.subscribe() took neither None nor '*' for all events ({error}); subscribe yourself with the observer "
                "of handle = spanbus.instrument(None)"
            ) from error
    if inspect.isawaitable(token):
        close = getattr(token, "close", None)
        if callable(close):
            close()
        raise _awaited(bus)

    try:
        weakly: Callable[[], object] = weakref.ref(bus)
    except TypeError:
        weakly = functools.partial(_same, bus)

    def undo() -> None:
        done = _unsubscribe(weakly(), token, subscribed)
        close = getattr(done, "close", None)
        if inspect.iscoroutine(done) and callable(close):  # nobody here can await it; the handle hears nothing any more
            close()

    handle.subscribed(bus, undo)


def _unsubscribe(bus: object, token: object, subscribed: object) -> object:
    """By what ``subscribe`` returned: nothing, the handler, a function, an id, or a subscription that can be ended."""
    unsubscribe = getattr(bus, "unsubscribe", None)
    if token is None or token is subscribed:
        return unsubscribe(subscribed) if callable(unsubscribe) else None
    if callable(token):
        return token()
    if callable(unsubscribe):
        return unsubscribe(token)
    ends = (getattr(token, name, None) for name in _ENDS_OF_SUBSCRIPTIONS)
    end = next((end for end in ends if callable(end)), None)
    return end() if end is not None else None


def _awaited(bus: object) -> InputError:
    return InputError(
        f"{type(bus).__name__}.subscribe() is a coroutine; await it yourself with the observer of handle = spanbus.instrument(None) as the handler"
    )


def _same(thing: object) -> object:
    return thing


def _how_to_subscribe(subscribe: Callable[..., object], handle: Handle) -> tuple[list[object], dict[str, object], str | None, object]:
    """Arguments for a ``subscribe`` we have never seen, from its signature; with the keyword of the type, where it is one, and what is subscribed."""
    observer: object = handle.observer
    try:
        parameters = inspect.signature(subscribe).parameters
    except (TypeError, ValueError):
        return [None, observer], {}, None, observer
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
    everything = event_type.default if event_type is not None and isinstance(event_type.default, str) else None
    if handler is not None and handler.name == "sink" and event_type is None:
        return [handle], options, None, handle
    if handler is not None and handler.kind is handler.KEYWORD_ONLY:
        options[handler.name] = observer
        if event_type is None or event_type.kind is not event_type.KEYWORD_ONLY:
            return [everything] if event_type is not None else [], options, None, observer
        if event_type.default is event_type.empty:
            options[event_type.name] = None
        return [], options, event_type.name, observer
    if event_type is None and (len(required) == 1 or len(positional) == 1):
        return [observer], options, None, observer
    if handler is not None and positional and positional[0] is handler:  # subscribe(handler, event_type=None)
        return [observer], options, None, observer
    return [everything, observer], options, None, observer


# --- wrapping ---------------------------------------------------------------------------------------------------------


def _wrap_publish(bus: object, handle: Handle) -> None:
    name = _publishing(type(bus))
    publish = getattr(bus, name, None)
    if not callable(publish):
        raise InputError(f"{type(bus).__name__} has no publish() to wrap; use mode='observe'")
    had = name in getattr(bus, "__dict__", {})
    wrapped = wrapping(publish)
    try:
        object.__setattr__(bus, name, wrapped)
    except AttributeError as error:
        raise InputError(f"publish of {type(bus).__name__} cannot be replaced on the instance; use spanbus.instrument_class") from error

    def undo() -> None:
        if had:
            object.__setattr__(bus, name, publish)
        elif getattr(bus, "__dict__", {}).get(name) is wrapped:
            object.__delattr__(bus, name)

    handle.add_undo(undo)


def _publishing(kind: type) -> str:
    """The method that every event passes: on our own bus, ``publish`` and what the engine calls both end in ``dispatch``."""
    return "dispatch" if issubclass(kind, WorkflowEventBus) else "publish"


def wrapping(
    publish: Callable[..., object], feed: Callable[[tuple[object, ...], Mapping[str, object]], None] | None = None
) -> Callable[..., object]:
    """``publish`` so that the phases it starts are current afterwards in the caller's task, and only there."""
    if inspect.iscoroutinefunction(publish):  # and it stays one, for those who ask

        @functools.wraps(publish)
        async def published_later(*arguments: object, **options: object) -> object:
            result = cast("Awaitable[object]", publish(*arguments, **options))
            if feed is not None:
                fed: list[tuple[Fact, Record]] = []
                token = _fed.set(fed)
                try:
                    feed(arguments, options)
                finally:
                    _fed.reset(token)
                return await _continued(result, fed)
            return await _continued(result, [])

        return published_later

    @functools.wraps(publish)
    def published(*arguments: object, **options: object) -> object:
        fed: list[tuple[Fact, Record]] = []
        token = _fed.set(fed)
        try:
            result = publish(*arguments, **options)
            if feed is not None:
                feed(arguments, options)
        finally:
            _fed.reset(token)
        if inspect.isawaitable(result) and not isinstance(result, Receipt):
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
    """Make the innermost phase that this task started, and nobody ended, the current span of this task.

    When it ends, what was current before it is current again. A span that the application made current in between is its
    own to take back, and what else it keeps in its context stays.
    """
    attached = _attached.get()
    known = [one.record for one in attached]
    started = [
        record for fact, record in fed
        if fact.verb in (Verb.START, Verb.RETRY) and record.level in (Level.RUN, Level.PHASE, Level.ATTEMPT) and record.result is None
        and record not in known
    ]
    if not started and all(record.result is None for record in known):
        return
    context = otel_context.get_current()
    attached, wanted = _left(attached, context)
    for record in started:
        before = trace.get_current_span(wanted)
        wanted = context_of(_deepest(record), wanted)
        attached = (*attached, Attached(record, _span_id(wanted), before))
    if wanted is not context:
        otel_context.attach(wanted)
    _attached.set(attached)


def _left(attached: tuple[Attached, ...], context: Context) -> tuple[tuple[Attached, ...], Context]:
    """What is attached still, and the context that goes with it, once phases have ended."""
    own = {one.span_id: one for one in attached}
    here = own.pop(_span_id(context), None)
    if here is None or here.record.result is None:
        # the span of one that has ended may become current once more, when the application takes back one of its own
        forgotten = [one for one in attached if one.record.result is not None][:-_ENDED_KEPT]
        return tuple(one for one in attached if one not in forgotten), context
    before = here.before
    while (outer := own.pop(before.get_span_context().span_id, None)) is not None and outer.record.result is not None:
        before = outer.before
    left = tuple(one for one in attached if one.record.result is None)
    return left, context_of(_deepest(outer.record), context) if outer is not None else trace.set_span_in_context(before, context)


def _span_id(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().span_id


def _within() -> str | None:
    """The id of the run in whose context this task is."""
    return next((one.record.run_id for one in reversed(_attached.get()) if one.record.result is None), None)


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
    name = _publishing(kind)
    publish = inspect.getattr_static(kind, name, None)
    if publish is None or not callable(getattr(kind, name, None)):
        raise InputError(f"class {kind.__name__} has no publish() to wrap")
    if getattr(publish, "_spanbus", None) is not None:
        raise InputError(f"class {kind.__name__} is instrumented already; detach its handle first")
    own = name in vars(kind)
    original = cast("Callable[..., object]", getattr(kind, name))

    def way_in(bus: object) -> Callable[[tuple[object, ...], Mapping[str, object]], None] | None:
        with _watching:
            if watching(bus) is not None:
                return None
            try:
                _watched.put(bus, handle)  # first of all: what cannot be known again would be subscribed to again
                _subscribe(bus, handle)
            except (TypeError, InputError):  # no way to subscribe: what publish is told is all there is
                _watched.forget(bus)
                return handle.called
            except Exception as error:
                handle.failed(error)
            return None

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def published_later(bus: object, *arguments: object, **options: object) -> object:
            return await cast("Awaitable[object]", wrapping(functools.partial(original, bus), way_in(bus))(*arguments, **options))

        published: Callable[..., object] = published_later
    else:

        @functools.wraps(original)
        def published_now(bus: object, *arguments: object, **options: object) -> object:
            return wrapping(functools.partial(original, bus), way_in(bus))(*arguments, **options)

        published = published_now
    setattr(published, "_spanbus", handle)  # noqa: B010 - a mark on a function
    setattr(kind, name, published)

    def undo() -> None:
        if vars(kind).get(name) is published:
            if own:
                setattr(kind, name, publish)
            else:
                delattr(kind, name)

    handle.add_undo(undo)
    return handle


