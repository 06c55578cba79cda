"""The correlator's output: one record for each span, with its events.

A :class:`SpanState` is open from its start to its end. Only the correlator changes it, under its lock; sinks read it.
A :class:`SpanEvent` is immutable by convention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

from spanbus._named_tuple import NamedTuple
from spanbus._reading.facts import SpanEvent as SpanEvent
from spanbus._semantics import (
    EVENTS_KEPT_FIRST,
    EVENTS_KEPT_LAST,
    EVENTS_SUMMARY_TYPES,
    OVERFLOW,
    Failure,
    Flag,
    Level,
    Result,
    names,
)
from spanbus._workflow.identity import TraceContext

_NONE: Final[Mapping[str, int]] = MappingProxyType({})
_ATTEMPT: Final = Level.ATTEMPT
_NO_FLAGS: Final[frozenset[Flag]] = frozenset()

AttributeValue = str | int | float | bool | tuple[str, ...]
_NO_ATTRIBUTES: Final[Mapping[str, AttributeValue]] = MappingProxyType({})


class EventLog:
    """The events of one span: the first and the last are kept, those between are counted by type."""

    __slots__ = (
        "_first",
        "_last",
        "dropped",
        "dropped_by_type",
        "total",
    )

    def __init__(self) -> None:
        self._first: list[SpanEvent] = []
        self._last: deque[SpanEvent] | None = None
        self.total = 0
        self.dropped = 0
        self.dropped_by_type: Mapping[str, int] = _NONE

    def append(self, note: SpanEvent) -> bool:
        """Append ``note``; return False if another event was dropped for it."""
        self.total += 1
        if len(self._first) < EVENTS_KEPT_FIRST:
            self._first.append(note)
            return True
        last = self._last
        if last is None:
            last = self._last = deque(maxlen=EVENTS_KEPT_LAST)
        if len(last) < EVENTS_KEPT_LAST:
            last.append(note)
            return True
        dropped_event = last[0] if last else note
        self.dropped += 1
        by_type = self.dropped_by_type
        if not isinstance(by_type, dict):
            by_type = self.dropped_by_type = {}
        name = (  # bounded: event types may contain ids
            dropped_event.name
            if dropped_event.name in by_type or len(by_type) < EVENTS_SUMMARY_TYPES
            else OVERFLOW
        )
        by_type[name] = by_type.get(name, 0) + 1
        last.append(note)
        return False

    def kept(self) -> list[SpanEvent]:
        """Return the kept events, oldest first; the list must not be changed."""
        return [*self._first, *self._last] if self._last else self._first

    def release(self) -> None:
        """Drop the events, after they were rendered; the counts stay."""
        self._first = []
        self._last = None

    def __iter__(self) -> Iterator[SpanEvent]:
        return iter(self.kept())

    def __len__(self) -> int:
        return len(self._first) + len(self._last or ())


class Link(NamedTuple):
    """A link to another span; ``kind`` is the value of ``spanbus.link.type``."""

    trace_id: int
    span_id: int
    kind: str


class Held(NamedTuple):
    """A failure that becomes the result of a phase unless it is retried."""

    result: Result
    failure: Failure | None
    at_ns: int


class ApiAdditions:
    """Events, links and status that the phase's own code adds to its span by the OpenTelemetry API."""

    __slots__ = ("events", "links", "status")

    def __init__(self) -> None:
        self.events: list[tuple[str, int, Mapping[str, Any]]] = []
        """Name, Unix nanoseconds, attributes."""
        self.links: list[tuple[int, int, bool, Mapping[str, Any]]] = []
        """Trace id, span id, whether it is remote, attributes."""
        self.status: tuple[int, str | None] | None = None
        """Status code and description; the result of a failed phase takes precedence."""


class SpanState:
    """The state of one span: a run, phase, attempt, strategy, hook, command, or execution of a task.

    Times are Unix nanoseconds. ``duration_ns`` is the publisher's monotonic duration, if it sent one; ``ended_at_ns`` is then
    ``started_at_ns + duration_ns``, or slightly later if a child ended later. ``result`` is None while the record is open.
    Links and attributes are allocated only when used.
    """

    __slots__ = (
        "_numbers",
        "added",
        "attempt",
        "attempts",
        "attributes",
        "children",
        "children_total",
        "duration_ns",
        "ended_at_ns",
        "events",
        "events_in_tree",
        "failure",
        "flags",
        "handle",
        "held",
        "inner_ended_at_ns",
        "level",
        "links",
        "name",
        "of_phase",
        "parent",
        "remote_parent",
        "result",
        "run_id",
        "skip_reason",
        "span_id",
        "started_at_ns",
        "task_type",
        "trace_id",
        "tracestate",
        "workflow",
    )

    def __init__(
        self,
        level: Level,
        name: str,
        run_id: str,
        workflow: str,
        trace_id: int,
        span_id: int,
        started_at_ns: int,
        parent: SpanState | None = None,
        remote_parent: TraceContext | None = None,
        tracestate: str | None = None,
        task_type: str | None = None,
        attempt: int = 1,
    ) -> None:
        self.level, self.name = level, name
        self.run_id, self.workflow = run_id, workflow
        self.trace_id, self.span_id = trace_id, span_id
        self.parent, self.remote_parent, self.tracestate = parent, remote_parent, tracestate
        self.started_at_ns = started_at_ns
        self.ended_at_ns: int | None = None
        self.inner_ended_at_ns = 0
        """Latest end time of a child."""
        self.duration_ns: int | None = None
        self.result: Result | None = None
        self.failure: Failure | None = None
        self.held: Held | None = None
        """An announced failure that may be retried; the record stays open meanwhile."""
        self.skip_reason: str | None = None
        self.task_type = task_type
        self.attempt = attempt
        """Number of the attempt that this record is or belongs to, from 1."""
        self.attempts = 1
        """Number of attempts of a phase."""
        self.of_phase: str | None = None
        """Name of the engine's phase that an execution belongs to, if any."""
        self.flags = _NO_FLAGS
        self.links: tuple[Link, ...] = ()
        self.events = EventLog()
        self.events_in_tree = 0
        """Events of ended children; once the record has ended, including its own."""
        self.children: Sequence[SpanState] = ()
        """Child records; bounded by the correlator."""
        self.children_total = 0
        self._numbers: dict[str, int] | None = None
        self.added: ApiAdditions | None = None
        """Additions by the phase's own code, if any."""
        self.attributes = _NO_ATTRIBUTES
        """Attributes by catalogue name, beyond the fields above: executable, arguments, exit code, output tail."""
        self.handle: object | None = None
        """Set and read by the span sink: its sampling decision and live span."""

    def child(
        self,
        level: Level,
        name: str,
        span_id: int,
        started_at_ns: int,
        task_type: str | None = None,
        attempt: int = 1,
    ) -> SpanState:
        """Return a new child record, in the same run."""
        return SpanState(
            level,
            name,
            self.run_id,
            self.workflow,
            self.trace_id,
            span_id,
            started_at_ns,
            self,
            None,
            None,
            task_type,
            attempt,
        )

    def flag(self, flag: Flag) -> None:
        """Add a flag."""
        self.flags = self.flags | {flag}

    def unflag(self, flag: Flag) -> None:
        """Remove a flag."""
        self.flags = self.flags - {flag}

    def finish(
        self, result: Result, failure: Failure | None, at_ns: int, duration_ns: int | None
    ) -> None:
        """Set the result and the end time; a monotonic duration takes precedence over event times."""
        self.result = result
        self.failure = failure if result.failed else None
        if duration_ns is not None and self.level is not _ATTEMPT:
            self.duration_ns = duration_ns
            # the two clocks differ slightly: a record must not end before its children
            at_ns = max(self.started_at_ns + duration_ns, min(at_ns, self.inner_ended_at_ns))
        if at_ns < self.started_at_ns:
            self.flag(Flag.CLOCK)
            at_ns = self.started_at_ns
        self.ended_at_ns = at_ns

    def link(self, link: Link) -> None:
        """Add a link to another span."""
        self.links = (*self.links, link)

    def describe(self, name: str, value: AttributeValue) -> None:
        """Set an attribute."""
        if isinstance(self.attributes, dict):
            self.attributes[name] = value
        else:
            self.attributes = {name: value}

    def adopt(self, child: SpanState, most: int) -> None:
        """Count a child, and keep it if there are fewer than ``most``."""
        self.children_total += 1
        if not isinstance(self.children, list):
            self.children = [child]
        elif len(self.children) < most:
            self.children.append(child)

    def release_children(self) -> None:
        """Drop all descendants, to break the reference cycles between parents and children."""
        left: list[SpanState] = [self]
        while left:
            record = left.pop()
            left.extend(child for child in record.children if child.children)
            record.children = ()

    def number_of(self, kind: str) -> int:
        """Return the next number, from 1, for a child of this kind; it is part of the child's span id."""
        if self._numbers is None:
            self._numbers = {}
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return number

    @property
    def resting(self) -> bool:
        """Whether it has ended, or its failure is held for a retry."""
        return self.result is not None or self.held is not None

    @property
    def error_type(self) -> str | None:
        """``error.type`` of the failure, if any."""
        return str(self.failure.error_type) if self.failure is not None else None

    @property
    def action(self) -> str:
        """``cicd.pipeline.action.name``."""
        return names.ACTION_RUN

    @property
    def phase(self) -> SpanState:
        """The phase of an attempt; else the record itself."""
        return self.parent if self.level is Level.ATTEMPT and self.parent is not None else self

    @property
    def step(self) -> str:
        """Name of the engine's phase of an execution; else of the record itself."""
        return self.of_phase or self.name

    @property
    def parent_span_id(self) -> int | None:
        if self.parent is not None:
            return self.parent.span_id
        return self.remote_parent.span_id if self.remote_parent is not None else None

    @property
    def duration_s(self) -> float:
        """Seconds from start to end; 0.0 while open."""
        if self.ended_at_ns is None:
            return 0.0
        return (
            self.duration_ns
            if self.duration_ns is not None
            else self.ended_at_ns - self.started_at_ns
        ) / 1e9

    def __repr__(self) -> str:
        return f"<{self.level} {self.name!r} of {self.run_id} {self.result or 'open'}>"


class SpanSink(Protocol):
    """Receives the correlator's output, in order and under its lock. Must not block or call back into the correlator."""

    def opened(self, record: SpanState) -> None: ...

    def closed(self, record: SpanState) -> None: ...

    def late(self, note: SpanEvent) -> None:
        """Receive an event that came too late for any record."""
        ...


class EventSink(Protocol):
    """Receives every event at once, with its record, without waiting for the record's end."""

    def noted(self, record: SpanState, note: SpanEvent) -> None: ...
