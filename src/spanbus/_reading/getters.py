"""Events whose fields are accessor methods: ``event.get_type()``, ``event.name()``."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import cast

from spanbus._reading.places import TYPE_KEYS
from spanbus._reading.shape import getter, mapping_of, text_of

_VARIADIC_OR_COROUTINE = 0x04 | 0x08 | 0x80
"""``CO_VARARGS``, ``CO_VARKEYWORDS`` and ``CO_COROUTINE`` of :mod:`inspect`, which is slow to import."""
_DICTIONARIES = ("to_dict", "toDict", "as_dict", "asdict", "model_dump")
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
    *_DICTIONARIES,
)
_CONSTANTS = ("EVENT_TYPE", "EVENT_NAME", "TYPE", "NAME", "TOPIC", "KIND")
_TIMES = ("get_timestamp", "getTimestamp", "timestamp", "get_time", "getTime")


def event_from_methods(event: object) -> dict[str, object] | None:
    """Return the event as a mapping, read from its accessor methods; None if none of them returns a type."""
    kind = next((text for name in _TYPES if (text := text_of(_call(event, name)))), None)
    if kind is None:
        return _from_class(event)
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


def _from_class(event: object) -> dict[str, object] | None:
    """Return the event with the type that its class has as a constant, else what a method such as ``to_dict`` returns."""
    get = getter(event)
    kind = next((text for name in _CONSTANTS if (text := text_of(get(name)))), None)
    if kind is not None:
        payload = payload_from_methods(event)
        fields = payload if payload is not None else mapping_of(event)
        return {"event_type": kind, "payload": dict(fields or {})}
    for name in _DICTIONARIES:
        fields = _call(event, name)
        if isinstance(fields, dict):
            return cast("dict[str, object]", fields)
    return None


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
            return _content(found) if name in _DICTIONARIES else found
    return None


def _content(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return the payload of an event that is given as a dictionary, else all of it."""
    inner = fields.get("payload", fields.get("data"))
    typed = any(isinstance(fields.get(key), str) for key in (*TYPE_KEYS, "event_name", "name"))
    return cast("Mapping[str, object]", inner) if typed and isinstance(inner, Mapping) else fields


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
