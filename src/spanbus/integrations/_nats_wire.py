"""Events as NATS carries them, version 1: subjects, lines of JSON, messages of several lines (``docs/distributed.md``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, cast

from spanbus._named_tuple import NamedTuple
from spanbus._reading.times import time_ns_of
from spanbus._semantics.names import ERROR_TEXT_LIMIT
from spanbus._telemetry.redaction import Redactor
from spanbus._workflow.events import Event, ReceivedEvent

PREFIX: Final = "spanbus.v1.event"
LINE_BYTES: Final = 256 * 1024 - 2_048
"""A message is at most 256 KiB with its headers."""
MESSAGE_BYTES: Final = 64 * 1024
MESSAGE_LINES: Final = 100
_TOKEN_CHARS: Final = 64
_NOT_IN_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")
_ITEMS: Final = 32
_DEPTH: Final = 3
_LONG_TEXTS: Final = frozenset({"stacktrace"})
_KEPT: Final = frozenset({"rerun_of", "stacktrace"})
"""Payload keys that observers read, beside those that span events show."""
_KEYS_KNOWN: Final = 1_000
_NOT_IN_A_HEADER: Final = re.compile(r"[^\x21-\x7e]")
_SHORT: Final = 64
"""Texts up to here recur, such as results and names of classes: their cleaned form is remembered."""
_LARGEST: Final = 2**63 - 1
_plain: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode
_quote: Final = json.encoder.encode_basestring
_quoted: Final = lru_cache(4_096)(json.encoder.encode_basestring)


def _encoder() -> Callable[[object], str]:
    """The encoder of :mod:`json` as it makes one for each call of ``encode``, made once; it takes half the time then."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without it
        return _plain
    encode: Any = make(None, str, _quote, None, ":", ",", False, False, True)
    return lambda value: "".join(encode(value, 0))


_encode: Final = _encoder()


class TooLong(ValueError):
    """A line that no message can hold."""


class Message(NamedTuple):
    """One message: where it goes, its id, its lines, their number."""

    subject: str
    message_id: str
    body: bytes
    lines: int


def token(name: str | None) -> str:
    """A name as one token of a subject; what does not fit, or may not stand there, is told by a hash. ``-`` for none."""
    if not name:
        return "-"
    plain = _NOT_IN_A_TOKEN.sub("_", name)
    if plain == name and len(name) <= _TOKEN_CHARS:
        return name
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{plain[: _TOKEN_CHARS - 17]}_{digest}"


@lru_cache(4_096)
def subject(workflow: str | None, run_id: str | None) -> str:
    """The subject of a run's events."""
    return f"{PREFIX}.{token(workflow)}.{token(run_id)}"


def _is_a_number(value: object) -> bool:
    """Whether it is one that telemetry shows as it is."""
    return (type(value) is int or type(value) is float) and -_LARGEST <= value <= _LARGEST


class _Key(NamedTuple):
    """Whether a key of a payload is shown, and whether its numbers are, which a key that names a secret hides."""

    allowed: bool
    numbers: bool


_NO_KEY: Final = _Key(False, False)


class Lines:
    """Makes lines of events. With a redactor a payload is what a span event would show of it; may be used by several threads."""

    def __init__(self, redactor: Redactor | None) -> None:
        self._redactor = redactor
        self._keys: dict[str, _Key] = {}
        self._short: Callable[[str, str], object] = lru_cache(4_096)(self._text)
        self._texts: Callable[[str, tuple[object, ...]], object] = lru_cache(1_000)(self._list)
        """Names of phases, mostly, which recur."""

    def _text(self, key: str, text: str) -> object:
        return self._redactor.value(key, text) if self._redactor is not None else None

    def _list(self, key: str, texts: tuple[object, ...]) -> object:
        return self._redactor.value(key, texts) if self._redactor is not None else None

    def record_of(self, event: Event, workflow: str | None) -> bytes:
        """An event as a record of the outbox: subject, id, and its line of JSON. Raises :class:`TooLong`."""
        payload = event.payload
        if self._redactor is not None:
            payload = self._redacted(payload, self._redactor, _DEPTH, everything=False)
        rest = _encode({**event.metadata}) if event.metadata else None
        line = (
            f'{{"event_type":{_quoted(str(event.event_type))},"event_id":{_quote(event.event_id)},"at_ns":{event.at_ns}'
            + (f',"source":{_quoted(event.source)}' if event.source else "")
            + (f',"run_id":{_quoted(event.run_id)}' if event.run_id is not None else "")
            + (f',"phase":{_quoted(event.phase)}' if event.phase is not None else "")
            + (f',"attempt":{event.attempt}' if event.attempt is not None else "")
            + (f',"traceparent":{_quoted(event.traceparent)}' if event.traceparent else "")
            + (f',"tracestate":{_quoted(event.tracestate)}' if event.tracestate else "")
            + (f',"metadata":{rest}' if rest is not None else "")
            + f',"payload":{_encode(payload if isinstance(payload, dict) else dict(payload))}}}'
        )
        text = line.encode("utf-8", "replace")
        if len(text) > LINE_BYTES:
            raise TooLong(f"an event of {len(text)} bytes")
        event_id = event.event_id
        if not (event_id.isascii() and event_id.isprintable() and " " not in event_id):
            event_id = _NOT_IN_A_HEADER.sub("_", event_id)
        head = f"{subject(workflow, event.run_id)}\n{event_id[:200]}\n"
        return head.encode() + text

    def _redacted(
        self,
        payload: Mapping[str, object],
        redactor: Redactor,
        depth: int,
        *,
        everything: bool,
    ) -> dict[str, object]:
        """A payload by the allow-list of span events, its texts cut and scrubbed, nested as it was."""
        found: dict[str, object] = {}
        for key, value in payload.items():
            allowed, numbers = self._keys.get(key) or self._key(key, redactor)
            if not (everything or allowed) or value is None:
                continue
            if type(value) is bool or (numbers and _is_a_number(value)):
                found[key] = value
            elif type(value) is str and len(value) <= _SHORT:
                found[str(key)] = self._short(key, value)
            elif isinstance(value, Mapping):
                if depth:
                    inner = cast("Mapping[str, object]", value)
                    found[str(key)] = self._redacted(
                        inner, redactor, depth - 1, everything=key == "counts"
                    )
            elif key in _LONG_TEXTS and isinstance(value, str):
                found[key] = redactor.text(value, 4 * ERROR_TEXT_LIMIT)
            else:
                cleaned = self._cleaned(key, value, redactor)
                if cleaned is not None:
                    found[str(key)] = cleaned
            if len(found) >= _ITEMS:
                break
        return found

    def _cleaned(self, key: str, value: object, redactor: Redactor) -> object:
        if isinstance(value, list | tuple):
            texts = tuple(cast("Sequence[object]", value))
            value = list(texts)
            if len(texts) <= _ITEMS and all(type(one) is str for one in texts):
                cleaned = self._texts(key, texts)
                return list(cast("tuple[str, ...]", cleaned)) if cleaned is not None else None
        cleaned = redactor.value(key, value)
        return list(cleaned) if isinstance(cleaned, tuple) else cleaned

    def _key(self, key: object, redactor: Redactor) -> _Key:
        if not isinstance(key, str):
            return _NO_KEY
        name, limit = redactor.named("", key)
        known = _Key(key in _KEPT or name is not None, limit > 0)
        if len(self._keys) < _KEYS_KNOWN:
            self._keys[key] = known
        return known


def messages_of(records: Sequence[bytes]) -> dict[str, list[Message]]:
    """The messages of these records by subject, each subject's in order; the same records give the same messages."""
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
    """A line of a message as an event, CloudEvents too; None for what is none. Number and stamp are the message's."""
    try:
        line: object = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    said = cast("Mapping[str, object]", line)
    kind = said.get("event_type") or said.get("type")
    if not isinstance(kind, str):
        return None
    at_ns = said.get("at_ns")
    attempt = said.get("attempt")
    return ReceivedEvent(
        kind,
        _text(said.get("event_id") or said.get("id")) or str(sequence),
        at_ns if type(at_ns) is int else time_ns_of(said.get("time")) or stamp_ns,
        _mapping(said.get("payload", said.get("data"))),
        _text(said.get("source")) or "",
        _text(said.get("run_id") or said.get("runid")),
        _text(said.get("phase")),
        attempt if type(attempt) is int else None,
        _text(said.get("traceparent")),
        _text(said.get("tracestate")),
        _mapping(said.get("metadata")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, object]:
    return MappingProxyType(cast("dict[str, object]", value) if isinstance(value, dict) else {})
