"""Read an event of any bus: its type, payload, time and identity. No rule of a dialect is applied yet.

The places follow the event formats in use: the type in ``metadata.event_type``, ``event_type``, ``type``, ``topic`` or
``kind``, else in ``name``, ``event`` or ``event_name``, else the name of the event's class; the payload in ``payload`` or
``data``; the envelope in ``metadata``, ``meta``, ``context`` or ``headers`` (CloudEvents included). Naive timestamps are
local time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from time import struct_time
from typing import Any, Final, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._loaded import is_subclass_of
from spanbus._reading.event_types import member_value, type_of
from spanbus._reading.getters import event_from_methods, payload_from_methods
from spanbus._reading.places import (
    METADATA,
    NAME_KEYS,
    PAYLOAD,
    TIMES,
    TYPE_KEYS,
    Keys,
    Place,
    Places,
)
from spanbus._reading.shape import TEXTS, Getter, decoded, getter, mapping_of, text_of
from spanbus._reading.spelling import ending, key_of, normal
from spanbus._reading.times import time_ns_of
from spanbus._workflow.events import EMPTY, Event

_ENVELOPE: Final = frozenset(
    "metadata meta headers header event_type type topic kind payload data event_id id source at_ns timestamp metadata_timestamp "
    "time priority delivery_mode correlation_id tags attempt traceparent tracestate specversion datacontenttype "
    "dataschema runid event_created_at".split()
)
_SOLE_PAYLOADS: Final = frozenset(
    "body detail details message msg content event_data attributes attrs properties params fields args kwargs".split()
)
"""Keys that hold the payload if the event has no other fields."""
_ABOUT_THE_EVENT: Final = frozenset(
    (*TIMES, *"version schema schema_version seq sequence offset partition level logger".split())
)
"""Fields about the event itself, not about the work."""
TYPES_OF_HEADERS: Final = ("event_type", "message_type", "message_name", "type", "ce_type")
"""Headers that hold the type of a message."""
_MESSAGES: Final = frozenset(
    ("message", "pmessage", "notification", "Notification", "event", "record", "envelope")
)
"""Types of messages that wrap an event."""
_RUN_IDS: Final = ("run_id", "run-id", "x-run-id", "runid")
_SHOWN_CHARS: Final = 80
_TIME_CLASS: Final = re.compile(r"datetime|timestamp|instant|arrow", re.IGNORECASE)


DEFAULT_KEYS: Final = Keys()


class Unreadable(ValueError):
    """The event has no type."""


class Raw:
    """The fields of an event, before any rule of a dialect."""

    __slots__ = (
        "at_ns",
        "attempt",
        "correlation",
        "event_id",
        "event_type",
        "odd_time",
        "payload",
        "phase",
        "run_id",
        "source",
        "subject_id",
        "timed",
        "traceparent",
        "tracestate",
    )

    def __init__(
        self, event_type: str, event_id: str, at_ns: int, source: str, payload: Mapping[str, object]
    ) -> None:
        self.event_type, self.event_id, self.at_ns = event_type, event_id, at_ns
        self.source, self.payload = source, payload
        self.run_id: str | None = None
        self.phase: str | None = None
        self.attempt: int | None = None
        self.correlation: str | None = None
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        self.odd_time: str | None = None
        """Text of an unreadable timestamp; ``at_ns`` is then the time of arrival."""
        self.timed = True
        """Whether the event carried a readable timestamp."""
        self.subject_id: str | None = None
        """``id`` of an event that is its own payload: the id of the task that it is about, or of the event."""

    def copy(self) -> Raw:
        """Return a copy that may be changed."""
        copy = Raw(self.event_type, self.event_id, self.at_ns, self.source, self.payload)
        copy.run_id, copy.phase, copy.attempt = self.run_id, self.phase, self.attempt
        copy.correlation = self.correlation
        copy.traceparent, copy.tracestate = self.traceparent, self.tracestate
        copy.odd_time, copy.timed, copy.subject_id = self.odd_time, self.timed, self.subject_id
        return copy


def read(
    event: object, keys: Keys = DEFAULT_KEYS, *, after_ns: int = 0, now_ns: int | None = None
) -> Raw:
    """Return the type, payload, time and identity of an event: one of ours, an object, a mapping or a decoded JSON line.

    ``after_ns`` is the time of the previous event; it decides which of two is meant by a local time that occurs twice.
    ``now_ns`` is used for an event without a time. Both are Unix nanoseconds. Raises :class:`Unreadable`, a ``ValueError``,
    when the event has no type.
    """
    if _is_special(type(event)):
        if isinstance(event, Event):
            return read_own(event)
        event = decoded(event) if isinstance(event, TEXTS) else _event_of_record(event)
    places, get, get_metadata, (kind, id_value, source_value, correlation_value) = keys.look_up(
        event
    )
    event_type = kind if type(kind) is str else text_of(kind)
    if not event_type:
        event_type = type_of(event, get, places)
    elif event_type[-1] <= "Z":
        event_type = member_value(event_type)
    if event_type is None or places.is_channel_message or event_type in _MESSAGES:
        enclosed = _enclosed_event(event_type, get, places)
        if enclosed is not None:
            return _read_enclosed(event, enclosed, keys, after_ns, now_ns)
        event_type = event_type or _first_of(
            _headers(get_metadata, get, keys).get, TYPES_OF_HEADERS
        )
        if event_type is None:
            if (
                not isinstance(event, Mapping)
                and (read_by_methods := event_from_methods(event)) is not None
            ):
                return read(read_by_methods, keys, after_ns=after_ns, now_ns=now_ns)
            raise Unreadable(
                "the event has no type (looked for metadata.event_type, event_type, type, topic, kind, name, event, "
                "event_name and a class name such as TaskStarted): name its place in a dialect "
                "(type_keys), or feed {'event_type': …, 'payload': …}"
            )
    payload, has_payload_field = _payload(event, get, places, event_type)
    # not cached, or spelled differently
    if keys.payloads_spelled.get(tuple(payload), "") is not None:
        payload = keys.payload(payload)
    at_ns = time_ns_of(get("at_ns"), scale=1) if places.has_identity else None
    unreadable: str | None = None
    if at_ns is None:
        at_ns, unreadable = _event_time(get, get_metadata, payload, places.time, after_ns)
    event_id = id_value if type(id_value) is str else text_of(id_value)
    subject_id: str | None = None
    # without a payload of its own, the event's id may be a task's
    if not event_id and not keys.ids:
        if has_payload_field:
            event_id = text_of(get("id"))
        else:
            subject_id = text_of(get("id"))
    source = source_value if type(source_value) is str else text_of(source_value)
    raw = Raw(event_type, event_id or "", at_ns or 0, source or "", payload)
    raw.subject_id = subject_id
    if at_ns is None:
        raw.at_ns = now_ns if now_ns is not None else time.time_ns()
        raw.timed, raw.odd_time = False, unreadable
    if correlation_value is not None:
        raw.correlation = text_of(correlation_value) or None
    if places.has_identity:
        _read_identity(raw, get, get_metadata, places, keys, has_payload_field)
    elif has_payload_field and places.run:
        raw.run_id = _first_of(get_metadata, places.run)
    return raw


def _is_special_class(kind: type[object]) -> bool:
    return issubclass(kind, (Event, *TEXTS)) or is_subclass_of(kind, "logging", "LogRecord")


_is_special: Final[Callable[[type], bool]] = bounded_cache(_is_special_class, 1_000)
"""Whether a class is our event class, a text or a log record; cached by class."""


def _event_of_record(record: object) -> object:
    from spanbus._reading.log_records import event_of_record  # few buses publish them

    return event_of_record(record)


def _read_identity(
    raw: Raw, get: Getter, get_metadata: Getter, places: Places, keys: Keys, has_payload_field: bool
) -> None:
    """Add the run, phase, attempt and trace context of events that carry an identity or headers."""
    raw.run_id, raw.phase = text_of(get("run_id")) or None, text_of(get("phase")) or None
    attempt = get("attempt")
    if type(attempt) is int:
        raw.attempt = attempt
    headers = _headers(get_metadata, get, keys) if has_payload_field else EMPTY
    if has_payload_field and raw.run_id is None:
        raw.run_id = _run_id(get, get_metadata, headers, places.run, keys.runs)
    if headers and raw.correlation is None:
        raw.correlation = _first_text(headers, _RUN_IDS)
    raw.traceparent = text_of(get("traceparent")) or text_of(headers.get("traceparent"))
    raw.tracestate = text_of(get("tracestate")) or text_of(headers.get("tracestate"))


def _headers(get_metadata: Getter, get: Getter, keys: Keys) -> Mapping[str, object]:
    """Return the headers of an event: a mapping, or a list of pairs."""
    for value in (get_metadata("headers"), get("headers"), get("header")):
        headers = mapping_of(_as_mapping(value))
        if headers:
            return keys.payload(headers)
    return EMPTY


def _as_mapping(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    pairs = [
        cast("tuple[object, ...]", one)
        for one in cast("list[object]", value)
        if isinstance(one, tuple)
    ]
    return {str(one[0]): one[1] for one in pairs if len(one) == 2}


def read_own(event: Event) -> Raw:
    """Read an event of our own bus."""
    raw = Raw(str(event.event_type), event.event_id, event.at_ns, event.source, event.payload)
    raw.run_id, raw.phase, raw.attempt = event.run_id, event.phase, event.attempt
    if event.metadata:
        raw.correlation = text_of(event.metadata.get("correlation_id"))
    raw.traceparent, raw.tracestate = event.traceparent, event.tracestate
    return raw


def _enclosed_event(
    event_type: str | None, get: Getter, places: Places
) -> Mapping[str, object] | None:
    """Return the event that a broker's message or a log entry wraps, if it has a type of its own. JSON text is decoded."""
    if event_type is not None and ending(event_type) is not None:
        return None
    for key in places.enclosing:
        value = get(key)
        inner = mapping_of(decoded(value)) if value is not None else None
        if inner is not None and states_start_or_end(inner):
            return inner
    return None


def _read_enclosed(
    message: object,
    event: Mapping[str, object],
    keys: Keys,
    after_ns: int,
    now_ns: int | None,
) -> Raw:
    raw = read(dict(event), keys, after_ns=after_ns, now_ns=now_ns)
    places, get, get_metadata, _ = keys.look_up(message)
    if raw.run_id is None and "run_id" not in raw.payload:
        raw.run_id = text_of(get("run_id"))
    if raw.timed:
        return raw
    at_ns, unreadable = _event_time(get, get_metadata, EMPTY, places.time, after_ns)
    if at_ns is not None:
        raw.at_ns, raw.odd_time, raw.timed = at_ns, unreadable, True
    return raw


def states_start_or_end(event: object) -> bool:
    """Whether the event has a type of two or more words that ends in a life-cycle word (started, failed, ...)."""
    get = getter(event)
    for key in (*TYPE_KEYS, "event", "event_name", "eventType", "event_type_value", "name"):
        text = text_of(get(key))
        if text and ending(text) is not None and "." in normal(text):
            return True
    return False


def _run_id(
    get: Getter,
    get_metadata: Getter,
    headers: Mapping[str, object],
    of_metadata: tuple[str, ...],
    run_keys: tuple[str, ...],
) -> str | None:
    """Return the run id from the envelope of an event."""
    found = text_of(get("runid")) or _first_of(get_metadata, of_metadata)
    for value in (get("meta"), get("context"), headers):
        if found is None and (envelope := mapping_of(value)):
            found = _first_text(envelope, run_keys)
    return found


def _first_text(fields: Mapping[str, object], keys: tuple[str, ...]) -> str | None:
    return _first_of(fields.get, keys)


def _first_of(get: Getter, keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = get(key)
        if value is not None and (text := text_of(value)):
            return text
    return None


def _event_time(
    get: Getter,
    get_metadata: Getter,
    payload: Mapping[str, object],
    places: tuple[Place, ...],
    after_ns: int,
) -> tuple[int | None, str | None]:
    """Return the first readable time of an event, else the text of the first unreadable one."""
    unreadable: str | None = None
    for where, key in places:
        value = (
            payload.get(key)
            if where == PAYLOAD
            else get_metadata(key)
            if where == METADATA
            else get(key)
        )
        if value is None:
            continue
        at_ns = time_ns_of(value, after_ns=after_ns)
        if at_ns is not None:
            return at_ns, None
        if unreadable is None:
            unreadable = _unreadable_time(value)
    return None, unreadable


def _unreadable_time(value: object) -> str | None:
    """Return the text of a value that looks like a time and cannot be parsed."""
    if isinstance(value, str | bytes | int | float | Decimal | date | struct_time):
        return str(value)[:_SHOWN_CHARS] or None
    kind = type(value).__name__
    return kind if _TIME_CLASS.search(kind) else None


def published_at_ns(event: Mapping[str, object], after_ns: int = 0) -> int | None:
    """Return the publication time of a recorded event, which orders a stream; payload times may differ a little."""
    metadata = mapping_of(event.get("metadata")) or EMPTY
    payload = mapping_of(event.get("payload")) or mapping_of(event.get("data")) or EMPTY
    values = [metadata.get("timestamp"), event.get("metadata_timestamp")]
    values += [event.get(key) for key in TIMES]
    values += [metadata.get(key) for key in TIMES[1:]]
    values.append(payload.get("timestamp"))
    at_ns = time_ns_of(event.get("at_ns"), scale=1)
    for value in values:
        if at_ns is not None:
            break
        at_ns = time_ns_of(value, after_ns=after_ns)
    return at_ns


def _payload(
    event: object, get: Getter, places: Places, event_type: str
) -> tuple[Mapping[str, object], bool]:
    """Return the payload, and whether it is a field of the event; else the event itself is the payload."""
    has_payload_field = False
    for key in places.payload:
        value = get(key)
        if value is not None:
            has_payload_field = True
            field: Any = value
            if type(value) is dict:
                return field, True
            found = mapping_of(decoded(value))
            if found is not None:
                return found, True
    if has_payload_field:
        return EMPTY, True
    found = mapping_of(event)
    if found is None or "payload" in found or "data" in found:
        return EMPTY, found is not None
    other = places.spelled.values()
    fields = {
        key: value
        for key, value in found.items()
        if key not in _ENVELOPE
        and not (key in other and key_of(key) in _ENVELOPE)
        and not (key in NAME_KEYS and value == event_type and key != "object_kind")
    }
    if not _SOLE_PAYLOADS.isdisjoint(fields):
        payload_keys = [key for key in fields if key in _SOLE_PAYLOADS]
        if len(payload_keys) == 1 and (
            len(fields) == 1 or _is_envelope_except(fields, payload_keys[0])
        ):
            only = mapping_of(decoded(fields[payload_keys[0]]))
            if only is not None:
                return only, True
    elif fields and not isinstance(event, Mapping) and next(iter(fields))[:1] == "_":
        read_by_methods = payload_from_methods(event)
        if read_by_methods is not None:
            return read_by_methods, True
    return fields, False


def _is_envelope_except(fields: Mapping[str, object], payload_key: str) -> bool:
    """Whether all fields but ``payload_key`` are about the event itself: its time, version or kind."""
    return all(key == payload_key or key_of(key) in _ABOUT_THE_EVENT for key in fields)
