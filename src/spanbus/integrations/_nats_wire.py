"""Wire format of events on NATS, version 1: subjects, JSON lines, batched messages (``docs/distributed.md``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._named_tuple import NamedTuple
from spanbus._reading.times import time_ns_of
from spanbus._semantics.names import ERROR_TEXT_LIMIT
from spanbus._telemetry.redaction import Redactor
from spanbus._workflow.events import Event, ReceivedEvent

PREFIX: Final = "spanbus.v1.event"
LINE_BYTES: Final = 256 * 1024 - 2_048
"""Limit of one line: a message has at most 256 KiB, including headers."""
MESSAGE_BYTES: Final = 64 * 1024
MESSAGE_LINES: Final = 100
_TOKEN_CHARS: Final = 64
_NOT_IN_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")
_ITEMS: Final = 32
_DEPTH: Final = 3
_LONG_TEXTS: Final = frozenset({"stacktrace"})
_KEPT: Final = frozenset({"rerun_of", "stacktrace"})
"""Payload keys that observers read in addition to those shown in span events."""
_KEYS_KNOWN: Final = 1_000
_NOT_IN_A_HEADER: Final = re.compile(r"[^\x21-\x7e]")
_PLAIN_ID: Final = re.compile(r"[!#-\[\]-~]{1,200}").fullmatch
"""An id that needs no escaping in a header or in JSON."""
_SHORT: Final = 64
"""Length of strings whose redacted form is cached; short ones recur, such as results and class names."""
_SHORT_LIST: Final = 1_024
"""The same for lists: total length of their strings."""
_ONLY_TEXTS: Final = frozenset({str}).issuperset
_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1
_INFINITE: Final = float("inf")
_BELOW: Final = -_INFINITE
_plain: Final = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, skipkeys=True, default=str
).encode
_quote: Final = json.encoder.encode_basestring
_quoted: Final = bounded_cache(json.encoder.encode_basestring, 1_024)


def _encoder() -> Callable[[object], str]:
    """Return an encoder like ``_plain`` that takes half the time.

    :mod:`json` creates a C encoder for each call of ``encode``; this one is created once.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the C extension
        return _plain
    encode: Any = make(None, str, _quote, None, ":", ",", False, True, True)
    return lambda value: "".join(encode(value, 0))


_encode: Final = _encoder()


class TooLong(ValueError):
    """A line that exceeds the size of a message."""


class Message(NamedTuple):
    """A message to publish; ``lines`` is the number of events in its body."""

    subject: str
    message_id: str
    body: bytes
    lines: int


def token(name: str | None) -> str:
    """Return a name as one token of a subject: ``-`` for none, with a hash if it is too long or has invalid characters."""
    if not name:
        return "-"
    plain = _NOT_IN_A_TOKEN.sub("_", name)
    if plain == name and len(name) <= _TOKEN_CHARS:
        return name
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{plain[: _TOKEN_CHARS - 17]}_{digest}"


def subject(workflow: str | None, run_id: str | None) -> str:
    """Return the subject of a run's events."""
    return f"{PREFIX}.{token(workflow)}.{token(run_id)}"


class Lines:
    """Encodes events as lines. With a redactor, payloads are reduced to what a span event shows. Thread-safe."""

    def __init__(self, redactor: Redactor | None) -> None:
        self._redactor = redactor
        self._key = bounded_cache(self._key_of, _KEYS_KNOWN)
        self._member = bounded_cache(self._member_of, 4_096)
        """Cached JSON members with short strings or lists of them, such as results and names of phases and classes."""

    def record_of(self, event: Event, workflow: str | None) -> bytes:
        """Encode an event as an outbox record: subject, id and JSON line, separated by newlines. Raises :class:`TooLong`."""
        event_id = event.event_id
        payload = (
            _encode(dict(event.payload))
            if self._redactor is None
            else self._redacted(event.payload, self._redactor, _DEPTH, everything=False)
        )
        rest = f',"metadata":{_encode({**event.metadata})}' if event.metadata else ""
        if _PLAIN_ID(event_id):
            header, quoted = event_id, f'"{event_id}"'
        else:
            header, quoted = _NOT_IN_A_HEADER.sub("_", event_id)[:200], _quote(event_id)
        where, identity = _belonging((workflow, event[4:10]))
        record = (
            f'{where}\n{header}\n{{"event_type":{_quoted(str(event.event_type))},"event_id":{quoted},"at_ns":{event.at_ns}'
            f'{identity}{rest},"payload":{payload}}}'
        ).encode("utf-8", "replace")
        if len(record) > LINE_BYTES and len(record) - len(where) - len(header) - 2 > LINE_BYTES:
            raise TooLong(f"an event of {len(record)} bytes")
        return record

    def _redacted(
        self,
        payload: Mapping[str, Any],
        redactor: Redactor,
        depth: int,
        *,
        everything: bool,
    ) -> str:
        """Encode a payload as JSON: keys by the allow-list of span events, strings truncated and scrubbed, nesting kept."""
        members: list[str] = []
        for key, value in payload.items():
            name, shown, numbers = self._key(key)
            kind = type(value)  # pyright: ignore[reportUnknownVariableType]
            if value is None or not (shown or (everything and name)):
                continue
            if kind is str and len(value) <= _SHORT:
                member = self._member((key, value))
            elif kind is bool:
                member = f"{name}true" if value else f"{name}false"
            elif numbers and (
                (kind is int and _SMALLEST <= value <= _LARGEST)
                or (kind is float and _BELOW < value < _INFINITE)
            ):
                member = f"{name}{value!r}"
            elif (kind is list or kind is tuple) and _are_short(value):
                member = self._member((key, tuple(value)))
            elif isinstance(value, Mapping):
                if not depth:
                    continue
                inner = cast("Mapping[str, Any]", value)
                member = name + self._redacted(
                    inner, redactor, depth - 1, everything=key == "counts"
                )
            else:
                cleaned = (
                    redactor.text(value, 4 * ERROR_TEXT_LIMIT)
                    if key in _LONG_TEXTS and isinstance(value, str)
                    else redactor.value(key, value)
                )
                if cleaned is None:
                    continue
                member = name + _encode(cleaned)
            members.append(member)
            if len(members) >= _ITEMS:
                break
        return f"{{{','.join(members)}}}"

    def _key_of(self, key: object) -> tuple[str, bool, bool]:
        """Return a payload key as JSON (empty if it is not a string), whether it is shown, and whether its numbers are shown.
        Numbers are hidden if the key names a secret.
        """
        if self._redactor is None or not isinstance(key, str):
            return "", False, False
        name, limit = self._redactor.named("", key)
        return f"{_quote(key)}:", key in _KEPT or name is not None, limit > 0

    def _member_of(self, member: tuple[str, str | tuple[str, ...]]) -> str:
        key, value = member
        cleaned = self._redactor.value(key, value) if self._redactor is not None else None
        return f"{_quote(key)}:{_encode(cleaned)}"


def _are_short(texts: Sequence[Any]) -> bool:
    """Whether these are few short strings and can be a cache key. Subclasses of ``str`` may redefine equality."""
    return (
        len(texts) <= _ITEMS
        and _ONLY_TEXTS(map(type, texts))
        and len("".join(texts)) <= _SHORT_LIST
    )


def _belonging_of(place: tuple[str | None, tuple[object, ...]]) -> tuple[str, str]:
    """Return the subject, and the JSON members that identify source, run, phase, attempt and trace context.

    Consecutive events often share them, so the result is cached.
    """
    workflow, fields = place
    source, run_id, phase, attempt, traceparent, tracestate = fields
    members = {
        "source": source or None,
        "run_id": run_id,
        "phase": phase,
        "attempt": attempt,
        "traceparent": traceparent or None,
        "tracestate": tracestate or None,
    }
    return subject(workflow, cast("str | None", run_id)), "".join(
        f',"{name}":{_encode(value)}' for name, value in members.items() if value is not None
    )


_belonging: Final = bounded_cache(_belonging_of, 1_024)


def messages_of(records: Sequence[bytes]) -> dict[str, list[Message]]:
    """Return the messages of these records by subject, in order. Deterministic: equal records give equal messages."""
    lines: dict[str, list[tuple[str, bytes]]] = {}
    for record in records:
        where, event_id, line = record.split(b"\n", 2)
        lines.setdefault(where.decode(), []).append((event_id.decode(), line))
    return {
        where: [_message(where, part) for part in _parts(found)] for where, found in lines.items()
    }


def _parts(lines: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    part: list[tuple[str, bytes]] = []
    size = 0
    for each in lines:
        if part and (len(part) >= MESSAGE_LINES or size + len(each[1]) + 1 > MESSAGE_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each[1]) + 1
    if part:
        yield part


def _message(where: str, lines: Sequence[tuple[str, bytes]]) -> Message:
    first, count = lines[0][0], len(lines)
    message_id = first if count == 1 else f"{first}.{count}"
    return Message(where, message_id, b"\n".join(line for _, line in lines), count)


def event_of(text: bytes, sequence: int, stamp_ns: int) -> ReceivedEvent | None:
    """Decode a line, ours or a CloudEvent; None if it is not an event. ``sequence`` and ``stamp_ns`` are the message's."""
    try:
        line: object = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    fields = cast("Mapping[str, object]", line)
    kind = fields.get("event_type") or fields.get("type")
    if not isinstance(kind, str):
        return None
    at_ns = fields.get("at_ns")
    attempt = fields.get("attempt")
    return ReceivedEvent(
        kind,
        _text(fields.get("event_id") or fields.get("id")) or str(sequence),
        at_ns if type(at_ns) is int else time_ns_of(fields.get("time")) or stamp_ns,
        _mapping(fields.get("payload", fields.get("data"))),
        _text(fields.get("source")) or "",
        _text(fields.get("run_id") or fields.get("runid")),
        _text(fields.get("phase")),
        attempt if type(attempt) is int else None,
        _text(fields.get("traceparent")),
        _text(fields.get("tracestate")),
        _mapping(fields.get("metadata")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, object]:
    return MappingProxyType(cast("dict[str, object]", value) if isinstance(value, dict) else {})
