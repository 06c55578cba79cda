"""An event of any bus, read: its type, payload, time and identity, before any rule.

This follows what was met in the wild: types in ``metadata.event_type``, ``event_type``, ``type``, ``topic`` or ``kind``;
payloads in ``payload`` or ``data``; naive timestamps that are local time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import NamedTuple, cast
from uuid import UUID

from spanbus.workflow.events import EMPTY, Event, WorkflowEvent

_ENVELOPE = frozenset((
    "metadata", "event_type", "type", "topic", "kind", "payload", "data", "event_id", "id", "source", "at_ns", "timestamp", "metadata_timestamp", "time",
    "priority", "delivery_mode", "correlation_id", "headers", "tags", "attempt", "traceparent", "tracestate",
))
_BY_NAME = {name: str(member.value) for name, member in WorkflowEvent.__members__.items()}
_EARLIEST_NS = 1_000_000_000 * 100_000_000  # 1973: smaller numbers are counters or durations


class Raw(NamedTuple):
    """An event as it was read, before any rule."""

    event_type: str
    event_id: str
    at_ns: int
    source: str
    payload: Mapping[str, object]
    run_id: str | None = None
    phase: str | None = None
    attempt: int | None = None
    correlation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


def read(event: object) -> Raw:
    """Type, payload, time and identity of an event of any bus: our own, an object, a mapping or one decoded JSON line.

    Raises ``ValueError`` when the event has no type: then nothing can be said of it.
    """
    if isinstance(event, Event):
        return Raw(
            str(event.event_type), event.event_id, event.at_ns, event.source, event.payload, event.run_id, event.phase, event.attempt,
            text_of(event.metadata.get("correlation_id")) if event.metadata else None, event.traceparent, event.tracestate,
        )
    get = _getter(event)
    metadata = get("metadata")
    about = _getter(metadata) if metadata is not None else get
    event_type: str | None = None
    for key, source in (("event_type", about), ("event_type", get), ("type", get), ("topic", get), ("kind", get)):
        event_type = text_of(source(key))
        if event_type:
            break
    if not event_type:
        raise ValueError("the event has no type (looked for metadata.event_type, event_type, type, topic, kind)")
    if event_type[-1].isupper():  # an enumeration's name, as str() gives it
        event_type = _BY_NAME.get(event_type.rpartition(".")[2], event_type)
    payload = _payload(event, get)
    at_ns = time_ns_of(get("at_ns"), scale=1)
    for value in (payload.get("timestamp"), about("timestamp"), get("metadata_timestamp"), get("timestamp"), get("time")):
        if at_ns is not None:
            break
        at_ns = time_ns_of(value)
    headers = _mapping(about("headers")) or EMPTY
    correlation = text_of(about("correlation_id")) or text_of(get("correlation_id"))
    for key in ("run_id", "run-id", "x-run-id"):
        correlation = correlation or text_of(headers.get(key))
    attempt = get("attempt")
    return Raw(
        event_type,
        text_of(about("event_id")) or text_of(get("event_id")) or text_of(get("id")) or "",
        at_ns if at_ns is not None else time.time_ns(),
        text_of(about("source")) or text_of(get("source")) or "",
        payload,
        text_of(get("run_id")),
        text_of(get("phase")),
        attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else None,
        correlation,
        text_of(get("traceparent")) or text_of(headers.get("traceparent")),
        text_of(get("tracestate")) or text_of(headers.get("tracestate")),
    )


def published_at_ns(event: Mapping[str, object]) -> int | None:
    """When a recorded event was published: the order of a stream, even where payload times differ a little."""
    metadata = _mapping(event.get("metadata")) or EMPTY
    payload = _mapping(event.get("payload")) or _mapping(event.get("data")) or EMPTY
    at_ns = time_ns_of(event.get("at_ns"), scale=1)
    for value in (metadata.get("timestamp"), event.get("metadata_timestamp"), event.get("timestamp"), event.get("time"), payload.get("timestamp")):
        if at_ns is not None:
            break
        at_ns = time_ns_of(value)
    return at_ns


def _getter(source: object) -> Callable[[str], object]:
    if isinstance(source, Mapping):
        return cast("Mapping[str, object]", source).get
    return lambda key: getattr(source, key, None)


def _payload(event: object, get: Callable[[str], object]) -> Mapping[str, object]:
    """What the event tells of; an event that keeps it in no place of its own tells it itself."""
    payload, data = get("payload"), get("data")
    found = _mapping(payload)
    if found is None:
        found = _mapping(data)
    if found is None and payload is None and data is None:
        found = _mapping(event)
        if found is not None:
            found = EMPTY if "payload" in found or "data" in found else {key: value for key, value in found.items() if key not in _ENVELOPE}
    return EMPTY if found is None else found


def _mapping(value: object) -> Mapping[str, object] | None:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    if value is not None and dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: cast("object", getattr(value, field.name, None)) for field in dataclasses.fields(value)}
    if value is None or isinstance(value, type | str | int | float | list | set):
        return None
    fields = getattr(value, "__dict__", None)
    if isinstance(fields, dict):
        return cast("dict[str, object]", fields)
    kind: type[object] = type(value)
    names: object = getattr(kind, "_fields" if isinstance(value, tuple) else "__slots__", None)
    if isinstance(names, tuple | list) and names:
        return {name: cast("object", getattr(value, name, None)) for name in cast("tuple[object, ...]", names) if isinstance(name, str)}  # pyright: ignore[reportUnknownArgumentType]
    return None


def time_ns_of(value: object, *, scale: int | None = None) -> int | None:
    """A moment as Unix nanoseconds: datetime (naive is local time), ISO 8601 text, or a number in s, ms, µs or ns."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        factor = scale or (1_000_000_000 if value < 1e11 else 1_000_000 if value < 1e14 else 1_000 if value < 1e17 else 1)
        at_ns = value * factor
        return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None
    if isinstance(value, float):
        if not 1e8 <= value < 1e18:
            return None
        at_ns = round(value * 1e9) if value < 1e11 else round(value * 1e6) if value < 1e14 else round(value)
        return at_ns if at_ns < 2**63 else None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        try:
            moment = value.astimezone()
            at_ns = round(moment.timestamp()) * 1_000_000_000 if moment.microsecond == 0 else (
                int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
            )
        except (OverflowError, ValueError, OSError):
            return None
        return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None
    return None


def text_of(value: object) -> str | None:
    """A name from outside as text; live objects have none, and their ``repr`` is not asked for."""
    if isinstance(value, str):
        return str(value.value) if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return str(value.value) if isinstance(value.value, str) else value.name
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None
