"""The event in a call: in what a bus calls its handlers with, or in what a publishing method was told."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, cast

from spanbus._reading.places import TYPE_KEYS
from spanbus._reading.read import TYPES_OF_HEADERS, states_start_or_end
from spanbus._reading.shape import decoded, getter
from spanbus._reading.spelling import ending, key_of
from spanbus._remembering import remembering

TYPE_NAMES = (
    "event_type",
    "event_name",
    "type",
    "type_",
    "etype",
    "event_kind",
    "kind",
    "topic",
    "topic_name",
    "topicName",
    "name",
    "signal",
    "channel",
    "subject",
    "pattern",
    "message_type",
    "key",
    "routing_key",
    "event",
)
"""Parameters that say the type of an event, the surest first."""
_PAYLOAD_NAMES = (
    "payload",
    "data",
    "body",
    "message",
    "msg",
    "details",
    "detail",
    "event_data",
    "content",
    "value",
    "event",
    "evt",
    "ev",
    "e",
)
_PAYLOADS = frozenset(("payload", "data", "kwargs", "event"))
_TYPES = frozenset((*TYPE_KEYS, "event", "event_name", "eventType", "name", "object_kind"))
_TYPE_CLASSES = (str, Enum, type)
_NOT_EVENTS = (*_TYPE_CLASSES, bytes, bytearray, tuple)
_MAX_TYPE_CHARS = 256
"""Kinds of an only argument that are more than an event, or less."""
_PLAIN = (str, bytes, int, float, bool, type(None))
_SHORT = 2


def event_in(arguments: Sequence[object], options: Mapping[str, object]) -> object:
    """The event in arguments of which nothing is known: an event; its type and payload; any of these by keyword."""
    first: object = arguments[0] if arguments else None
    if len(arguments) == 1 and not options and _may_be_event(type(first)):
        return first
    first = decoded(cast("object", first))
    if len(arguments) == 1 and (pair := pair_of(first) or _type_and_payload(first)) is not None:
        return _event_of(pair[0], pair[1:], options)
    if is_type(first) or (len(arguments) > 1 and _is_words(first)):
        return _event_of(first, arguments[1:], options)
    if not arguments or (len(options) > 0 and not is_event(first)):
        # by keyword, with the sender before them or without
        event = options.get("event")
        if is_type(event):
            rest = {key: value for key, value in options.items() if key != "event"}
            return _event_of(event, (), rest)
        if event is not None:
            return event
        if any(key in options for key in TYPE_KEYS):
            return options
        return next(iter(options.values())) if len(options) == 1 and not arguments else first
    return first


def _is_event_class(kind: type) -> bool:
    return not issubclass(kind, _NOT_EVENTS)


_may_be_event: Callable[[type], bool] = remembering(_is_event_class, 1_000)
"""Whether an only argument of this class may be the event; asked once for each class."""


class CallReader:
    """Finds the event in the arguments of one method, with the help of the names in its signature."""

    def __init__(self, method: Callable[..., object]) -> None:
        self._parameters = _parameters(getattr(method, "__func__", method))[
            hasattr(method, "__func__") :
        ]
        self._type = next((name for name in TYPE_NAMES if name in self._parameters), None)
        self._payload = next((name for name in _PAYLOAD_NAMES if name in self._parameters), None)
        self._type_first = self._parameters[:1] == (self._type,)

    def event(self, arguments: Sequence[object], options: Mapping[str, object]) -> object:
        """The event that a call with these arguments publishes."""
        names = self._parameters
        if self._type_first and arguments and type(arguments[0]) is str:
            if len(arguments) == 2 and not options:
                only = arguments[1]
                said: Any = only
                if (
                    type(only) is dict
                    and _PAYLOADS.isdisjoint(said)
                    and (_TYPES.isdisjoint(said) or ending(arguments[0]) is not None)
                ):
                    return {"event_type": arguments[0], "payload": cast("object", only)}
            elif len(arguments) == len(names) == 1 and options and _PAYLOADS.isdisjoint(options):
                return {"event_type": arguments[0], "payload": options}
        if self._type is None or (len(arguments) == 1 and not options and names[0] == self._type):
            return event_in(arguments, options)
        given = dict(zip(names, arguments, strict=False))
        given.update(options)
        kind = given.get(self._type)
        if not is_type(kind):
            return event_in(arguments, options)
        del given[self._type]
        payload = None
        if self._payload is not None and self._payload != self._type:
            payload = decoded(given.pop(self._payload, None))
        headers = given.get("headers")
        if _headers_have_type(headers, kind):
            return {"channel": type_text(kind), "headers": headers, "payload": payload}
        if payload is not None and not isinstance(payload, _PLAIN):
            return _event_or_payload(kind, payload)
        if payload is not None and self._payload is not None:
            given[self._payload] = payload
        more = arguments[len(names) :]
        rest = {key: value for key, value in given.items() if value is not None}
        if more:
            return _event_of(kind, more, rest)
        nested = rest.pop("kwargs", None)
        if isinstance(nested, Mapping):
            rest.update(cast("Mapping[str, object]", nested))
        only = next(iter(rest.values())) if len(rest) == 1 else None
        if only is not None and not isinstance(only, _PLAIN) and next(iter(rest)) in names:
            return _event_or_payload(kind, only)
        return make_event(kind, rest)


def is_life_cycle_event(thing: object) -> bool:
    """Whether it is an event by itself, of those that say what began or ended."""
    if isinstance(thing, _NOT_EVENTS) and not hasattr(type(cast("object", thing)), "_fields"):
        return False
    one = cast("object", thing)
    return is_event(one) or states_start_or_end(one) or ending(type(one).__name__) is not None


def pair_of(thing: object) -> tuple[object, object] | None:
    """A type with its payload."""
    if type(thing) is not tuple:
        return None
    pair = cast("tuple[object, ...]", thing)
    if len(pair) == 2 and is_type(pair[0]) and not isinstance(pair[1], _PLAIN):
        return pair
    return None


def _type_and_payload(thing: object) -> tuple[object, object] | None:
    """The type with the payload of a longer tuple, which also has a time, a number or the like."""
    if type(thing) is not tuple:
        return None
    row = cast("tuple[object, ...]", thing)
    kinds = [one for one in row if is_type(one) and ending(str(type_text(one))) is not None]
    payloads: list[object] = [one for one in map(decoded, row) if isinstance(one, Mapping)]
    return (kinds[0], payloads[0]) if len(kinds) == len(payloads) == 1 else None


def make_event(kind: object, payload: object) -> dict[str, object]:
    """A type and a payload as an event."""
    return {"event_type": type_text(kind), "payload": payload}


def is_type(thing: object) -> bool:
    """Whether it names a type: text, a member of an enumeration, a class; bytes or a tuple of words that tell of a life."""
    if isinstance(thing, bytes) or _is_words(thing):
        if len(cast("Sequence[object]", thing)) > _MAX_TYPE_CHARS:
            return False
        text = type_text(cast("object", thing))
        return isinstance(text, str) and len(text) <= _MAX_TYPE_CHARS and ending(text) is not None
    return isinstance(thing, _TYPE_CLASSES)


def _is_words(thing: object) -> bool:
    """Whether it is a plain tuple of texts, and no record that happens to hold some."""
    plain = isinstance(thing, tuple) and not hasattr(cast("object", thing), "_fields")
    words = cast("tuple[object, ...]", thing) if plain else ()
    return bool(words) and all(isinstance(word, str) for word in words)


def type_text(kind: object) -> object:
    """A class by its name; the rest is text, or an enumeration's member that the reader knows how to read."""
    if isinstance(kind, bytes):
        return kind.decode(errors="replace")
    if isinstance(kind, tuple):
        words = cast("tuple[object, ...]", kind)
        return ".".join([one for one in words if isinstance(one, str)])
    return kind.__name__ if isinstance(kind, type) else kind


def is_event(thing: object) -> bool:
    """Whether it has a type and a payload of its own."""
    get = getter(thing)
    payload, data, metadata = get("payload"), get("data"), get("metadata")
    typed = any(isinstance(get(key), _TYPE_CLASSES[:2]) for key in TYPE_KEYS)
    return (typed and (payload is not None or data is not None)) or (
        metadata is not None and payload is not None
    )


def _event_of(kind: object, more: Sequence[object], options: Mapping[str, object]) -> object:
    """The event of a type, of what follows it, and of keywords."""
    raised = next((one for one in more if isinstance(one, BaseException)), None)
    if raised is not None:
        more = [one for one in more if one is not raised]
        options = {"error": raised, **options}
    payload = next(
        (one for one in map(decoded, more) if one is not None and not isinstance(one, _PLAIN)),
        None,
    )
    if payload is None:
        payload = options.get("payload", options.get("data", _only_payload(options)))
        if payload is not None and isinstance(payload, _PLAIN):
            payload = None
        if payload is None:
            text = next((one for one in more if isinstance(one, str)), None)
            payload = {"name": text, **options} if text is not None else options
    elif options and isinstance(payload, Mapping):
        payload = {**options, **cast("Mapping[str, object]", payload)}
    return _event_or_payload(kind, payload)


def _only_payload(options: Mapping[str, object]) -> object:
    """The payload that is given by a short name, as the only keyword: ``emit(kind, d=payload)``."""
    name, value = next(iter(options.items()), ("", None))
    alone = len(options) == 1 and (len(name) <= _SHORT or name in _PAYLOAD_NAMES)
    return cast("object", value) if alone and isinstance(value, Mapping) else None


def _headers_have_type(headers: object, kind: object) -> bool:
    """Whether headers say the type of what is sent on a channel."""
    if not isinstance(headers, Mapping) or ending(str(type_text(kind))) is not None:
        return False
    keys = list(cast("Mapping[object, object]", headers))
    return any(isinstance(key, str) and key_of(key) in TYPES_OF_HEADERS for key in keys)


def _event_or_payload(kind: object, payload: object) -> object:
    """A payload that is the event itself, and ``kind`` the channel it was sent on; else the event of both."""
    if is_event(payload) or (
        isinstance(kind, str)
        and ending(kind) is None
        and (states_start_or_end(payload) or getter(payload)("object_kind") is not None)
    ):
        return payload
    return make_event(kind, payload)


@functools.lru_cache(maxsize=256)
def _parameters(method: Callable[..., object]) -> tuple[str, ...]:
    """The parameters that a call may fill one by one."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(
        one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    )
