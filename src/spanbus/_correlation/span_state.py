"""The correlator's output: one record for each span to be, with the events that belong to it.

A :class:`SpanState` is open from its start to its end and is changed only by the correlator, under the correlator's lock; the
sinks read it. An :class:`SpanEvent` is not changed by anybody.
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
    """The events of one span: the first and the last are kept, what lies between is counted by type."""

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
        """Keep ``note``; False when another one had to go for it."""
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
        gone = last[0] if last else note
        self.dropped += 1
        by_type = self.dropped_by_type
        if not isinstance(by_type, dict):
            by_type = self.dropped_by_type = {}
        name = (
            gone.name if gone.name in by_type or len(by_type) < EVENTS_SUMMARY_TYPES else OVERFLOW
        )  # types may hold ids
        by_type[name] = by_type.get(name, 0) + 1
        last.append(note)
        return False

    def kept(self) -> list[SpanEvent]:
        """Kept events, oldest first; not to be changed."""
        return [*self._first, *self._last] if self._last else self._first

    def release(self) -> None:
        """Let go of the events once they were rendered; the counts stay."""
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
    """A failure that becomes the result of a phase if nobody tries again."""

    result: Result
    failure: Failure | None
    at_ns: int


class ApiAdditions:
    """Additions of the phase's own code to its span: events, links and a status of the OpenTelemetry API."""

    __slots__ = ("events", "links", "status")

    def __init__(self) -> None:
        self.events: list[tuple[str, int, Mapping[str, Any]]] = []
        """Name, Unix nanoseconds, attributes."""
        self.links: list[tuple[int, int, bool, Mapping[str, Any]]] = []
        """Trace id, span id, whether it is remote, attributes."""
        self.status: tuple[int, str | None] | None = None
        """Status code and description; the result of a failed phase counts more."""


class SpanState:
    """One span to be: a run, phase, attempt, strategy, hook, command or execution of a task.

    Times are Unix nanoseconds. ``duration_ns`` is that of the monotonic clock, where the publisher gave one;
    ``ended_at_ns`` is then ``started_at_ns + duration_ns``, or a little later where something beneath it ended then.
    ``result`` is None while the record is open.
    What most records do not have, links or attributes of their own, costs them nothing.
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
        """End time of the last record beneath this one."""
        self.duration_ns: int | None = None
        self.result: Result | None = None
        self.failure: Failure | None = None
        self.held: Held | None = None
        """Its failure was announced, and another attempt may follow: it is open, and nothing happens in it just now."""
        self.skip_reason: str | None = None
        self.task_type = task_type
        self.attempt = attempt
        """Number of the phase's attempt that this is or belongs to, from 1."""
        self.attempts = 1
        """Number of attempts of a phase."""
        self.of_phase: str | None = None
        """The phase that an execution belongs to, where an engine has made it for one."""
        self.flags = _NO_FLAGS
        self.links: tuple[Link, ...] = ()
        self.events = EventLog()
        self.events_in_tree = 0
        """Events on this record and on all beneath it, once it has ended; before, those of what has ended beneath it."""
        self.children: Sequence[SpanState] = ()
        """Records beneath this one that still matter to a reader of it; bounded by the correlator."""
        self.children_total = 0
        self._numbers: dict[str, int] | None = None
        self.added: ApiAdditions | None = None
        """Additions of the phase's own code to the span, if any."""
        self.attributes = _NO_ATTRIBUTES
        """Further attributes, by catalogue name: executable, arguments, exit code, output tail."""
        self.handle: object | None = None
        """For the sink that renders spans: the live span, where there is one."""

    def child(
        self,
        level: Level,
        name: str,
        span_id: int,
        started_at_ns: int,
        task_type: str | None = None,
        attempt: int = 1,
    ) -> SpanState:
        """A new record beneath it, of the same run."""
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
        """Say how certain it is."""
        self.flags = self.flags | {flag}

    def unflag(self, flag: Flag) -> None:
        """Take a flag back."""
        self.flags = self.flags - {flag}

    def finish(
        self, result: Result, failure: Failure | None, at_ns: int, duration_ns: int | None
    ) -> None:
        """Set its result and its end; a duration of the monotonic clock counts more than the times of events."""
        self.result = result
        self.failure = failure if result.failed else None
        if duration_ns is not None and self.level is not _ATTEMPT:
            self.duration_ns = duration_ns
            # The clock of durations and that of events differ a little: nothing beneath a record stands out of it.
            at_ns = max(self.started_at_ns + duration_ns, min(at_ns, self.inner_ended_at_ns))
        if at_ns < self.started_at_ns:
            self.flag(Flag.CLOCK)
            at_ns = self.started_at_ns
        self.ended_at_ns = at_ns

    def link(self, link: Link) -> None:
        """Link it to another span."""
        self.links = (*self.links, link)

    def describe(self, name: str, value: AttributeValue) -> None:
        """Set one of the further attributes."""
        if isinstance(self.attributes, dict):
            self.attributes[name] = value
        else:
            self.attributes = {name: value}

    def adopt(self, child: SpanState, most: int) -> None:
        """Put ``child`` beneath it; of children, the first ``most`` are kept."""
        self.children_total += 1
        if not isinstance(self.children, list):
            self.children = [child]
        elif len(self.children) < most:
            self.children.append(child)

    def release_children(self) -> None:
        """Forget what is beneath it, once nobody reads it: records that refer to each other wait for the garbage collector."""
        left: list[SpanState] = [self]
        while left:
            record = left.pop()
            left.extend(child for child in record.children if child.children)
            record.children = ()

    def number_of(self, kind: str) -> int:
        """The number, from 1, of the next thing of a kind and name beneath this record: part of its identity."""
        if self._numbers is None:
            self._numbers = {}
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return number

    @property
    def resting(self) -> bool:
        """Whether it has ended, or its failure waits for another attempt."""
        return self.result is not None or self.held is not None

    @property
    def error_type(self) -> str | None:
        """``error.type`` of a failure."""
        return str(self.failure.error_type) if self.failure is not None else None

    @property
    def action(self) -> str:
        """Action on the pipeline (``cicd.pipeline.action.name``)."""
        return names.ACTION_RUN

    @property
    def phase(self) -> SpanState:
        """The phase that an attempt is one of; else the record itself."""
        return self.parent if self.level is Level.ATTEMPT and self.parent is not None else self

    @property
    def step(self) -> str:
        """Name of the phase that an execution belongs to; else of the record itself."""
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
    """Takes the correlator's output, in order, under the correlator's lock; must not block or call back into it."""

    def opened(self, record: SpanState) -> None: ...

    def closed(self, record: SpanState) -> None: ...

    def late(self, note: SpanEvent) -> None:
        """An event came too late for any record."""
        ...


class EventSink(Protocol):
    """Takes every event as it is kept, with the record that keeps it; for those that cannot wait for the record's end."""

    def noted(self, record: SpanState, note: SpanEvent) -> None: ...
