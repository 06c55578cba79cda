"""Events whose fields are accessor methods: ``event.get_type()``, ``event.name()``."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import cast

from spanbus._reading.shape import getter, mapping_of, text_of

_VARIADIC_OR_COROUTINE = 0x04 | 0x08 | 0x80
"""``CO_VARARGS``, ``CO_VARKEYWORDS`` and ``CO_COROUTINE`` of :mod:`inspect`, which is slow to import."""
_TYPES = (
    "get_event_type",
    "getEventType",
    "get_type",
    "getType",
    "event_type",
    "type",
    "get_topic",
    "getTopic",
    "topic",
    "get_kind",
    "kind",
    "get_name",
    "getName",
    "event_name",
    "name",
)
_PAYLOADS = (
    "get_payload",
    "getPayload",
    "payload",
    "get_data",
    "getData",
    "data",
    "get_body",
    "getBody",
    "body",
    "to_dict",
    "toDict",
    "as_dict",
)
_TIMES = ("get_timestamp", "getTimestamp", "timestamp", "get_time", "getTime")


def event_from_methods(event: object) -> dict[str, object] | None:
    """Return the event as a mapping, read from its accessor methods; None if none of them returns a type."""
    kind = next((text for name in _TYPES if (text := text_of(_call(event, name)))), None)
    if kind is None:
        return None
    event_fields: dict[str, object] = {"event_type": kind}
    payload = payload_from_methods(event)
    if payload is not None:
        event_fields["payload"] = payload
    for name in _TIMES:
        at = _call(event, name)
        if at is not None:
            event_fields["timestamp"] = at
            break
    return event_fields


def payload_from_methods(event: object) -> Mapping[str, object] | None:
    """Return the payload of an event that has a method or a property for it."""
    for name in _PAYLOADS:
        payload = _call(event, name)
        if payload is None:
            payload = getter(event)(name)
        if isinstance(payload, MethodType | FunctionType):
            continue
        found = mapping_of(payload)
        if found is not None:
            return found
    return None


def has_type_method(event: object) -> bool:
    """Whether the event has an accessor method for its type; nothing is called."""
    return any(_method(event, name) is not None for name in _TYPES)


def _method(event: object, name: str) -> MethodType | None:
    """Return the bound method of this name if it takes no arguments."""
    found = getter(event)(name)
    if not isinstance(found, MethodType) or not isinstance(found.__func__, FunctionType):
        return None
    code, defaults = found.__func__.__code__, found.__func__.__defaults__ or ()
    plain = not code.co_flags & _VARIADIC_OR_COROUTINE
    return found if plain and code.co_argcount - len(defaults) == 1 else None


def _call(event: object, name: str) -> object:
    method = _method(event, name)
    if method is None:
        return None
    try:
        return cast("object", method())
    except Exception:  # a failing method of a foreign class
        return None
