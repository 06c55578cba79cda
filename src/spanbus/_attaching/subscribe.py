"""Subscribe to an unknown bus, and unsubscribe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, cast

from spanbus._attaching.listener import Listener
from spanbus._attaching.methods import callable_of, has, is_coroutine_function
from spanbus._attaching.publication import weak_reference
from spanbus._attaching.signature import Slot, SubscribingCall, subscribing

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle

SUBSCRIBING = (
    "subscribe_all",
    "subscribe",
    "on_any",
    "onAny",
    "on_all",
    "on_any_event",
    "add_listener",
    "addListener",
    "add_observer",
    "add_subscriber",
    "add_handler",
    "add_callback",
    "add_sink",
    "register_listener",
    "register_observer",
)
_TAKES_ALL = ("subscribe_all", "on_any", "onAny", "on_all", "on_any_event")
_UNSUBSCRIBING = (
    "unsubscribe",
    "unsubscribe_all",
    "off_any",
    "offAny",
    "remove_listener",
    "removeListener",
    "remove_observer",
    "remove_subscriber",
    "remove_handler",
    "remove_callback",
    "remove_sink",
    "unregister_listener",
    "unregister_observer",
    "off",
)
_TOKEN_METHODS = ("unsubscribe", "dispose", "cancel", "close", "disconnect", "remove")


class WayIn:
    """A subscribing method that delivers all events, and the arguments to call it with."""

    def __init__(self, name: str, call: SubscribingCall) -> None:
        self.name, self.call = name, call

    def for_listener(self) -> WayIn:
        """Return the same call with a :class:`Listener` instead of a function."""
        slot = self.call.slot._replace(role="listener")

        def other(value: object) -> object:
            return slot if value is self.call.slot else value

        arguments = tuple([other(value) for value in self.call.arguments])
        options = {name: other(value) for name, value in self.call.options.items()}
        return WayIn(self.name, SubscribingCall(arguments, options, slot))


def way_in(thing: object) -> WayIn | None:
    """Return the method by which the object provably delivers all its events, None if there is none. Nothing is called."""
    for name in SUBSCRIBING:
        if not has(thing, name):
            continue
        method = callable_of(thing, name)
        if is_coroutine_function(method) or (
            isinstance(thing, type) and _needs_instance(thing, name)
        ):
            continue
        call = subscribing(method)
        if call is None and name in _TAKES_ALL and _takes_one(method):
            slot = Slot("observer")
            call = SubscribingCall((slot,), {}, slot)
        if call is not None:
            return WayIn(name, call)
    return None


def subscribe(thing: object, way: WayIn, handle: Handle) -> None:
    """Subscribe ``handle``. Raises what the bus raises, and ``TypeError`` if the method returns a coroutine."""
    filled: dict[Slot, object] = {}

    def fill(value: object) -> object:
        if not isinstance(value, Slot):
            return value
        if value not in filled:
            filled[value] = _subscriber(value, handle)
        return filled[value]

    call = way.call
    arguments = [fill(value) for value in call.arguments]
    options = {name: fill(value) for name, value in call.options.items()}
    subscribed = filled[call.slot]
    token = callable_of(thing, way.name)(*arguments, **options)
    if inspect.iscoroutine(token):
        token.close()
        raise TypeError(f"{way.name}() gives a coroutine")
    bus = weak_reference(thing)
    handle.subscribed(thing, lambda: end(bus(), token, subscribed))


def _subscriber(slot: Slot, handle: Handle) -> object:
    if slot.role == "sink":
        return handle
    if slot.role == "listener":
        return Listener(handle.observer)
    if slot.role == "on_error":
        return handle.stream_failed
    if slot.role == "nothing":
        return _ignore
    return handle.awaited_observer if slot.is_async else handle.observer


def end(thing: object, token: object, subscribed: object) -> None:
    """Unsubscribe by the token that subscribing returned: nothing, the handler, a function, an id, or a subscription object."""
    unsubscribe = next((getattr(thing, name) for name in _UNSUBSCRIBING if has(thing, name)), None)
    if token is None or token is thing or token is subscribed or isinstance(token, bool):
        done = unsubscribe(subscribed) if unsubscribe is not None else None
    elif callable(token) and not isinstance(token, type):
        done = token()
    elif (ending := next((n for n in _TOKEN_METHODS if has(token, n)), None)) is not None:
        done = cast("Callable[[], object]", getattr(token, ending))()
    else:
        done = unsubscribe(token) if unsubscribe is not None else None
    if inspect.iscoroutine(done):  # cannot be awaited here; the handle is off anyway
        done.close()


def _needs_instance(kind: type, name: str) -> bool:
    static = inspect.getattr_static(kind, name, None)
    return not isinstance(static, staticmethod | classmethod | ModuleType)


def _takes_one(method: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [one for one in parameters if one.default is one.empty and one.kind < 2]
    return len(required) == 1


def _ignore(*arguments: object) -> None:
    del arguments
