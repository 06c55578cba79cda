"""A run as a reader of it sees it, from a record that ended or from its stored spans.

Both ways give the same :class:`RunSummary`, because both go through the attributes that the spans carry. The documents are
the JSON of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from spanbus.telemetry import names
from spanbus.telemetry.names import ErrorType, Flag, Level
from spanbus.timestamps import iso

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spanbus.telemetry.records import Record
    from spanbus.telemetry.rendering import Rendering

Note = tuple[str, int, Mapping[str, object]]
"""One event: its name, Unix nanoseconds, attributes."""

Document = dict[str, object]

_DEEPEST = 100
_RESULTS = {Level.RUN.value: names.PIPELINE_RESULT, Level.PHASE.value: names.TASK_RESULT, Level.ATTEMPT.value: names.TASK_RESULT}


@dataclass(frozen=True, slots=True)
class SpanSummary:
    """A phase, or what lies beneath one. ``kind`` is its level; ``events`` counts the whole subtree; times are Unix nanoseconds."""

    kind: str
    name: str
    result: str
    error_type: str | None
    message: str | None
    started_at_ns: int
    ended_at_ns: int
    span_id: str
    parent_span_id: str | None
    attempt: int
    attempts: int
    events: int
    events_dropped: int
    flags: tuple[str, ...]
    skip_reason: str | None
    output_tail: str | None
    executable: str | None
    exit_code: int | None
    notes: tuple[Note, ...]
    children: tuple[SpanSummary, ...]

    @property
    def retries(self) -> int:
        return max(0, self.attempts - 1)

    @property
    def duration_s(self) -> float:
        return _seconds(self.started_at_ns, self.ended_at_ns)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run that ended, with its phases in the order of their starts."""

    run_id: str
    workflow: str
    trace_id: str
    span_id: str
    result: str
    error_type: str | None
    message: str | None
    started_at_ns: int
    ended_at_ns: int
    flags: tuple[str, ...]
    phases: tuple[SpanSummary, ...]
    notes: tuple[Note, ...]

    @property
    def duration_s(self) -> float:
        return _seconds(self.started_at_ns, self.ended_at_ns)


@dataclass(frozen=True, slots=True)
class Totals:
    """What was counted over all runs."""

    events_seen: int = 0
    events_recorded: int = 0
    run_failures: int = 0
    phase_failures: int = 0
    retries: int = 0
    orphan_ends: int = 0
    unmatched_ends: int = 0
    abandoned: int = 0


def _seconds(started_at_ns: int, ended_at_ns: int) -> float:
    """A moment, which is one nanosecond as a span, takes no time."""
    length_ns = ended_at_ns - started_at_ns
    return length_ns / 1e9 if length_ns > 1 else 0.0


class _Part(NamedTuple):
    """What is known of one span, whichever way it came."""

    span_id: str
    parent_span_id: str | None
    trace_id: str
    started_at_ns: int
    ended_at_ns: int
    message: str | None
    attributes: Mapping[str, object]
    notes: tuple[Note, ...]
    children: Sequence[_Part]


# --- from a record ----------------------------------------------------------------------------------------------------


def summarise(record: Record, rendering: Rendering) -> RunSummary:
    """A run's record that ended. Its texts go through ``rendering``, as those of its spans did."""
    return _run(_part_of_record(record, rendering))


def _part_of_record(record: Record, rendering: Rendering) -> _Part:
    parent = record.parent_span_id
    notes = tuple((note.name, note.at_ns, cast("Mapping[str, object]", rendering.event(note))) for note in record.events)
    return _Part(
        f"{record.span_id:016x}", f"{parent:016x}" if parent is not None else None, f"{record.trace_id:032x}", record.started_at_ns,
        record.ended_at_ns or record.started_at_ns, rendering.status(record).description, {**rendering.opening(record), **rendering.closing(record)},
        notes, [_part_of_record(child, rendering) for child in record.children if child.result is not None],
    )


# --- from stored spans ------------------------------------------------------------------------------------------------


def from_spans(spans: Iterable[Span], run_span_id: bytes | None = None) -> RunSummary | None:
    """The run among the spans of one trace: the one with this span id, else the outermost. None when there is none.

    What lies deeper than any workflow does hangs on the last level: who sent it may have sent thousands of levels.
    """
    found = {span.span_id: span for span in spans}
    attributes = {span_id: attributes_of(span) for span_id, span in found.items()}
    runs = [span_id for span_id in found if attributes[span_id].get(names.LEVEL) == Level.RUN.value]
    if run_span_id is None:
        runs.sort(key=lambda span_id: (found[span_id].parent_span_id in found, found[span_id].start_time_unix_nano))
        run_span_id = runs[0] if runs else None
    if run_span_id is None or run_span_id not in found:
        return None
    children: dict[bytes, list[bytes]] = {}
    for span_id, span in found.items():
        if attributes[span_id].get(names.LEVEL) not in (None, Level.RUN.value):
            children.setdefault(span.parent_span_id, []).append(span_id)
    beneath = _beneath(run_span_id, children)

    def part(span_id: bytes) -> _Part:
        span = found[span_id]
        notes = tuple((event.name, event.time_unix_nano, _mapping(event.attributes)) for event in span.events)
        return _Part(
            span_id.hex(), span.parent_span_id.hex() or None, span.trace_id.hex(), span.start_time_unix_nano, span.end_time_unix_nano,
            span.status.message or None, attributes[span_id], notes, [part(child) for child in beneath.get(span_id, ())],
        )

    return _run(part(run_span_id))


def _beneath(root: bytes, children: Mapping[bytes, Sequence[bytes]]) -> dict[bytes, list[bytes]]:
    """What is shown beneath each span: a tree of bounded depth, whatever was sent."""
    beneath: dict[bytes, list[bytes]] = {}
    seen = {root}
    waiting = [(root, root, 0)]
    while waiting:
        span_id, shown_under, depth = waiting.pop()
        for child in children.get(span_id, ()):
            if child in seen:
                continue
            seen.add(child)
            beneath.setdefault(shown_under, []).append(child)
            waiting.append((child, child, depth + 1) if depth < _DEEPEST else (child, shown_under, depth))
    return beneath


def attributes_of(span: Span) -> dict[str, object]:
    """A stored span's attributes as plain values."""
    return _mapping(span.attributes)


def _mapping(pairs: Iterable[object]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]


def _value(value: AnyValue) -> object:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case "kvlist_value":
            return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
        case "bytes_value":
            return value.bytes_value.hex()
        case _:
            return None


# --- both -------------------------------------------------------------------------------------------------------------


def _run(part: _Part) -> RunSummary:
    attributes = part.attributes
    return RunSummary(
        str(attributes.get(names.PIPELINE_RUN_ID, "")), str(attributes.get(names.PIPELINE_NAME, "")), part.trace_id, part.span_id,
        str(attributes.get(names.PIPELINE_RESULT, "")), _text(attributes, names.ERROR_TYPE), part.message, part.started_at_ns, part.ended_at_ns,
        _flags(attributes), tuple(_span(child) for child in _ordered(part.children)), part.notes,
    )


def _span(part: _Part) -> SpanSummary:
    attributes = part.attributes
    kind = str(attributes.get(names.LEVEL, ""))
    children = tuple(_span(child) for child in _ordered(part.children))
    own = _whole(attributes, names.EVENTS_TOTAL) or 0
    return SpanSummary(
        kind, _name(kind, attributes), str(attributes.get(_RESULTS.get(kind, names.HOOK_RESULT), "")), _text(attributes, names.ERROR_TYPE), part.message,
        part.started_at_ns, part.ended_at_ns, part.span_id, part.parent_span_id, _whole(attributes, names.PHASE_ATTEMPT) or 1,
        _attempts(kind, attributes), own + sum(child.events for child in children), _whole(attributes, names.EVENTS_DROPPED) or 0, _flags(attributes),
        _text(attributes, names.SKIP_REASON), _text(attributes, names.OUTPUT_TAIL), _text(attributes, names.PROCESS_EXECUTABLE),
        _whole(attributes, names.PROCESS_EXIT_CODE), part.notes, children,
    )


def _attempts(kind: str, attributes: Mapping[str, object]) -> int:
    attempts = _whole(attributes, names.PHASE_ATTEMPTS) if kind == Level.PHASE.value else None
    return 1 if attempts is None else attempts


def _ordered(parts: Sequence[_Part]) -> list[_Part]:
    return sorted(parts, key=lambda part: (part.started_at_ns, part.ended_at_ns, part.span_id))


def _name(kind: str, attributes: Mapping[str, object]) -> str:
    match kind:
        case Level.PHASE.value:
            return str(attributes.get(names.TASK_NAME, ""))
        case Level.ATTEMPT.value:
            return f"{attributes.get(names.TASK_NAME, '')} attempt {attributes.get(names.PHASE_ATTEMPT, 1)}"
        case Level.HOOK.value:
            return str(attributes.get(names.HOOK_NAME, ""))
        case Level.STRATEGY.value:
            return str(attributes.get(names.STRATEGY_NAME, ""))
        case _:
            return str(attributes.get(names.PROCESS_EXECUTABLE, ""))


def _flags(attributes: Mapping[str, object]) -> tuple[str, ...]:
    flags: list[str] = []
    if attributes.get(names.ERROR_TYPE) == ErrorType.ABANDONED:
        flags.append(Flag.ABANDONED.value)
    if attributes.get(names.MATCH) is not None:
        flags.append(Flag.AMBIGUOUS.value)
    if attributes.get(names.CLOCK) is not None:
        flags.append(Flag.CLOCK.value)
    if attributes.get(names.ORPHAN) is not None:
        flags.append(Flag.ORPHAN_END.value)
    return tuple(flags)


def _text(attributes: Mapping[str, object], key: str) -> str | None:
    value = attributes.get(key)
    return value if isinstance(value, str) and value else None


def _whole(attributes: Mapping[str, object], key: str) -> int | None:
    value = attributes.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# --- documents --------------------------------------------------------------------------------------------------------


def head_document(run: RunSummary) -> Document:
    """A run without its phases."""
    return {
        "run_id": run.run_id, "workflow": run.workflow, "trace_id": run.trace_id, "result": run.result, "error_type": run.error_type,
        "started_at": iso(run.started_at_ns), "duration_s": run.duration_s,
    }


def run_document(run: RunSummary) -> Document:
    """A run with its phases."""
    return {**head_document(run), "phases": [_span_document(phase) for phase in run.phases]}


def runs_document(runs: Iterable[RunSummary], totals: Totals) -> Document:
    """What ``run --json`` and ``replay --json`` print."""
    return {"runs": [run_document(run) for run in runs], "totals": totals_document(totals)}


def totals_document(totals: Totals) -> dict[str, int]:
    return {
        "events_seen": totals.events_seen, "events_recorded": totals.events_recorded, "run_failures": totals.run_failures,
        "phase_failures": totals.phase_failures, "retries": totals.retries, "orphan_ends": totals.orphan_ends,
        "unmatched_ends": totals.unmatched_ends, "abandoned": totals.abandoned,
    }


def _span_document(span: SpanSummary) -> Document:
    document: Document = {
        "name": span.name, "result": span.result, "error_type": span.error_type, "attempts": span.attempts, "retries": span.retries,
        "duration_s": span.duration_s, "span_id": span.span_id, "events": span.events, "flags": list(span.flags),
        "children": [_span_document(child) for child in span.children],
    }
    if span.kind != Level.PHASE.value:
        document["kind"] = span.kind
    return document
