"""The span of a phase that simply succeeded, in the OTLP bytes that the long way through attributes and events gives for it.

Nearly all spans are of this kind, and most of what stands in them came before: each attribute is looked up, not made.
"""

from __future__ import annotations

import struct
from math import isfinite
from typing import Final

from spanbus.memo import Memo
from spanbus.otlp import DOUBLE, VARINTS, attribute, attributes, string, varint
from spanbus.telemetry import names
from spanbus.telemetry.names import Level, Result
from spanbus.telemetry.records import EventNote, Record
from spanbus.telemetry.rendering import Rendering, span_end_ns

_SPAN: Final = b"\x4a"
_EVENT: Final = b"\x1a"
_IDS = struct.Struct("<BB16sBB8sBB8s").pack
_TIMES = struct.Struct("<BBBQBQ").pack
_MOMENT = struct.Struct("<BQ").pack
_INTERNAL: Final = 1
_TAIL: Final = b"\x7a\x00\x85\x01" + struct.pack("<I", 0x100)
"""No status; the parent is known not to be remote."""
_SHORT: Final = 128
_SUCCESS, _PHASE = Result.SUCCESS, Level.PHASE
_MOST: Final = 32
_NAMES: Final = 2_000


class _Field:
    """One payload key as an attribute of an event: texts by their raw value, both booleans, what stands before a number."""

    __slots__ = ("double", "false", "name", "texts", "true")

    def __init__(self, name: str, texts: Memo[str, bytes], true: bytes, false: bytes, double: bytes) -> None:
        self.name, self.texts, self.true, self.false, self.double = name, texts, true, false, double


class PlainPhases:
    """Remembers what it encoded; used under the recorder's lock."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering
        self._redactor = rendering.redactor

        def of_span(key: str) -> Memo[str, bytes]:
            return Memo(lambda value: attribute(_SPAN, key, value), _NAMES)

        def number(key: str) -> Memo[int, bytes]:
            return Memo(lambda value: attribute(_SPAN, key, value), _NAMES)

        self._names: Memo[str, bytes] = Memo(lambda name: string(b"\x2a", name) or b"\x2a\x00", _NAMES)
        self._workflows, self._runs = of_span(names.PIPELINE_NAME), of_span(names.PIPELINE_RUN_ID)
        self._phases, self._types = of_span(names.TASK_NAME), of_span(names.TASK_TYPE)
        self._attempts, self._totals = number(names.PHASE_ATTEMPTS), number(names.EVENTS_TOTAL)
        self._level = attribute(_SPAN, names.LEVEL, Level.PHASE.value)
        self._task_run_id = attribute(_SPAN, names.TASK_RUN_ID, "0" * 16)[:-16]
        self._success = attribute(_SPAN, names.TASK_RESULT, Result.SUCCESS.value)
        self._event_names: Memo[str, bytes] = Memo(lambda name: string(b"\x12", name) or b"\x12\x00")
        self._sources: Memo[str, bytes] = Memo(lambda source: attribute(_EVENT, names.EVENT_SOURCE, source))
        self._id_leads: Memo[int, bytes] = Memo(lambda size: attribute(_EVENT, names.EVENT_ID, "0" * size)[: -size or None])
        self._fields: Memo[str, _Field | None] = Memo(self._field, 1_000)

    def encode(self, record: Record) -> bytes | None:
        """The ``Span`` message; None for every other kind of record, which has to take the long way."""
        parent, log, ended = record.parent, record.events, record.result
        if (
            parent is None or ended is not _SUCCESS or record.level is not _PHASE or record.flags or record.links or record.attributes
            or log.dropped or record.skip_reason is not None
        ):
            return None
        span_id = record.span_id
        parts = [
            _IDS(
                0x0A, 16, record.trace_id.to_bytes(16, "big"), 0x12, 8, span_id.to_bytes(8, "big"), 0x22, 8, parent.span_id.to_bytes(8, "big"),
            ),
            self._names[record.name], _TIMES(0x30, _INTERNAL, 0x39, record.started_at_ns, 0x41, span_end_ns(record)),
            self._workflows[record.workflow], self._runs[record.run_id], self._level, self._phases[record.name], self._task_run_id, b"%016x" % span_id,
            self._types[record.task_type] if record.task_type is not None else b"", self._success, self._attempts[record.attempts],
            self._totals[log.total],
        ]
        for note in log.kept():
            body = self._event(note)
            size = len(body)
            parts += (b"\x5a", VARINTS[size] if size < 16_384 else varint(size), body)
        parts.append(_TAIL)
        return b"".join(parts)

    def _event(self, note: EventNote) -> bytes:
        event_id = note.event_id.encode("utf-8", "replace")
        parts = [_MOMENT(0x09, note.at_ns), self._event_names[note.name], self._id_leads[len(event_id)], event_id]
        if note.source:
            parts.append(self._sources[note.source])
        fields = self._fields
        if len(note.payload) > _MOST:
            return self._long_way(note)
        for key, value in dict(note.payload).items():  # a plain one is walked faster
            field = fields[key]
            if field is None:
                continue
            if type(value) is str and len(value) <= _SHORT:
                parts.append(field.texts[value])
            elif type(value) is float and field.double and isfinite(value):
                parts.append(field.double + DOUBLE(value))
            elif type(value) is bool:
                parts.append(field.true if value else field.false)
            elif type(value) is int and field.double and -(1 << 63) <= value < 1 << 63:
                parts.append(attribute(_EVENT, field.name, value))
            elif value is not None:
                return self._long_way(note)
        return b"".join(parts)

    def _long_way(self, note: EventNote) -> bytes:
        return _MOMENT(0x09, note.at_ns) + self._event_names[note.name] + attributes(_EVENT, self._rendering.event(note))

    def _field(self, key: str) -> _Field | None:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the payloads of strangers
            return None
        name, limit = self._redactor.named(names.EVENT_PAYLOAD_PREFIX, key)
        if name is None:
            return None
        redactor = self._redactor
        return _Field(
            name, Memo(lambda value: attribute(_EVENT, name, redactor.value(key, value)), 64), attribute(_EVENT, name, True), attribute(_EVENT, name, False),
            attribute(_EVENT, name, 0.0)[:-8] if limit else b"",
        )
