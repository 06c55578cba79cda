"""The attributes of a span event: what is allowed of its payload, who published it, its id.

One selection from the payload gives the attributes of live SDK events, of log records, and OTLP bytes. What says what
went wrong comes first: viewers show the first attributes of an event and fold the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from spanbus._correlation.span_state import SpanEvent
from spanbus._otlp.values import DOUBLE, attribute, attributes, string, utf8
from spanbus._reading.shape import is_true
from spanbus._remembering import remembering
from spanbus._semantics import names
from spanbus._telemetry.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

_ATTRIBUTE: Final = b"\x1a"
_MOMENT: Final = struct.Struct("<BQ").pack
_SHORT: Final = 128
_USUAL: Final = 32
_OF_THE_SPEAKER: Final = frozenset(
    {"timestamp", "duration", "phase", "step_name", "success", "result"}
)
"""Keys that two speakers of one step fill in words of their own."""
_STARTS_AND_ENDS: Final = tuple(
    """
    start started begin began running end ended complete completed done finished success succeeded fail failed failure
    error errored timeout timed_out cancelled
    """.split()
)
_KEYS: Final = 1_000
_VALUES: Final = 64
_FIRST: Final = ("type", "error_type", "error", "message", "reason", "exit_code", "output_tail")


class _Key:
    """One payload key: its attribute's name, and what is encoded of values that come again."""

    __slots__ = ("_redactor", "encoded", "false", "key", "lead", "name", "true")

    def __init__(self, redactor: Redactor, key: str, name: str, shown: bool) -> None:
        self._redactor, self.key, self.name = redactor, key, name
        self.true, self.false = (attribute(_ATTRIBUTE, name, value) for value in (True, False))
        self.lead = attribute(_ATTRIBUTE, name, 0.0)[:-8] if shown else b""
        """Encoded bytes before a float; empty where no value is shown."""
        self.encoded: Callable[[str | int], bytes] = remembering(self.encode, _VALUES)

    def clean(self, raw: object) -> AttributeValue | None:
        """The value as it may leave the process; None where it has no place in telemetry."""
        return self._redactor.value(self.key, raw)

    def encode(self, raw: object) -> bytes:
        """The attribute in OTLP bytes."""
        cleaned = self.clean(raw)
        return attribute(_ATTRIBUTE, self.name, cleaned) if cleaned is not None else b""


class EventFields:
    """Selects and encodes. ``redactor`` says which payload keys are allowed, and cleans their values."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._keys = remembering(self._key, _KEYS)
        self._usual_shape = remembering(self._shape, _KEYS)
        self._names: Callable[[str], bytes] = remembering(_name, _KEYS)
        self._sources: Callable[[str], bytes] = remembering(_source, _VALUES)
        self._id_leads: Callable[[int], bytes] = remembering(_id_lead, _KEYS)

    def attributes(self, event: SpanEvent) -> dict[str, AttributeValue]:
        """The event's attributes; of its payload, at most 32, nested ones flattened."""
        found: dict[str, AttributeValue] = {}
        payload = event.payload
        for key in self._shape(tuple(payload)):
            raw = payload[key.key]
            if isinstance(raw, Mapping):
                nested = {key.key: cast("object", raw)}
                self._redactor.collect(names.EVENT_PAYLOAD_PREFIX, nested, found)
            elif (cleaned := key.clean(raw)) is not None:
                found[key.name] = cleaned
        if len(found) > names.EVENT_ATTRIBUTES_LIMIT:
            found = dict(list(found.items())[: names.EVENT_ATTRIBUTES_LIMIT])
        if event.source:
            found[names.EVENT_SOURCE] = event.source
        found[names.EVENT_ID] = event.event_id
        return found

    def encoded(self, event: SpanEvent) -> bytes:
        """The body of the event's message in OTLP bytes."""
        parts = [_MOMENT(0x09, event.at_ns), self._names(event.name)]
        payload: Mapping[str, Any] = event.payload
        shape = tuple(payload)
        for key in self._usual_shape(shape) if len(shape) <= _USUAL else self._shape(shape):
            raw = payload[key.key]
            kind = type(raw)  # pyright: ignore[reportUnknownVariableType]
            if kind is str and len(raw) <= _SHORT:
                parts.append(key.encoded(raw))
            elif kind is float and key.lead and raw - raw == 0.0:  # it is finite
                parts.append(key.lead + DOUBLE(raw))
            elif kind is bool:
                parts.append(key.true if raw else key.false)
            elif isinstance(raw, Mapping):
                return b"".join(parts[:2]) + attributes(_ATTRIBUTE, self.attributes(event))
            elif raw is not None:
                parts.append(key.encode(raw))
        if event.source:
            parts.append(self._sources(event.source))
        event_id = utf8(event.event_id)
        parts += (self._id_leads(len(event_id)), event_id)
        return b"".join(parts)

    def head(self, name: str, at_ns: int) -> bytes:
        """The beginning of an event's message: its time and name."""
        return _MOMENT(0x09, at_ns) + self._names(name)

    def _shape(self, keys: tuple[str, ...]) -> tuple[_Key, ...]:
        """The allowed keys of a payload in the order of their attributes, at most 32."""
        found = [one for one in map(self._keys, keys) if one is not None]
        found.sort(key=lambda key: _FIRST.index(key.key) if key.key in _FIRST else len(_FIRST))
        return tuple(found[: names.EVENT_ATTRIBUTES_LIMIT])

    def _key(self, key: str) -> _Key | None:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - foreign payloads
            return None
        name, limit = self._redactor.named(names.EVENT_PAYLOAD_PREFIX, key)
        return _Key(self._redactor, key, name, limit > 0) if name is not None else None


def told_once(events: Sequence[SpanEvent]) -> list[SpanEvent]:
    """The events without those that say what another of the same type says: a step that two speakers announce.

    Two starts or ends say the same when what both say of their subject agrees, and they agree in something. The one that says
    what went wrong stays, else the first.
    """
    kept: list[SpanEvent] = []
    for event in events:
        announces = event.name.lower().endswith(_STARTS_AND_ENDS)
        place = next((at for at, one in enumerate(kept) if announces and _same(one, event)), None)
        if place is None:
            kept.append(event)
        elif _detail(event) > _detail(kept[place]):
            kept[place] = event
    return kept


def _same(one: SpanEvent, other: SpanEvent) -> bool:
    if one.name != other.name or one.attempt != other.attempt:
        return False
    shared = (one.payload.keys() & other.payload.keys()) - _OF_THE_SPEAKER
    return bool(shared) and all(is_true(one.payload[key] == other.payload[key]) for key in shared)


def _detail(event: SpanEvent) -> int:
    return sum(1 for key in _FIRST if is_true(event.payload.get(key)))


def _name(name: str) -> bytes:
    return string(b"\x12", name) or b"\x12\x00"


def _source(source: str) -> bytes:
    return attribute(_ATTRIBUTE, names.EVENT_SOURCE, source)


def _id_lead(size: int) -> bytes:
    """Encoded bytes before an event id of this size."""
    return attribute(_ATTRIBUTE, names.EVENT_ID, "0" * size)[: -size or None]
