"""The journal of open work, which survives the process, and the records rebuilt from that of a killed process.

An entry is one JSON object. Its content is redacted, because the journal leaves the process like a span does. Open runs,
phases and hooks of a killed process end as ``error`` with ``error.type`` ``killed``, at the last time they were known to
live. Metrics that it had not exported are counted again by the process that recovers the journal.
"""

from __future__ import annotations

import json
from binascii import hexlify
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.failures import abandoned_text
from spanbus._correlation.span_state import Held, SpanEvent, SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._semantics import ErrorType, Failure, Level, Result, names
from spanbus._telemetry.span_handle import SpanHandle
from spanbus._telemetry.template import Template
from spanbus._workflow.identity import TraceContext

_RESULTS: Final = frozenset(Result)
_ATTEMPT: Final = Level.ATTEMPT
_EXECUTION: Final = Level.EXECUTION
_quoted: Final = json.encoder.encode_basestring_ascii
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class JournalWriter(Protocol):
    """The spool's journal. An entry is kept until the span with its key as the id is put."""

    def journal_open(self, key: int, data: bytes) -> None: ...

    def journal_update(self, key: int, data: bytes) -> None: ...

    def journal_close(self, key: int) -> None: ...

    def journal_alive(self, now_ns: int) -> None: ...


class Leftover(NamedTuple):
    """Leftovers of a dead process.

    ``open``: its entries with their updates; ``measurements``: finished spans that no metrics export had counted;
    ``alive_ns``: when it was last known to live, in Unix nanoseconds.
    """

    open: list[tuple[int, list[bytes]]]
    measurements: list[bytes]
    alive_ns: int = 0


class JournalSink:
    """Writes starts immediately, and events in the background (:meth:`catch_up`), because most phases end before that."""

    def __init__(self, journal: JournalWriter, template: Template) -> None:
        self._journal = journal
        self._template = template
        self._written: dict[int, tuple[int, Held | None]] = {}
        """By span id: number of events in the journal, and the held failure."""
        self._last_parent: tuple[SpanState, str, bytes] | None = None
        """Cache of the common fields of entries below one parent: the parent, its workflow name, the encoded fields."""
        self._quoted: Callable[[str], bytes] = bounded_cache(_quoted_bytes, 4_000)

    def opened(self, record: SpanState) -> None:
        handle = record.handle
        if not isinstance(handle, SpanHandle) or not handle.sampled:
            return
        self._journal.journal_open(record.span_id, self._entry(record))

    def _entry(self, record: SpanState) -> bytes:
        parent, quoted, task_type = record.parent, self._quoted, record.task_type
        if parent is None:
            common = _run_fields(record, record.parent_span_id)
        elif (
            self._last_parent is not None
            and self._last_parent[0] is parent
            and self._last_parent[1] == record.workflow
        ):
            common = self._last_parent[2]
        else:
            common = _run_fields(record, parent.span_id)
            self._last_parent = parent, record.workflow, common
        entry = b'{"level":%b,"name":%b,%b,"span":"%b","start":%d,"attempt":%d' % (
            quoted(record.level),
            quoted(record.name),
            common,
            hexlify(record.span_id.to_bytes(8, "big")),
            record.started_at_ns,
            record.attempt,
        )
        if task_type is not None:
            entry += b',"type":' + quoted(task_type)
        if parent is not None and record.level is _ATTEMPT:
            entry += b',"phase":' + quoted(parent.name)
        if record.level is _EXECUTION:
            if record.of_phase is not None:
                entry += b',"phase":' + quoted(record.of_phase)
            known = self._template.opening(record)  # redacted
            about = {key: known[key] for key in record.attributes if key in known}
            entry += b',"about":' + _COMPACT(about).encode("utf-8", "replace")
        return entry + b"}"

    def closed(self, record: SpanState) -> None:
        if self._last_parent is not None and self._last_parent[0] is record:
            self._last_parent = None
        self._written.pop(record.span_id, None)

    def late(self, note: SpanEvent) -> None:
        """Do nothing: the event has no open record."""

    def catch_up(self, changed: Iterable[SpanState], now_ns: int) -> None:
        """Write the new events of the changed records, and the time at which the process is alive."""
        self._journal.journal_alive(now_ns)
        for record in changed:
            self._write(record, now_ns)
            if record.level is _ATTEMPT and record.parent is not None:
                self._write(record.parent, now_ns)  # the phase holds the failure of its attempt

    def _write(self, record: SpanState, now_ns: int) -> None:
        if record.result is not None:
            return
        total, held = record.events.total, record.held
        written, held_before = self._written.get(record.span_id, (0, None))
        if total == written and held is held_before:
            return
        self._written[record.span_id] = total, held
        events = record.events.kept()
        fresh = events[max(0, len(events) - (total - written)) :] if total > written else []
        update: dict[str, object] = {
            "alive": now_ns,
            "total": total,
            "events": [[note.name, note.at_ns, self._template.event(note)] for note in fresh],
        }
        if held is not None:
            result, failure, at_ns = held
            message = (
                self._template.redactor.text(failure.message, names.ERROR_TEXT_LIMIT)
                if failure is not None and failure.message
                else None
            )
            update["held"] = [
                str(result),
                str(failure.error_type) if failure is not None else None,
                message,
                at_ns,
            ]
        self._journal.journal_update(record.span_id, _COMPACT(update).encode("utf-8", "replace"))


def _quoted_bytes(text: str) -> bytes:
    return _quoted(text).encode("ascii")


def _run_fields(record: SpanState, parent_span_id: int | None) -> bytes:
    parent = f',"parent":"{parent_span_id:016x}"' if parent_span_id is not None else ""
    return f'"run":{_quoted(record.run_id)},"workflow":{_quoted(record.workflow)},"trace":"{record.trace_id:032x}"{parent}'.encode(
        "ascii"
    )


def measured(span: bytes) -> SpanState | None:
    """Decode the fields that metrics need from the OTLP bytes of a finished run, phase or execution; None for other spans."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    try:
        found = Span.FromString(span)
    except DecodeError:
        return None
    attributes = {one.key: one.value for one in found.attributes}

    def text(name: str) -> str | None:
        return attributes[name].string_value if name in attributes else None

    level, result = (
        text(names.LEVEL),
        text(names.PIPELINE_RESULT if text(names.LEVEL) == Level.RUN else names.TASK_RESULT),
    )
    workflow, name = (
        text(names.PIPELINE_NAME),
        text(names.PIPELINE_NAME if level == Level.RUN else names.TASK_NAME),
    )
    if (
        level not in (Level.RUN, Level.PHASE, Level.EXECUTION)
        or result is None
        or workflow is None
        or name is None
    ):
        return None
    record = SpanState(
        Level(level),
        name,
        run_id=text(names.PIPELINE_RUN_ID) or "",
        workflow=workflow,
        trace_id=int.from_bytes(found.trace_id),
        span_id=int.from_bytes(found.span_id),
        started_at_ns=found.start_time_unix_nano,
        task_type=text(names.TASK_TYPE),
    )
    try:
        record.result = Result(result)
    except ValueError:
        return None
    record.ended_at_ns = found.end_time_unix_nano
    record.attempts = (
        max(1, attributes[names.PHASE_ATTEMPTS].int_value)
        if names.PHASE_ATTEMPTS in attributes
        else 1
    )
    if level == Level.EXECUTION:
        record.of_phase, record.name = (name if name != found.name else None), found.name
        waited, queue = attributes.get(names.QUEUE_WAIT), text(names.QUEUE_NAME)
        if waited is not None:
            record.describe(names.QUEUE_WAIT, waited.double_value)
        if queue is not None:
            record.describe(names.QUEUE_NAME, queue)
    error = text(names.ERROR_TYPE)
    if error is not None:
        record.failure = Failure(error)
    return record


def finished(leftover: Leftover) -> list[SpanState]:
    """Return the records that a dead process left open, ended as ``error``, children before parents.

    A phase whose failure was held for a retry ends with that failure.
    """
    found: dict[int, tuple[SpanState, Mapping[str, object]]] = {}
    for _, pieces in leftover.open:
        entry = _entry(pieces[0]) if pieces else None
        record = _record(entry)
        if record is None or entry is None:
            continue
        alive_ns = max(record.started_at_ns, leftover.alive_ns)
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
            record.result, record.failure, record.ended_at_ns = (
                held.result,
                held.failure,
                max(record.started_at_ns, held.at_ns),
            )
        else:
            record.result, record.ended_at_ns = Result.ERROR, alive_ns
            record.failure = Failure(ErrorType.KILLED, abandoned_text(record, ErrorType.KILLED))
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
                record.result, record.failure, record.ended_at_ns = (
                    above.result,
                    above.failure,
                    max(record.started_at_ns, above.held.at_ns),
                )
        else:
            record.remote_parent = TraceContext(record.trace_id, parent_id)
    for record, _ in found.values():
        holder = record.parent
        while holder is not None:
            holder.ended_at_ns = max(holder.ended_at_ns or 0, record.ended_at_ns or 0)
            if record.level is Level.ATTEMPT and holder.level is Level.PHASE:
                holder.attempts = max(holder.attempts, record.attempt)
            holder = holder.parent
    order = {
        Level.RUN: 0,
        Level.PHASE: 1,
        Level.ATTEMPT: 2,
        Level.STRATEGY: 3,
        Level.HOOK: 4,
        Level.COMMAND: 4,
        Level.EXECUTION: 4,
    }
    return sorted((record for record, _ in found.values()), key=lambda record: -order[record.level])


def _entry(data: bytes) -> Mapping[str, object] | None:
    try:
        entry: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", entry) if isinstance(entry, dict) else None


def _integer(entry: Mapping[str, object], key: str) -> int:
    value = entry[key]
    if not isinstance(value, int):
        raise ValueError(key)
    return value


def _record(entry: Mapping[str, object] | None) -> SpanState | None:
    if entry is None:
        return None
    try:
        task_type = entry.get("type")
        record = SpanState(
            Level(str(entry["level"])),
            str(entry["name"]),
            run_id=str(entry["run"]),
            workflow=str(entry["workflow"]),
            trace_id=int(str(entry["trace"]), 16),
            span_id=int(str(entry["span"]), 16),
            started_at_ns=_integer(entry, "start"),
            task_type=task_type if isinstance(task_type, str) else None,
            attempt=_integer(entry, "attempt") if "attempt" in entry else 1,
        )
    except (KeyError, ValueError):
        return None
    if record.level is Level.HOOK:
        record.describe(names.HOOK_NAME, record.name)
    if record.level is _EXECUTION:
        phase, about = entry.get("phase"), entry.get("about")
        record.of_phase = phase if isinstance(phase, str) else None
        for name, value in cast(
            "dict[str, object]", about if isinstance(about, dict) else {}
        ).items():
            if isinstance(value, str | int | float):
                record.describe(name, value)
    return record


def _held(update: Mapping[str, object]) -> Held | None:
    held = update.get("held")
    if not isinstance(held, list) or len(found := cast("list[object]", held)) != 4:
        return None
    result, error_type, message, at_ns = found
    if not isinstance(result, str) or result not in _RESULTS or not isinstance(at_ns, int):
        return None
    failure = (
        Failure(error_type, message if isinstance(message, str) else None)
        if isinstance(error_type, str)
        else None
    )
    return Held(Result(result), failure, at_ns)


def _events(update: Mapping[str, object]) -> Iterable[SpanEvent]:
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
            payload = {
                key.removeprefix(prefix): value
                for key, value in rendered.items()
                if key.startswith(prefix)
            }
            yield SpanEvent(
                name,
                at_ns,
                str(rendered.get(names.EVENT_ID, "")),
                str(rendered.get(names.EVENT_SOURCE, "")),
                payload,
            )
