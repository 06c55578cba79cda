"""Events that keep what they are behind methods: ``event.get_type()``, ``event.name()``."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import cast

from spanbus._reading.shape import getter, mapping_of, text_of

_VARIABLE = 0x04 | 0x08
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
    """An event as a mapping of what its methods say that take nothing; None where they say no type."""
    kind = next((text for name in _TYPES if (text := text_of(_call(event, name)))), None)
    if kind is None:
        return None
    said: dict[str, object] = {"event_type": kind}
    payload = payload_from_methods(event)
    if payload is not None:
        said["payload"] = payload
    for name in _TIMES:
        at = _call(event, name)
        if at is not None:
            said["timestamp"] = at
            break
    return said


def payload_from_methods(event: object) -> Mapping[str, object] | None:
    """The payload of an event that has a method, or a property, for it."""
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
    """Whether it has such a method for its type; none is called."""
    return any(_method(event, name) is not None for name in _TYPES)


def _method(event: object, name: str) -> MethodType | None:
    """A method of a class that takes nothing but the object: an accessor, by these names."""
    found = getter(event)(name)
    if not isinstance(found, MethodType) or not isinstance(found.__func__, FunctionType):
        return None
    code, defaults = found.__func__.__code__, found.__func__.__defaults__ or ()
    plain = not code.co_flags & (_VARIABLE | 0x80)  # no *arguments, no coroutine
    return found if plain and code.co_argcount - len(defaults) == 1 else None


def _call(event: object, name: str) -> object:
    method = _method(event, name)
    if method is None:
        return None
    try:
        return cast("object", method())
    except Exception:  # a method of somebody's class that fails says nothing
        return None
