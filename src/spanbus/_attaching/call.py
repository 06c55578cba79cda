"""Find the event in the arguments of a call: of a handler by the bus, or of a publishing method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, cast

from spanbus._attaching.methods import own_attributes, static_attribute
from spanbus._bounded_cache import bounded_cache
from spanbus._patterns import pattern
from spanbus._reading.places import TYPE_KEYS
from spanbus._reading.read import TYPES_OF_HEADERS, Unreadable, states_start_or_end
from spanbus._reading.shape import decoded, getter, text_of
from spanbus._reading.spelling import ending, key_of, word_of_state

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
"""Parameter names for the type of an event, most reliable first."""
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
"""Classes of a single argument that is not an event."""
_MAX_TYPE_CHARS = 256
_PLAIN = (str, bytes, int, float, bool, type(None))
_SHORT = 2
_MAX_NAME_CHARS = 64
_WORDS = (str, bytes, Enum)
_STATE_VALUES = (*_PLAIN, Enum)
_STATE_NAME = pattern(r"(?:\w+_)?(?:state|status)")


def event_in(arguments: Sequence[object], options: Mapping[str, object]) -> object:
    """Return the event in the arguments of an unknown call: an event, or a type and a payload, positional or by keyword."""
    first: object = arguments[0] if arguments else None
    if len(arguments) == 1 and not options and _may_be_event(type(first)):
        return first
    first = decoded(cast("object", first))
    if len(arguments) == 1 and (pair := pair_of(first) or _type_and_payload(first)) is not None:
        return _event_of(pair[0], pair[1:], options)
    if is_type(first) or (len(arguments) > 1 and _is_words(first)):
        return _event_of(first, arguments[1:], options)
    if not arguments or (len(options) > 0 and not is_event(first)):
        # keywords, perhaps after the sender
        event = options.get("event")
        if is_type(event):
            rest = {key: value for key, value in options.items() if key != "event"}
            return _event_of(event, (), rest)
        if event is not None:
            return event
        if any(key in options for key in TYPE_KEYS) or (not arguments and len(options) > 1):
            return options
        return next(iter(options.values())) if len(options) == 1 and not arguments else first
    return first


_may_be_event: Callable[[type], bool] = bounded_cache(
    lambda kind: not issubclass(kind, _NOT_EVENTS), 1_000
)
"""Whether a single argument of this class may be the event; cached by class."""


class CallReader:
    """Finds the event in the arguments of one method by the parameter names of its signature."""

    def __init__(self, method: Callable[..., object]) -> None:
        self._parameters = _parameters(getattr(method, "__func__", method))[
            hasattr(method, "__func__") :
        ]
        self._type = next((name for name in TYPE_NAMES if name in self._parameters), None)
        self._payload = next((name for name in _PAYLOAD_NAMES if name in self._parameters), None)
        self._type_first = self._parameters[:1] == (self._type,)
        self._takes_state = self._type is None and any(map(_STATE_NAME.fullmatch, self._parameters))
        """The parameters hold a name and a state: ``notify(task_name, status)``."""
        self._takes_headers = self._type is None and {"headers", self._payload} <= {
            *self._parameters
        }
        self._by_parameters = self._takes_state or self._takes_headers
        self._sender: object = getattr(method, "__self__", None)
        self._name = getattr(method, "__name__", "")

    def event(self, arguments: Sequence[object], options: Mapping[str, object]) -> object:
        """Return the event that a call with these arguments publishes."""
        names = self._parameters
        if self._type_first and arguments and type(arguments[0]) is str:
            if len(arguments) == 2 and not options:
                only = arguments[1]
                mapping: Any = only
                if (
                    type(only) is dict
                    and _PAYLOADS.isdisjoint(mapping)
                    and (_TYPES.isdisjoint(mapping) or ending(arguments[0]) is not None)
                ):
                    return {"event_type": arguments[0], "payload": cast("object", only)}
            elif len(arguments) == len(names) == 1 and options and _PAYLOADS.isdisjoint(options):
                return {"event_type": arguments[0], "payload": options}
        if self._type is None or (len(arguments) == 1 and not options and names[0] == self._type):
            if arguments and not self._by_parameters:
                return event_in(arguments, options)
            return self._event_without_type(arguments, options)
        given = dict(zip(names, arguments, strict=False))
        given.update(options)
        kind = given.get(self._type)
        if not is_type(kind):
            return self._event_without_type(arguments, options)
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
            given.update(_words_of(kind, [payload]))
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

    def _event_without_type(
        self, arguments: Sequence[object], options: Mapping[str, object]
    ) -> object:
        """Return the event of a call without a type: a state in its arguments, or the state of the publishing object."""
        if not arguments and not options:
            state = _state_of(self._sender)
            if state is None and self._name.lower().startswith("notify"):
                raise Unreadable(
                    f"{self._name}() is called without an event, and its object has no `status` or `state` that says what happened; "
                    "say it where it happens: handle.tell('task.started', task=…)"
                )
            return state
        if self._takes_state and all(isinstance(one, _STATE_VALUES) for one in arguments):
            return {**dict(zip(self._parameters, arguments, strict=False)), **options}
        if self._takes_headers:
            given = {**dict(zip(self._parameters, arguments, strict=False)), **options}
            payload = decoded(given.get(self._payload or ""))
            headers = cast("object", given.get("headers"))
            if isinstance(headers, Mapping) and isinstance(payload, Mapping):
                return cast("object", {"headers": headers, "payload": payload})
        return event_in(arguments, options)


def is_life_cycle_event(thing: object) -> bool:
    """Whether ``thing`` is a complete event that reports a start or an end."""
    if isinstance(thing, _NOT_EVENTS) and not hasattr(type(cast("object", thing)), "_fields"):
        return False
    one = cast("object", thing)
    return is_event(one) or states_start_or_end(one) or ending(type(one).__name__) is not None


def pair_of(thing: object) -> tuple[object, object] | None:
    """Return a tuple of a type and a payload, None for anything else."""
    if type(thing) is not tuple:
        return None
    pair = cast("tuple[object, ...]", thing)
    if len(pair) == 2 and is_type(pair[0]) and not isinstance(pair[1], _PLAIN):
        return pair
    return None


def _type_and_payload(thing: object) -> tuple[object, object] | None:
    """Return the type and payload of a longer tuple, if it contains exactly one of each."""
    if type(thing) is not tuple:
        return None
    row = cast("tuple[object, ...]", thing)
    kinds = [one for one in row if is_type(one) and ending(str(type_text(one))) is not None]
    payloads: list[object] = [one for one in map(decoded, row) if isinstance(one, Mapping)]
    return (kinds[0], payloads[0]) if len(kinds) == len(payloads) == 1 else None


def make_event(kind: object, payload: object) -> dict[str, object]:
    """Return a type and a payload as an event mapping."""
    return {"event_type": type_text(kind), "payload": payload}


def is_type(thing: object) -> bool:
    """Whether ``thing`` names an event type: text, an enum member, a class; bytes or a tuple that ends in a life-cycle word."""
    if isinstance(thing, bytes) or _is_words(thing):
        if len(cast("Sequence[object]", thing)) > _MAX_TYPE_CHARS:
            return False
        text = type_text(cast("object", thing))
        return isinstance(text, str) and len(text) <= _MAX_TYPE_CHARS and ending(text) is not None
    return isinstance(thing, _TYPE_CLASSES)


def _is_words(thing: object) -> bool:
    """Whether ``thing`` is a plain tuple of texts, not a named tuple."""
    plain = isinstance(thing, tuple) and not hasattr(cast("object", thing), "_fields")
    words = cast("tuple[object, ...]", thing) if plain else ()
    return bool(words) and all(isinstance(word, str) for word in words)


def type_text(kind: object) -> object:
    """Return the text of an event type: a class by name, bytes decoded, words joined; the reader handles enum members."""
    if isinstance(kind, bytes):
        return kind.decode(errors="replace")
    if isinstance(kind, tuple):
        words = cast("tuple[object, ...]", kind)
        return ".".join([one for one in words if isinstance(one, str)])
    return kind.__name__ if isinstance(kind, type) else kind


def is_event(thing: object) -> bool:
    """Whether ``thing`` has a type and a payload of its own."""
    get = getter(thing)
    payload, data, metadata = get("payload"), get("data"), get("metadata")
    typed = any(isinstance(get(key), _TYPE_CLASSES[:2]) for key in TYPE_KEYS)
    return (typed and (payload is not None or data is not None)) or (
        metadata is not None and payload is not None
    )


def _event_of(kind: object, more: Sequence[object], options: Mapping[str, object]) -> object:
    """Build the event from a type, the arguments after it, and keywords."""
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
            payload = {**_words_of(kind, more), **options}
    elif options and isinstance(payload, Mapping):
        payload = {**options, **cast("Mapping[str, object]", payload)}
    return _event_or_payload(kind, payload)


def _words_of(kind: object, more: Sequence[object]) -> dict[str, object]:
    """Return the fields in plain values after a type: a name, and a state if the type has none (`"task", "build", "started"`)."""
    stated = ending(str(type_text(kind))) is not None
    found: dict[str, object] = {}
    for one in more:
        text = text_of(one) if isinstance(one, _WORDS) else None
        if not text or len(text) > _MAX_NAME_CHARS or "\n" in text:
            continue
        if not stated and "status" not in found and word_of_state(text) is not None:
            found["status"] = text
        else:
            found.setdefault("name", text)
    return found


def _state_of(sender: object) -> dict[str, object] | None:
    """Return the state of an object that notifies its observers without an event (GoF Observer), None if it has none.

    These are its plain fields, and private fields that a property of the same name exposes.
    """
    kind = type(sender)
    fields: dict[str, object] = {}
    for name, value in own_attributes(sender).items():
        public = name.lstrip("_")
        if isinstance(value, _STATE_VALUES) and (
            public == name or isinstance(static_attribute(kind, public), property)
        ):
            fields[public.removeprefix("current_")] = value
    if not any(map(_STATE_NAME.fullmatch, fields)):
        return None
    return {key_of(kind.__name__): fields.get("name") or kind.__name__, **fields}


def _only_payload(options: Mapping[str, object]) -> object:
    """Return a payload passed as the only keyword, by a short or usual name: ``emit(kind, d=payload)``."""
    name, value = next(iter(options.items()), ("", None))
    alone = len(options) == 1 and (len(name) <= _SHORT or name in _PAYLOAD_NAMES)
    return cast("object", value) if alone and isinstance(value, Mapping) else None


def _headers_have_type(headers: object, kind: object) -> bool:
    """Whether the headers hold the event type, and ``kind`` is only a channel."""
    if not isinstance(headers, Mapping) or ending(str(type_text(kind))) is not None:
        return False
    keys = list(cast("Mapping[object, object]", headers))
    return any(isinstance(key, str) and key_of(key) in TYPES_OF_HEADERS for key in keys)


def _event_or_payload(kind: object, payload: object) -> object:
    """Return the payload if it is the event itself and ``kind`` only its channel; else the event of both."""
    if is_event(payload) or (
        isinstance(kind, str)
        and ending(kind) is None
        and (states_start_or_end(payload) or getter(payload)("object_kind") is not None)
    ):
        return payload
    return make_event(kind, payload)


@functools.lru_cache(maxsize=256)
def _parameters(method: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of the parameters except ``*args`` and ``**kwargs``."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(
        one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    )
