"""Summary of a run, from an ended record or from stored spans.

Both give the same :class:`RunSummary`, because both use the attributes of the spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast, overload

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.decode import attributes as decoded
from spanbus._otlp.decode import plain
from spanbus._semantics import ErrorType, Flag, Level, names

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spanbus._correlation.span_state import SpanState
    from spanbus._telemetry.template import Template

Note = tuple[str, int, Mapping[str, object]]
"""An event: name, Unix nanoseconds, attributes."""

_DEEPEST = 100
_PHASE, _EXECUTION = Level.PHASE.value, Level.EXECUTION.value
"""Looked up once: reading ``.value`` of an enum member for each span is slow."""
_RESULTS = {
    Level.RUN.value: names.PIPELINE_RESULT,
    Level.PHASE.value: names.TASK_RESULT,
    Level.ATTEMPT.value: names.TASK_RESULT,
    Level.EXECUTION.value: names.TASK_RESULT,
}


class SpanSummary(NamedTuple):
    """A phase or a descendant of one. ``kind`` is the level, ``events`` counts the whole subtree; times are Unix nanoseconds."""

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
    flags: tuple[str, ...]
    skip_reason: str | None
    output_tail: str | None
    executable: str | None
    command: tuple[str, ...]
    exit_code: int | None
    notes: Sequence[Note]
    children: tuple[SpanSummary, ...]

    @property
    def retries(self) -> int:
        return max(0, self.attempts - 1)

    @property
    def duration_s(self) -> float:
        return _seconds(self.started_at_ns, self.ended_at_ns)


class RunSummary(NamedTuple):
    """An ended run, with its phases in order of start."""

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
    notes: Sequence[Note]
    missing_spans: int = 0
    """Spans of its trace that the store has deleted, because the run is too large or too old."""

    @property
    def duration_s(self) -> float:
        return _seconds(self.started_at_ns, self.ended_at_ns)


def _seconds(started_at_ns: int, ended_at_ns: int) -> float:
    """Return the duration. One nanosecond, the minimum length of a span, counts as 0."""
    length_ns = ended_at_ns - started_at_ns
    return length_ns / 1e9 if length_ns > 1 else 0.0


class _Part(NamedTuple):
    """Common form of a span from both sources."""

    name: str
    span_id: str
    parent_span_id: str | None
    trace_id: str
    started_at_ns: int
    ended_at_ns: int
    message: str | None
    attributes: Mapping[str, object]
    notes: Sequence[Note]
    children: Sequence[_Part]


# --- from a record ----------------------------------------------------------------------------------------------------


def summarise(record: SpanState, template: Template) -> RunSummary:
    """Summarise the ended record of a run. ``template`` redacts texts as in the exported spans."""
    return _run(_part_of_record(record, template))


def _part_of_record(record: SpanState, template: Template) -> _Part:
    parent = record.parent_span_id
    notes = tuple(
        (note.name, note.at_ns, cast("Mapping[str, object]", template.event(note)))
        for note in record.events
    )
    return _Part(
        template.name(record),
        f"{record.span_id:016x}",
        f"{parent:016x}" if parent is not None else None,
        f"{record.trace_id:032x}",
        record.started_at_ns,
        record.ended_at_ns or record.started_at_ns,
        template.status(record).description,
        template.attributes(record),
        notes,
        [_part_of_record(child, template) for child in record.children if child.result is not None],
    )


# --- from stored spans ------------------------------------------------------------------------------------------------


def from_spans(spans: Iterable[Span], run_span_id: bytes | None = None) -> RunSummary | None:
    """Return the run with this span id, by default the outermost run of the trace, or None if there is none.

    Spans deeper than 100 levels are attached to the last level, because a sender may nest thousands of levels.
    """
    found = {span.span_id: span for span in spans}
    attributes = {span_id: decoded(span.attributes) for span_id, span in found.items()}
    run_level = Level.RUN.value
    runs = [span_id for span_id in found if attributes[span_id].get(names.LEVEL) == run_level]
    if run_span_id is None:
        runs.sort(
            key=lambda span_id: (
                found[span_id].parent_span_id in found,
                found[span_id].start_time_unix_nano,
            )
        )
        run_span_id = runs[0] if runs else None
    if run_span_id is None or run_span_id not in found:
        return None
    children: dict[bytes, list[bytes]] = {}
    for span_id, span in found.items():
        if attributes[span_id].get(names.LEVEL) not in (None, run_level):
            children.setdefault(span.parent_span_id, []).append(span_id)
    beneath = _beneath(run_span_id, children)

    def part(span_id: bytes) -> _Part:
        span = found[span_id]
        return _Part(
            span.name,
            span_id.hex(),
            span.parent_span_id.hex() or None,
            span.trace_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.message or None,
            attributes[span_id],
            _StoredNotes(span.events),
            [part(child) for child in beneath.get(span_id, ())],
        )

    return _run(part(run_span_id))


class _StoredNotes(Sequence[Note]):
    """Events of a stored span, decoded on access."""

    __slots__ = ("_events",)

    def __init__(self, events: Sequence[Span.Event]) -> None:
        self._events = events

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> Note: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Note]: ...
    def __getitem__(self, index: int | slice) -> Note | Sequence[Note]:
        if isinstance(index, slice):
            return [_note(event) for event in self._events[index]]
        return _note(self._events[index])

    def attribute(self, name: str, key: str) -> object:
        """Return an attribute of the first event with this name."""
        for event in self._events:
            if event.name == name:
                return next(
                    (plain(pair.value) for pair in event.attributes if pair.key == key), None
                )
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(cast("Sequence[object]", other))

    def __hash__(self) -> int:
        return hash(len(self))


def note_attribute(notes: Sequence[Note], name: str, key: str) -> object:
    """Return an attribute of the first event with this name, or None. Of stored events only that attribute is decoded."""
    if isinstance(notes, _StoredNotes):
        return notes.attribute(name, key)
    return next((attributes.get(key) for each, _, attributes in notes if each == name), None)


def _note(event: Span.Event) -> Note:
    return event.name, event.time_unix_nano, decoded(event.attributes)


def _beneath(root: bytes, children: Mapping[bytes, Sequence[bytes]]) -> dict[bytes, list[bytes]]:
    """Return the children of each span as a tree of bounded depth."""
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
            waiting.append(
                (child, child, depth + 1) if depth < _DEEPEST else (child, shown_under, depth)
            )
    return beneath


# --- both -------------------------------------------------------------------------------------------------------------


def _run(part: _Part) -> RunSummary:
    attributes = part.attributes
    return RunSummary(
        str(attributes.get(names.PIPELINE_RUN_ID, "")),
        str(attributes.get(names.PIPELINE_NAME, "")),
        part.trace_id,
        part.span_id,
        str(attributes.get(names.PIPELINE_RESULT, "")),
        _text(attributes, names.ERROR_TYPE),
        _without_result(part.message, str(attributes.get(names.PIPELINE_RESULT, ""))),
        part.started_at_ns,
        part.ended_at_ns,
        _flags(attributes),
        tuple(_span(child) for child in _ordered(part.children)),
        part.notes,
    )


def _span(part: _Part) -> SpanSummary:
    attributes = part.attributes
    kind = str(attributes.get(names.LEVEL, ""))
    children = tuple([_span(child) for child in _ordered(part.children)] if part.children else ())
    own = _whole(attributes, names.EVENTS_TOTAL) or 0
    return SpanSummary(
        kind,
        part.name if kind == _EXECUTION else _name(kind, attributes),
        str(attributes.get(_RESULTS.get(kind, names.HOOK_RESULT), "")),
        _text(attributes, names.ERROR_TYPE),
        part.message,
        part.started_at_ns,
        part.ended_at_ns,
        part.span_id,
        part.parent_span_id,
        _whole(attributes, names.PHASE_ATTEMPT) or 1,
        _attempts(kind, attributes),
        own + sum([child.events for child in children]) if children else own,
        _flags(attributes),
        _text(attributes, names.SKIP_REASON),
        _text(attributes, names.OUTPUT_TAIL),
        _text(attributes, names.PROCESS_EXECUTABLE),
        _texts(attributes, names.PROCESS_COMMAND_ARGS),
        _whole(attributes, names.PROCESS_EXIT_CODE),
        part.notes,
        children,
    )


def _attempts(kind: str, attributes: Mapping[str, object]) -> int:
    attempts = _whole(attributes, names.PHASE_ATTEMPTS) if kind == _PHASE else None
    return 1 if attempts is None else attempts


def _ordered(parts: Sequence[_Part]) -> list[_Part]:
    return (
        list(parts)
        if len(parts) < 2
        else sorted(parts, key=lambda part: (part.started_at_ns, part.ended_at_ns, part.span_id))
    )


def _name(kind: str, attributes: Mapping[str, object]) -> str:
    if kind == _PHASE:
        return str(attributes.get(names.TASK_NAME, ""))
    match kind:
        case Level.ATTEMPT.value:
            return f"{attributes.get(names.TASK_NAME, '')} attempt {attributes.get(names.PHASE_ATTEMPT, 1)}"
        case Level.HOOK.value:
            return str(attributes.get(names.HOOK_NAME, ""))
        case Level.STRATEGY.value:
            return str(attributes.get(names.STRATEGY_NAME, ""))
        case _:
            return str(attributes.get(names.PROCESS_EXECUTABLE, ""))


_FLAGGED = frozenset({names.ERROR_TYPE, names.MATCH, names.CLOCK, names.ORPHAN})


def _flags(attributes: Mapping[str, object]) -> tuple[str, ...]:
    if _FLAGGED.isdisjoint(attributes):
        return ()
    flags: list[str] = []
    if (
        attributes.get(names.ERROR_TYPE) == ErrorType.ABANDONED
        or attributes.get(names.ABANDONED) is not None
    ):
        flags.append(Flag.ABANDONED.value)
    match = attributes.get(names.MATCH)
    if match is not None and match != Flag.INFERRED.value:
        flags.append(Flag.AMBIGUOUS.value)
    if attributes.get(names.CLOCK) is not None:
        flags.append(Flag.CLOCK.value)
    if match == Flag.INFERRED.value:
        flags.append(Flag.INFERRED.value)
    if attributes.get(names.ORPHAN) is not None:
        flags.append(Flag.ORPHAN_END.value)
    return tuple(flags)


def _text(attributes: Mapping[str, object], key: str) -> str | None:
    value = attributes.get(key)
    return value if isinstance(value, str) and value else None


def _texts(attributes: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = attributes.get(key)
    return (
        tuple(str(part) for part in cast("Sequence[object]", value))
        if isinstance(value, tuple | list)
        else ()
    )


def _whole(attributes: Mapping[str, object], key: str) -> int | None:
    value = attributes.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _without_result(message: str | None, result: str) -> str | None:
    """Remove the result from the start of a run's status message."""
    return message.removeprefix(f"{result}: ") if message is not None else None
