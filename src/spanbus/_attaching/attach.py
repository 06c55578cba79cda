"""Attach a handle to a bus by the first way in that fits, and detach it again.

The ways in, in order: the adapter of the bus's package; our own bus; a subscription that provably receives all event types,
with a tap that identifies the publisher; a tap on the publishing methods; signals. The way is chosen by inspection, nothing
is tried out on the bus. spanbus never publishes on an observed bus, never changes its events and never raises into it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

from spanbus._attaching import signals
from spanbus._attaching.adapters import Adapter
from spanbus._attaching.handle import Handle
from spanbus._attaching.methods import (
    as_coroutine_function,
    awaits_handlers,
    has,
    is_coroutine_function,
    is_state_machine,
    names_of,
    publishing_methods,
    static_attribute,
)
from spanbus._attaching.publication import weak_reference
from spanbus._attaching.replace import in_place_of, replaced
from spanbus._attaching.subscribe import SUBSCRIBING, WayIn, end, subscribe, way_in
from spanbus._attaching.tap import Tap
from spanbus._attaching.treatment import HOOK, treatment_of
from spanbus._attaching.weak_identity_map import WeakIdentityMap
from spanbus._loaded import is_instance_of, is_subclass_of
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus

Mode = Literal["auto", "observe", "wrap"]
MODES: tuple[Mode, ...] = ("auto", "observe", "wrap")
Subscribing = Callable[[Callable[..., object]], object]

_ALTERNATIVES = (
    "these ways always work: spanbus.instrument(bus, subscribe=lambda observer: …) with what subscribes on this bus, "
    "and of handle = spanbus.instrument(None): handle.feed(event), handle.watching(stream), and, where a call is the work, "
    "handle.watching_calls(engine, 'run')"
)
_NAMES_LISTED = 12
_OUR_BUS = "spanbus._workflow.bus", "WorkflowEventBus"

_handles: WeakIdentityMap[Handle] = WeakIdentityMap()
_subscribing_lock = threading.RLock()


def checked(mode: object) -> Mode:
    """Return ``mode``. Raises :class:`~spanbus.errors.InputError` if it is unknown."""
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: there are {', '.join(map(repr, MODES))}")
    return mode


def watching(bus: object) -> Handle | None:
    """Return the handle that observes this bus, if any."""
    handle = _handles.get(bus)
    return handle if handle is not None and not handle.detached else None


def _remember(bus: object, handle: Handle) -> None:
    try:
        _handles.put(bus, handle)
    except TypeError:  # not weakly referable: a second instrument() cannot find it
        return
    known = handle.bus = weak_reference(bus)
    handle.add_undo(lambda: _handles.forget(known()))


def attach(
    bus: object,
    handle: Handle,
    *,
    mode: Mode = "auto",
    adapter: Adapter | None = None,
    subscribing: Subscribing | None = None,
) -> Handle:
    """Deliver every event of ``bus`` to ``handle``; in ``wrap`` mode also make phases current for their publisher.

    Without a bus, events come from :meth:`Handle.feed`. Raises :class:`~spanbus.errors.InputError`, with nothing attached,
    when the object has no known way in.
    """
    if handle.off:
        return handle
    if bus is None and subscribing is None:
        handle.expect_nothing()
        return handle
    handle.by_publisher = mode != "observe"
    try:
        _attach(bus, handle, mode, adapter, subscribing)
        if bus is not None:
            _remember(bus, handle)
    except Exception as error:
        handle.expect_nothing()
        handle.detach()
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot attach to {_described(bus)}: {type(error).__name__}: {error}; {_ALTERNATIVES}"
        ) from error
    return handle


def _attach(
    bus: object,
    handle: Handle,
    mode: Mode,
    adapter: Adapter | None,
    subscribing: Subscribing | None,
) -> None:
    if subscribing is not None:
        _attach_by_function(bus, handle, mode, subscribing)
        return
    if adapter is not None and adapter.attach(bus, handle) is not NotImplemented:
        return
    if _is_own_bus(bus):
        _attach_own_bus(bus, handle, mode)
        return
    if _is_stream(bus):
        raise InputError(
            f"{_described(bus)} is a stream, not a bus; read it through a handle: handle = spanbus.instrument(None), "
            f"then {'async ' if isinstance(bus, AsyncIterable) else ''}for event in handle.watching(stream)"
        )
    if is_state_machine(bus):
        raise InputError(
            f"{_described(bus)} is a state machine, not a bus. If the calls of an event are the work, watch these: "
            "with spanbus.instrument(None).watching_calls(machine, 'pay'): …"
        )
    if signals.is_signal(bus):
        _attach_signal(bus, signals.name_of(bus), handle, mode)
        return
    handle.answer_form = "awaitable" if awaits_handlers(bus) else "plain"
    methods = _tappable(bus)
    way = _harmless_way(bus, way_in(bus), handle, bool(methods))
    if way is not None and _try_subscribe(bus, way, handle, bool(methods)):
        if methods and mode != "observe":
            tap = Tap(handle, feeds=False, current=mode == "wrap")
            for name in methods:
                _tap(bus, name, tap, handle, needed=mode == "wrap")
        elif mode == "wrap":
            raise InputError(f"{_described(bus)} has no publish() to wrap; use mode='auto'")
        return
    if methods:
        tap = Tap(handle, feeds=True, current=mode == "wrap")
        for name in methods:
            _tap(bus, name, tap, handle, needed=True)
        return
    named = signals.signals_of(bus)
    for name, signal in named.items():
        _attach_signal(signal, name, handle, mode)
    if not _attach_future_signals(bus, named, handle, mode) and not named:
        raise no_way_in(bus)


def _is_own_bus(bus: object) -> TypeGuard[WorkflowEventBus]:
    return is_instance_of(bus, *_OUR_BUS)


def _attach_by_function(bus: object, handle: Handle, mode: Mode, subscribing: Subscribing) -> None:
    """Attach by the caller's ``subscribe=`` function; its return value is the token for unsubscribing."""
    handle.answer_form = "awaitable" if bus is not None and awaits_handlers(bus) else "unknown"
    token = subscribing(handle.observer)
    if inspect.iscoroutine(token):
        token.close()
        raise InputError(
            "subscribe= returned a coroutine, which nobody here can await; "
            "await it yourself with handle.observer of handle = spanbus.instrument(None)"
        )
    known = weak_reference(bus)
    handle.add_undo(lambda: end(known(), token, handle.observer))
    if bus is not None and mode != "observe":
        tap = Tap(handle, feeds=False, current=mode == "wrap")
        for name in _tappable(bus):
            _tap(bus, name, tap, handle, needed=False)


def _attach_own_bus(bus: WorkflowEventBus, handle: Handle, mode: Mode) -> None:
    handle.answer_form = "plain"
    handle.in_place = mode == "auto"
    way = way_in(bus)
    assert way is not None
    subscribe(bus, way, handle)
    if mode == "wrap":  # publish() and the engine both call dispatch()
        _tap(bus, "dispatch", Tap(handle, feeds=False, current=True), handle, needed=True)


def _harmless_way(bus: object, way: WayIn | None, handle: Handle, tappable: bool) -> WayIn | None:
    """Return ``way`` if an observer among the subscribers changes nothing for the others or for the publisher.

    Otherwise return None if the methods can be tapped instead. Without such methods, the observer returns None where the bus
    uses the results of its subscribers, and is a listener where the bus calls methods of them. Raises
    :class:`~spanbus.errors.InputError` if the bus needs attributes or methods that an observer does not have.
    """
    if way is None or way.call.slot.role == "sink" or "on_next" in way.call.options:
        return way
    treatment = treatment_of(bus, way.name)
    if treatment.harmless and (treatment.known or not tappable):
        return way
    if (
        way.call.takes_wildcard
        and not treatment.results_decide
        and not treatment.needs_more_than_call
    ):
        return way  # a wildcard subscriber is one of many; only its own result is used
    if tappable:
        return None
    lacking = [
        *treatment.attributes,
        *(one for one in treatment.methods if not HOOK.fullmatch(one)),
    ]
    if lacking:
        raise InputError(
            f"{_described(bus)} asks its subscribers for `{'`, `'.join(sorted(lacking))}`, which an observer does not have; {_ALTERNATIVES}"
        )
    if treatment.uses_results and handle.answer_form == "plain":
        handle.answer_form = "nothing"
    if treatment.methods or treatment.looks_up_methods:
        return way.for_listener()
    return way


def _try_subscribe(bus: object, way: WayIn, handle: Handle, tappable: bool) -> bool:
    """Subscribe, and return whether the bus accepted it. Raises what the bus raises if nothing can be tapped instead."""
    try:
        subscribe(bus, way, handle)
    except Exception:
        if not tappable:
            raise
        return False
    return True


def _tappable(bus: object) -> list[str]:
    """Return the publishing methods that can be called on this object; for a class, its static and class methods."""
    names = publishing_methods(bus)
    if isinstance(bus, type):
        static = {name: static_attribute(bus, name) for name in names}
        return [name for name in names if isinstance(static[name], staticmethod | classmethod)]
    return names


def _tap(
    bus: object,
    name: str,
    tap: Tap,
    handle: Handle,
    *,
    needed: bool,
    reader: Callable[[tuple[object, ...], Mapping[str, object]], object] | None = None,
) -> None:
    try:
        handle.add_undo(replaced(bus, name, lambda method: tap.around(method, name, reader=reader)))
    except InputError:
        if needed:
            raise


def _attach_signal(signal: object, name: str, handle: Handle, mode: Mode) -> None:
    """Tap the sending methods of a signal, because receivers may be called in unusual ways; connect if that fails."""
    read = functools.partial(signals.event_of, name)
    tap = Tap(handle, feeds=True, current=mode == "wrap")
    methods = signals.sending_methods(signal)
    try:
        for method in methods:
            _tap(signal, method, tap, handle, needed=True, reader=read)
    except InputError:
        methods = []
    if not methods:
        handle.answer_form = "awaitable" if awaits_handlers(signal) else "plain"
        signals.connect(signal, name, handle)


def _attach_future_signals(
    namespace: object, named: Mapping[str, object], handle: Handle, mode: Mode
) -> bool:
    """Attach to signals that a namespace creates on demand, as they are created; return whether it does so."""
    maker = signals.makes_signals(namespace)
    if maker is None:
        return False
    attached: WeakIdentityMap[str] = WeakIdentityMap()
    for name, signal in named.items():
        attached.put(signal, name)

    def wrapped(make: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(make)
        def signal_of(*arguments: object, **options: object) -> object:
            signal = make(*arguments, **options)
            try:
                if attached.get(signal) is None and signals.is_signal(signal):
                    name = signals.name_of(
                        signal, known_as=str(arguments[0]) if arguments else None
                    )
                    attached.put(signal, name)
                    _attach_signal(signal, name, handle, mode)
            except Exception as error:
                handle.failed(error)
            return signal

        return signal_of

    handle.add_undo(replaced(namespace, maker, wrapped))
    return True


def _is_stream(thing: object) -> bool:
    """Whether ``thing`` is an iterator or async iterable of events, not a bus."""
    if isinstance(thing, AsyncIterator | Iterator):
        return way_in(cast("object", thing)) is None
    return isinstance(thing, AsyncIterable) and not (
        way_in(cast("object", thing)) or publishing_methods(cast("object", thing))
    )


def no_way_in(bus: object) -> InputError:
    """Return the error for an object without a way in; it lists the object's methods and the alternatives."""
    names = [
        name
        for name in names_of(bus)
        if callable(static_attribute(bus, name))
        or isinstance(static_attribute(bus, name), staticmethod | classmethod)
    ]
    listed = ", ".join(f"`{name}`" for name in names[:_NAMES_LISTED]) or "no public methods"
    more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
    return InputError(
        f"{_described(bus)} offers no way in that is known (has {listed}{more}{_subscribe_hint(bus)}); {_ALTERNATIVES}"
    )


def _subscribe_hint(bus: object) -> str:
    """Return the reason why an existing ``subscribe`` is not used; empty if there is none."""
    method = static_attribute(bus, "subscribe")
    if not callable(method):
        return ""
    if is_coroutine_function(method):
        return (
            "; subscribe() is a coroutine function: await it yourself with handle.observer of "
            "handle = spanbus.instrument(None)"
        )
    return "; subscribe() says neither None nor '*' for all types"


def _described(bus: object) -> str:
    if isinstance(bus, type):
        return f"class {bus.__name__}"
    return f"module {bus.__name__}" if isinstance(bus, ModuleType) else type(bus).__name__


def attach_class(kind: type[object], handle: Handle, *, mode: Mode = "wrap") -> Handle:
    """Wrap the publishing methods of a bus class, so that every present and future instance is observed.

    Instances with a handle of their own keep it. Raises :class:`~spanbus.errors.InputError` when the class has no publishing
    method or is instrumented already.
    """
    if handle.off:
        return handle
    own = is_subclass_of(kind, *_OUR_BUS)
    names = ["dispatch"] if own else publishing_methods(kind)
    if not names:
        raise InputError(f"class {kind.__name__} has no publish() to wrap; {_ALTERNATIVES}")
    if any(hasattr(static_attribute(kind, name), "_spanbus") for name in names):
        raise InputError(f"class {kind.__name__} is instrumented already; detach its handle first")
    handle.answer_form = "plain" if own else "awaitable" if awaits_handlers(kind) else "plain"
    handle.by_publisher = mode != "observe"
    for name in SUBSCRIBING:  # fill the cache now, not while the first instance publishes
        if has(kind, name):
            treatment_of(kind, name)
    for name in names:
        _wrap_on_class(kind, name, handle, mode)
    return handle


def _wrap_on_class(kind: type[object], name: str, handle: Handle, mode: Mode) -> None:
    static = inspect.getattr_static(kind, name)
    own = name in vars(kind)
    original = cast("Callable[..., object]", getattr(kind, name))
    noting = Tap(handle, feeds=False, current=mode == "wrap")
    feeding = Tap(handle, feeds=True, current=mode == "wrap")

    if isinstance(static, staticmethod | classmethod):
        published: object = staticmethod(in_place_of(original, feeding.around(original, name)))
    else:

        @functools.wraps(original)
        def published_by(bus: object, *arguments: object, **options: object) -> object:
            tap = noting if _is_subscribed(bus, handle) else feeding
            return tap.around(MethodType(original, bus), name)(*arguments, **options)

        ours = (
            as_coroutine_function(published_by) if is_coroutine_function(original) else published_by
        )
        published = in_place_of(original, ours)
    vars(published)["_spanbus"] = True
    setattr(kind, name, published)

    def undo() -> None:
        if vars(kind).get(name) is published:
            if own:
                setattr(kind, name, static)
            else:
                delattr(kind, name)

    handle.add_undo(undo)


def _is_subscribed(bus: object, handle: Handle) -> bool:
    """Whether events of this instance arrive by subscription; subscribes when the instance first publishes."""
    with _subscribing_lock:
        known = watching(bus)
        if known is not None:
            return known is not handle or handle.subscribed_to(bus)
        try:
            _handles.put(
                bus, handle
            )  # before subscribing: an unknown bus would be subscribed to again
        except TypeError:
            return False
        way = _harmless_way(bus, way_in(bus), handle, tappable=True)
        if way is None:
            return False
        try:
            subscribe(bus, way, handle)
        except Exception:  # subscription refused: the tap feeds the handle
            return False
        return True
