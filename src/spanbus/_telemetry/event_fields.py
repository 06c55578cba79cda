"""The attributes of a span event: the allowed payload keys, the source and the event id.

The same selection is used for live SDK events, log records and OTLP bytes. Error fields come first, because viewers show the
first attributes of an event and fold the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.span_state import SpanEvent
from spanbus._otlp.encode import event_name
from spanbus._otlp.values import DOUBLE, attribute, attributes, utf8
from spanbus._reading.shape import is_true
from spanbus._semantics import names
from spanbus._telemetry.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

_ATTRIBUTE: Final = b"\x1a"
_TIMESTAMP: Final = struct.Struct("<BQ").pack
_CACHED_CHARS: Final = 128
_CACHED_PAYLOAD_KEYS: Final = 32
_PUBLISHER_KEYS: Final = frozenset(
    {"timestamp", "duration", "phase", "step_name", "success", "result"}
)
"""Keys in which two publishers of one step may differ."""
_STARTS_AND_ENDS: Final = tuple(
    """
    start started begin began running end ended complete completed done finished success succeeded fail failed failure
    error errored timeout timed_out cancelled
    """.split()
)
_CACHED_KEYS: Final = 1_000
_CACHED_VALUES: Final = 64
_SHOWN_FIRST: Final = (
    "type",
    "error_type",
    "error",
    "message",
    "reason",
    "exit_code",
    "output_tail",
)


class _Key:
    """One allowed payload key: its attribute name, and a cache of encoded values."""

    __slots__ = ("_redactor", "encoded", "false", "key", "lead", "name", "true")

    def __init__(self, redactor: Redactor, key: str, name: str, shown: bool) -> None:
        self._redactor, self.key, self.name = redactor, key, name
        self.true, self.false = (attribute(_ATTRIBUTE, name, value) for value in (True, False))
        self.lead = attribute(_ATTRIBUTE, name, 0.0)[:-8] if shown else b""
        """Encoded bytes before a float; empty if values of the key are hidden."""
        self.encoded: Callable[[str | int], bytes] = bounded_cache(self.encode, _CACHED_VALUES)

    def clean(self, raw: object) -> AttributeValue | None:
        """Return the redacted value, None if it cannot be an attribute."""
        return self._redactor.value(self.key, raw)

    def encode(self, raw: object) -> bytes:
        """Return the attribute as OTLP bytes."""
        cleaned = self.clean(raw)
        return attribute(_ATTRIBUTE, self.name, cleaned) if cleaned is not None else b""


class EventFields:
    """Selects and encodes the attributes of events; ``redactor`` decides which payload keys are allowed."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._keys = bounded_cache(self._key, _CACHED_KEYS)
        self._cached_shape = bounded_cache(self._shape, _CACHED_KEYS)
        self._sources: Callable[[str], bytes] = bounded_cache(_source, _CACHED_VALUES)
        self._id_leads: Callable[[int], bytes] = bounded_cache(_id_lead, _CACHED_KEYS)

    def attributes(self, event: SpanEvent) -> dict[str, AttributeValue]:
        """Return the event's attributes; at most 32 from its payload, nested ones flattened."""
        found: dict[str, AttributeValue] = {}
        payload = event.payload
        for key in self._shape(tuple(payload)):
            raw = payload[key.key]
            if isinstance(raw, Mapping):
                nested = self._redactor.attributes({key.key: cast("object", raw)})
                for name, value in nested.items():
                    found[names.EVENT_PAYLOAD_PREFIX + name] = value
            elif (cleaned := key.clean(raw)) is not None:
                found[key.name] = cleaned
        if len(found) > names.EVENT_ATTRIBUTES_LIMIT:
            found = dict(list(found.items())[: names.EVENT_ATTRIBUTES_LIMIT])
        if event.source:
            found[names.EVENT_SOURCE] = event.source
        found[names.EVENT_ID] = event.event_id
        return found

    def encoded(self, event: SpanEvent) -> bytes:
        """Return the body of the OTLP ``Event`` message."""
        parts = [_TIMESTAMP(0x09, event.at_ns), event_name(event.name)]
        payload: Mapping[str, Any] = event.payload
        shape = tuple(payload)
        for key in (
            self._cached_shape(shape) if len(shape) <= _CACHED_PAYLOAD_KEYS else self._shape(shape)
        ):
            raw = payload[key.key]
            kind = type(raw)  # pyright: ignore[reportUnknownVariableType]
            if kind is str and len(raw) <= _CACHED_CHARS:
                parts.append(key.encoded(raw))
            elif kind is float and key.lead and raw - raw == 0.0:  # finite
                parts.append(key.lead + DOUBLE(raw))
            elif kind is bool:
                parts.append(key.true if raw else key.false)
            elif isinstance(raw, Mapping):
                return b"".join(parts[:2]) + attributes(_ATTRIBUTE, self.attributes(event))
            elif raw is not None:
                parts.append(key.encode(raw))
        if event.source:
            parts.append(self._sources(event.source))
        try:
            event_id = event.event_id.encode()
        except UnicodeEncodeError:
            event_id = utf8(event.event_id)
        parts += (self._id_leads(len(event_id)), event_id)
        return b"".join(parts)

    def head(self, name: str, at_ns: int) -> bytes:
        """Return the beginning of an OTLP ``Event`` message: time and name."""
        return _TIMESTAMP(0x09, at_ns) + event_name(name)

    def _shape(self, keys: tuple[str, ...]) -> tuple[_Key, ...]:
        """Return the allowed keys of a payload in the order of their attributes, at most 32."""
        found = [one for one in map(self._keys, keys) if one is not None]
        found.sort(
            key=lambda key: (
                _SHOWN_FIRST.index(key.key) if key.key in _SHOWN_FIRST else len(_SHOWN_FIRST)
            )
        )
        return tuple(found[: names.EVENT_ATTRIBUTES_LIMIT])

    def _key(self, key: str) -> _Key | None:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - foreign payloads
            return None
        name, limit = self._redactor.named(names.EVENT_PAYLOAD_PREFIX, key)
        return _Key(self._redactor, key, name, limit > 0) if name is not None else None


def without_repeats(events: Sequence[SpanEvent]) -> list[SpanEvent]:
    """Return the events without repeated starts and ends, as of a step that two publishers announce.

    Two events of one type are repeats if they share payload keys and agree in all of them. The one with more error fields is
    kept, else the first.
    """
    kept: list[SpanEvent] = []
    for event in events:
        announces = event.name.lower().endswith(_STARTS_AND_ENDS)
        place = next(
            (at for at, one in enumerate(kept) if announces and _is_repeat(one, event)), None
        )
        if place is None:
            kept.append(event)
        elif _detail(event) > _detail(kept[place]):
            kept[place] = event
    return kept


def _is_repeat(one: SpanEvent, other: SpanEvent) -> bool:
    if one.name != other.name or one.attempt != other.attempt:
        return False
    shared = (one.payload.keys() & other.payload.keys()) - _PUBLISHER_KEYS
    return bool(shared) and all(is_true(one.payload[key] == other.payload[key]) for key in shared)


def _detail(event: SpanEvent) -> int:
    return sum(1 for key in _SHOWN_FIRST if is_true(event.payload.get(key)))


def _source(source: str) -> bytes:
    return attribute(_ATTRIBUTE, names.EVENT_SOURCE, source)


def _id_lead(size: int) -> bytes:
    """Return the encoded bytes before an event id of this size."""
    return attribute(_ATTRIBUTE, names.EVENT_ID, "0" * size)[: -size or None]
