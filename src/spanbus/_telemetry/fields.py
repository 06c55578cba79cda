"""Tables of span attributes by level: the key of each attribute, and how it is read from a record.

The same table is used for live SDK spans, summaries and OTLP bytes. Fields whose values recur together form a group, and the
encoded bytes of a group are cached by its values.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.span_state import SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.values import attribute
from spanbus._semantics import Flag, Level, names

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

SPAN_ATTRIBUTE: Final = b"\x4a"
_CACHED: Final = 4_000
Value = str | int | None
_RUN: Final = Level.RUN
_PHASE: Final = Level.PHASE
_ATTEMPT: Final = Level.ATTEMPT


class Field(NamedTuple):
    """One attribute: its key, and whether its value is known at the start."""

    key: str
    at_start: bool = False


class Group:
    """Fields whose values recur together. ``values`` reads them from a record; a None is left out."""

    __slots__ = ("encoded", "fields", "values")

    def __init__(self, values: Callable[[SpanState], tuple[Value, ...]], *fields: Field) -> None:
        self.fields = fields
        self.values: Callable[[SpanState], Any] = values

        def encode(values: tuple[Value, ...]) -> bytes:
            return b"".join(
                [
                    attribute(SPAN_ATTRIBUTE, field.key, _plain(value))
                    for field, value in zip(fields, values, strict=True)
                    if value is not None
                ]
            )

        self.encoded: Callable[[Any], bytes] = bounded_cache(encode, _CACHED)
        """Cached OTLP bytes of the attributes with such values."""

    def pairs(self, record: SpanState) -> Iterator[tuple[Field, str | int]]:
        """Yield each field that has a value, with the value."""
        for field, value in zip(self.fields, self.values(record), strict=True):
            if value is not None:
                yield field, _plain(value)


class SpanId(Group):
    """A span id as an attribute: not cached, because it never recurs."""

    __slots__ = ()

    def __init__(self, value: Callable[[SpanState], int], field: Field) -> None:
        self.fields = (field,)
        self.values = value
        lead = attribute(SPAN_ATTRIBUTE, field.key, "0" * 16)[:-16]
        self.encoded = lambda span_id: lead + hexlify(span_id.to_bytes(8, "big"))

    def pairs(self, record: SpanState) -> Iterator[tuple[Field, str | int]]:
        """Yield the field with the id in hexadecimal."""
        yield self.fields[0], f"{self.values(record):016x}"


def _plain(value: str | int) -> str | int:
    return value if type(value) is int else str(value)


_RUN_IDENTITY: Final = Group(
    lambda record: (record.workflow, record.run_id, record.level),
    Field(names.PIPELINE_NAME, True),
    Field(names.PIPELINE_RUN_ID, True),
    Field(names.LEVEL, True),
)
_TOTAL: Final = Field(names.EVENTS_TOTAL)
_ERROR: Final = Field(names.ERROR_TYPE)
_TASK_NAME: Final = Field(names.TASK_NAME, True)
_TASK_TYPE: Final = Field(names.TASK_TYPE, True)
_TASK_RUN_ID: Final = Field(names.TASK_RUN_ID, True)
_ATTEMPT_NUMBER: Final = Field(names.PHASE_ATTEMPT, True)
_ENDED: Final = Group(
    lambda record: (record.result, record.failure and record.error_type, record.events.total),
    Field(names.TASK_RESULT),
    _ERROR,
    _TOTAL,
)
_BELOW_PHASE: Final = (
    _RUN_IDENTITY,
    Group(
        lambda record: (
            record.attempt,
            record.result,
            record.failure and record.error_type,
            record.events.total,
        ),
        _ATTEMPT_NUMBER,
        Field(names.HOOK_RESULT),
        _ERROR,
        _TOTAL,
    ),
)

TABLES: Final[Mapping[Level, tuple[Group, ...]]] = {
    _RUN: (
        Group(
            lambda record: (record.workflow, record.run_id, record.level, record.action),
            *_RUN_IDENTITY.fields,
            Field(names.PIPELINE_ACTION_NAME, True),
        ),
        Group(
            lambda record: (
                record.result,
                record.failure and record.error_type,
                record.events.total,
            ),
            Field(names.PIPELINE_RESULT),
            _ERROR,
            _TOTAL,
        ),
    ),
    _PHASE: (
        _RUN_IDENTITY,
        Group(lambda record: (record.name, record.task_type), _TASK_NAME, _TASK_TYPE),
        SpanId(lambda record: record.span_id, _TASK_RUN_ID),
        Group(
            lambda record: (
                record.result,
                record.failure and record.error_type,
                record.attempts,
                record.events.total,
            ),
            Field(names.TASK_RESULT),
            _ERROR,
            Field(names.PHASE_ATTEMPTS),
            _TOTAL,
        ),
    ),
    _ATTEMPT: (
        _RUN_IDENTITY,
        Group(
            lambda record: (record.phase.name, record.task_type, record.attempt),
            _TASK_NAME,
            _TASK_TYPE,
            _ATTEMPT_NUMBER,
        ),
        SpanId(lambda record: record.phase.span_id, _TASK_RUN_ID),
        _ENDED,
    ),
    Level.STRATEGY: _BELOW_PHASE,
    Level.HOOK: _BELOW_PHASE,
    Level.COMMAND: _BELOW_PHASE,
    Level.EXECUTION: (
        _RUN_IDENTITY,
        Group(
            lambda record: (record.step, record.task_type, record.attempt),
            _TASK_NAME,
            _TASK_TYPE,
            _ATTEMPT_NUMBER,
        ),
        SpanId(lambda record: record.span_id, _TASK_RUN_ID),
        _ENDED,
    ),
}
"""Fields of each level. Those that identify a span come first, so that a low attribute limit keeps them."""

KEYS: Final = {
    level: frozenset(field.key for group in table for field in group.fields)
    for level, table in TABLES.items()
}


def read(record: SpanState, *, at_start: bool | None = None) -> dict[str, AttributeValue]:
    """Return the attributes of the record's level: all of them, those known at the start, or those known only at the end."""
    return {
        field.key: value
        for group in TABLES[record.level]
        for field, value in group.pairs(record)
        if at_start is None or field.at_start is at_start
    }


def rare(record: SpanState) -> dict[str, AttributeValue]:
    """Return the attributes of flagged records and of records with dropped events."""
    found: dict[str, AttributeValue] = {
        key: value
        for flag, key, value in (
            (Flag.INFERRED, names.MATCH, "inferred"),
            (Flag.AMBIGUOUS, names.MATCH, "ambiguous"),
            (Flag.ORPHAN_END, names.ORPHAN, "end"),
            (Flag.CLOCK, names.CLOCK, "clamped"),
            (Flag.UNREAD, names.ABANDONED, "unread"),
        )
        if flag in record.flags
    }
    if record.events.dropped:
        found[names.EVENTS_DROPPED] = record.events.dropped
        for event_type, count in record.events.dropped_by_type.items():
            found[f"{names.EVENTS_SUMMARY_PREFIX}{event_type}"] = count
    return found
