"""What is open, in bytes that survive the process; what a killed process left, as records that can be finished.

An entry is one JSON object. What stands in it was redacted before: the journal leaves the process as much as a span
does. A killed process's open runs, phases and hooks end as ``error`` with ``error.type`` ``killed``, at the last moment
that is known of them; what it had measured but not yet exported is measured again by whoever finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, cast

from spanbus.memo import Memo
from spanbus.telemetry import names
from spanbus.telemetry.names import ErrorType, Level, Result
from spanbus.telemetry.records import EventNote, Failure, Held, Record
from spanbus.telemetry.rendering import Rendering, handle_of
from spanbus.workflow.identity import TraceContext

HEARTBEAT_LONGEST_S = 10.0
_RESULTS = frozenset(Result)
_ATTEMPT = Level.ATTEMPT
_quoted = json.encoder.encode_basestring_ascii
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class JournalWriter(Protocol):
    """The spool's journal: entries by key until the span with that id is put."""

    def journal_open(self, key: int, data: bytes) -> None: ...

    def journal_update(self, key: int, data: bytes) -> None: ...

    def journal_close(self, key: int) -> None: ...


class Leftover(NamedTuple):
    """What a dead process left: its open entries, each with its updates, and its finished spans that no export of metrics had counted."""

    open: list[tuple[int, list[bytes]]]
    measurements: list[bytes]


class JournalSink:
    """Writes starts at once; events in the background (:meth:`catch_up`), for most phases end before it is needed."""

    def __init__(self, journal: JournalWriter, rendering: Rendering) -> None:
        self._journal = journal
        self._rendering = rendering
        self._written: dict[int, int] = {}
        self._beats: dict[int, tuple[float, int]] = {}
        self._beneath: tuple[Record, str, bytes] | None = None
        """What stands in every entry beneath a record, while its workflow has this name: of the last that had one beneath it."""
        self._quoted: Memo[str, bytes] = Memo(lambda text: _quoted(text).encode("ascii"), 4_000)

    def opened(self, record: Record) -> None:
        handle = handle_of(record)
        if handle is None or not handle.sampled:
            return
        self._journal.journal_open(record.span_id, self._entry(record))

    def _entry(self, record: Record) -> bytes:
        parent, quoted, task_type = record.parent, self._quoted, record.task_type
        if parent is None:
            same = _of_run(record, record.parent_span_id)
        elif self._beneath is not None and self._beneath[0] is parent and self._beneath[1] == record.workflow:
            same = self._beneath[2]
        else:
            same = _of_run(record, parent.span_id)
            self._beneath = parent, record.workflow, same
        entry = b'{"level":%b,"name":%b,%b,"span":"%016x","start":%d,"attempt":%d' % (
            quoted[record.level], quoted[record.name], same, record.span_id, record.started_at_ns, record.attempt
        )
        if task_type is not None:
            entry += b',"type":' + quoted[task_type]
        if parent is not None and record.level is _ATTEMPT:
            entry += b',"phase":' + quoted[parent.name]
        return entry + b"}"

    def closed(self, record: Record) -> None:
        if self._beneath is not None and self._beneath[0] is record:
            self._beneath = None
        self._written.pop(record.span_id, None)
        self._beats.pop(record.span_id, None)

    def late(self, note: EventNote) -> None:
        """Nothing is open that it belongs to."""

    def catch_up(self, records: Iterable[Record], now_ns: int) -> None:
        """Write the events of open records that are not in the journal yet, with a sign of life at growing distances."""
        for record in records:
            if record.result is not None:
                continue
            key = record.span_id
            written = self._written.get(key, 0)
            events = list(record.events) if record.events.total > written else []
            fresh = events[max(0, len(events) - (record.events.total - written)):]
            next_beat_s, due_ns = self._beats.get(key, (0.25, 0))
            if not fresh and now_ns < due_ns:
                continue
            self._written[key] = record.events.total
            self._beats[key] = (min(next_beat_s * 2, HEARTBEAT_LONGEST_S), now_ns + int(next_beat_s * 1e9))
            rendered = [[note.name, note.at_ns, self._rendering.event(note)] for note in fresh]
            update: dict[str, object] = {"alive": now_ns, "total": record.events.total, "events": rendered}
            if record.held is not None:
                result, failure, at_ns = record.held
                message = self._rendering.redactor.text(failure.message, names.ERROR_TEXT_LIMIT) if failure is not None and failure.message else None
                update["held"] = [str(result), str(failure.error_type) if failure is not None else None, message, at_ns]
            self._journal.journal_update(key, _COMPACT(update).encode("utf-8", "replace"))


def _of_run(record: Record, parent_span_id: int | None) -> bytes:
    parent = f',"parent":"{parent_span_id:016x}"' if parent_span_id is not None else ""
    return f'"run":{_quoted(record.run_id)},"workflow":{_quoted(record.workflow)},"trace":"{record.trace_id:032x}"{parent}'.encode("ascii")


def measured(span: bytes) -> Record | None:
    """What metrics need of a run or phase, from the OTLP bytes of its finished span; None for any other span."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    try:
        found = Span.FromString(span)
    except DecodeError:
        return None
    attributes = {one.key: one.value for one in found.attributes}

    def text(name: str) -> str | None:
        return attributes[name].string_value if name in attributes else None

    level, result = text(names.LEVEL), text(names.TASK_RESULT if text(names.LEVEL) == Level.PHASE else names.PIPELINE_RESULT)
    workflow, name = text(names.PIPELINE_NAME), text(names.TASK_NAME if level == Level.PHASE else names.PIPELINE_NAME)
    if level not in (Level.RUN, Level.PHASE) or result is None or workflow is None or name is None:
        return None
    record = Record(
        Level(level), name, run_id=text(names.PIPELINE_RUN_ID) or "", workflow=workflow, trace_id=int.from_bytes(found.trace_id),
        span_id=int.from_bytes(found.span_id), started_at_ns=found.start_time_unix_nano, task_type=text(names.TASK_TYPE),
    )
    try:
        record.result = Result(result)
    except ValueError:
        return None
    record.ended_at_ns = found.end_time_unix_nano
    record.attempts = max(1, attributes[names.PHASE_ATTEMPTS].int_value) if names.PHASE_ATTEMPTS in attributes else 1
    error = text(names.ERROR_TYPE)
    if error is not None:
        record.failure = Failure(error)
    return record


def finished(leftover: Leftover, *, error_type: ErrorType = ErrorType.KILLED) -> list[Record]:
    """The records that a dead process left open, ended as ``error``, children before parents.

    A phase whose failure was announced already, and waited for another attempt, ends with that failure.
    """
    found: dict[int, tuple[Record, Mapping[str, object]]] = {}
    for _, pieces in leftover.open:
        entry = _entry(pieces[0]) if pieces else None
        record = _record(entry)
        if record is None or entry is None:
            continue
        alive_ns = record.started_at_ns
        held: Held | None = None
        for piece in pieces[1:]:
            update = _entry(piece)
            if update is None:
                continue
            held = _held(update)
            alive = update.get("alive")
            if isinstance(alive, int):
                alive_ns = max(alive_ns, alive)
            for event in _events(update):
                record.events.append(event)
                alive_ns = max(alive_ns, event.at_ns)
        if held is not None:
            record.result, record.failure, record.ended_at_ns = held.result, held.failure, max(record.started_at_ns, held.at_ns)
        else:
            record.result, record.ended_at_ns = Result.ERROR, alive_ns
            record.failure = Failure(error_type, f"{record.level} {record.name!r} was open when its process was {error_type}")
        record.held = held
        found[record.span_id] = (record, entry)
    for record, entry in found.values():
        parent = entry.get("parent")
        if not isinstance(parent, str):
            continue
        parent_id = int(parent, 16)
        if parent_id in found:
            above = record.parent = found[parent_id][0]
            if record.level is Level.ATTEMPT and above.held is not None:  # the attempt that failed
                record.result, record.failure, record.ended_at_ns = above.result, above.failure, max(record.started_at_ns, above.held.at_ns)
        else:
            record.remote_parent = TraceContext(record.trace_id, parent_id)
    for record, _ in found.values():
        holder = record.parent
        while holder is not None:
            holder.ended_at_ns = max(holder.ended_at_ns or 0, record.ended_at_ns or 0)
            if record.level is Level.ATTEMPT and holder.level is Level.PHASE:
                holder.attempts = max(holder.attempts, record.attempt)
            holder = holder.parent
    order = {Level.RUN: 0, Level.PHASE: 1, Level.ATTEMPT: 2, Level.STRATEGY: 3, Level.HOOK: 4, Level.COMMAND: 4}
    return sorted((record for record, _ in found.values()), key=lambda record: -order[record.level])


def _entry(data: bytes) -> Mapping[str, object] | None:
    try:
        entry: object = json.loads(data)
    except ValueError:
        return None
    return cast("Mapping[str, object]", entry) if isinstance(entry, dict) else None


def _integer(entry: Mapping[str, object], key: str) -> int:
    value = entry[key]
    if not isinstance(value, int):
        raise ValueError(key)
    return value


def _record(entry: Mapping[str, object] | None) -> Record | None:
    if entry is None:
        return None
    try:
        task_type = entry.get("type")
        record = Record(
            Level(str(entry["level"])), str(entry["name"]), run_id=str(entry["run"]), workflow=str(entry["workflow"]),
            trace_id=int(str(entry["trace"]), 16), span_id=int(str(entry["span"]), 16), started_at_ns=_integer(entry, "start"),
            task_type=task_type if isinstance(task_type, str) else None, attempt=_integer(entry, "attempt") if "attempt" in entry else 1,
        )
    except (KeyError, ValueError):
        return None
    if record.level is Level.HOOK:
        record.describe(names.HOOK_NAME, record.name)
    return record


def _held(update: Mapping[str, object]) -> Held | None:
    held = update.get("held")
    if not isinstance(held, list) or len(found := cast("list[object]", held)) != 4:
        return None
    result, error_type, message, at_ns = found
    if not isinstance(result, str) or result not in _RESULTS or not isinstance(at_ns, int):
        return None
    failure = Failure(error_type, message if isinstance(message, str) else None) if isinstance(error_type, str) else None
    return Held(Result(result), failure, at_ns)


def _events(update: Mapping[str, object]) -> Iterable[EventNote]:
    events = update.get("events")
    if not isinstance(events, list):
        return
    prefix = names.EVENT_PAYLOAD_PREFIX
    for event in cast("list[object]", events):
        if not isinstance(event, list) or len(found := cast("list[object]", event)) != 3:
            continue
        name, at_ns, attributes = found
        if isinstance(name, str) and isinstance(at_ns, int) and isinstance(attributes, dict):
            rendered = cast("dict[str, object]", attributes)
            payload = {key.removeprefix(prefix): value for key, value in rendered.items() if key.startswith(prefix)}
            yield EventNote(name, at_ns, str(rendered.get(names.EVENT_ID, "")), str(rendered.get(names.EVENT_SOURCE, "")), payload)
