"""How to be told everything by a bus that was never seen before, and how to leave it."""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from collections.abc import Callable
from typing import cast

from spanbus.errors import InputError
from spanbus.telemetry.handle import Handle

logger = logging.getLogger("spanbus")

_HANDLER_NAMES = ("handler", "callback", "fn", "func", "listener", "subscriber", "observer", "sink", "receiver")
_TYPE_NAMES = ("event_type", "type", "event", "topic", "pattern", "name", "event_name", "subject", "kind", "channel")
_ENDS_OF_SUBSCRIPTIONS = ("unsubscribe", "dispose", "cancel", "close")
_CONCURRENCY = 1_000


def subscribe(bus: object, handle: Handle) -> None:
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


