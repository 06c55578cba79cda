"""The three facts that an event of any bus can state: a start, an end, or a note.

Each fact carries the event as a span will show it, the level of the work (:class:`Rank`) and the key of its run.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from spanbus._semantics import Failure, Result


class Rank(IntEnum):
    """Level of the publisher, outermost first. A step, a phase and a strategy that mean the same work are one phase."""

    RUN = 0
    STEP = 1
    PHASE = 2
    STRATEGY = 3
    HOOK = 4


class Verb(IntEnum):
    """Effect of an event on the work that it names."""

    EVENT = 0
    START = 1
    END = 2
    RETRY = 3
    SKIP = 4


_EVENT: Final = Verb.EVENT  # saves the lookup of the member
_START: Final = Verb.START


class SpanEvent:
    """A bus event as a span will show it. ``payload`` is the raw mapping; secrets are removed when it is rendered."""

    __slots__ = ("at_ns", "attempt", "event_id", "name", "payload", "source")

    def __init__(
        self,
        name: str,
        at_ns: int,
        event_id: str,
        source: str,
        payload: Mapping[str, object],
        attempt: int = 1,
    ) -> None:
        self.name, self.at_ns = name, at_ns
        self.event_id, self.source = event_id, source
        self.payload, self.attempt = payload, attempt

    def __repr__(self) -> str:
        return f"SpanEvent({self.name!r}, {self.at_ns}, {self.event_id!r}, {self.source!r}, {self.payload!r}, {self.attempt})"


class Hints:
    """Optional correlation hints of an event, None where absent. Most events share ``NO_HINTS`` or ``ENGINE_HINTS``."""

    __slots__ = (
        "correlation",
        "exact",
        "odd_time",
        "of_open",
        "shared",
        "stage",
        "state",
        "subject_id",
        "task",
        "traceparent",
        "tracestate",
        "workflow",
    )

    def __init__(
        self,
        exact: bool = False,
        shared: bool = False,
        correlation: str | None = None,
        task: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        odd_time: bool = False,
        subject_id: str | None = None,
    ) -> None:
        self.exact = exact
        """The name is an identity (a step id, a phase of our engine): aliases are not searched."""
        self.shared = shared
        """The run key is not unique, such as the name of a definition: concurrent and later runs share it."""
        self.correlation = correlation
        self.workflow: str | None = None
        self.stage: str | None = None
        self.task = task
        """Id of the publishing task, thread or job, from the event."""
        self.traceparent, self.tracestate = traceparent, tracestate
        self.odd_time = odd_time
        """The event's timestamp was unreadable or implausible; ``at_ns`` is the time of arrival."""
        self.subject_id = subject_id
        """Id of the task or run that the event is about. May turn out to be the id of the event itself."""
        self.of_open = False
        """The event ends open work, and is ignored where none is open."""
        self.state = False
        """The event reports a state, which may be repeated without a change."""

    def copy(self) -> Hints:
        """Return a copy that may be changed."""
        copy = Hints(
            self.exact,
            self.shared,
            self.correlation,
            self.task,
            self.traceparent,
            self.tracestate,
            self.odd_time,
            self.subject_id,
        )
        copy.workflow, copy.stage = self.workflow, self.stage
        copy.of_open, copy.state = self.of_open, self.state
        return copy

    def __repr__(self) -> str:
        return (
            f"Hints({self.exact}, {self.shared}, {self.correlation!r}, {self.workflow!r}, {self.stage!r}, {self.task!r}, "
            f"{self.traceparent!r}, {self.tracestate!r}, {self.odd_time}, {self.of_open}, {self.state}, {self.subject_id!r})"
        )


NO_HINTS: Final = Hints()
ENGINE_HINTS: Final = Hints(exact=True)
"""Hints of a plain event of our own engine."""


class Fact:
    """Common base of the three facts. ``rank`` is RUN for an event of a run as a whole."""

    __slots__ = ("aliases", "event", "hints", "name", "rank", "run_key", "verb")

    def __init__(
        self,
        event: SpanEvent,
        verb: Verb,
        rank: Rank,
        name: str | None,
        run_key: str | None,
        hints: Hints,
        aliases: tuple[str, ...],
    ) -> None:
        self.event, self.verb = event, verb
        self.rank, self.name = rank, name
        self.run_key, self.hints, self.aliases = run_key, hints, aliases

    @property
    def named_by_payload(self) -> bool:
        """Whether the name comes from the payload, not from the event type."""
        return self.name in [value for value in self.event.payload.values() if type(value) is str]

    def _repr_fields(self) -> str:
        return f"{self.event!r}, {self.verb.name}, {self.rank.name}, {self.name!r}, {self.run_key!r}, {self.hints!r}, {self.aliases!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._repr_fields()})"


class Noted(Fact):
    """An event that neither starts nor ends anything."""

    __slots__ = ()

    def __init__(
        self, event: SpanEvent, rank: Rank, name: str | None, run_key: str | None, hints: Hints
    ) -> None:
        self.event, self.verb = event, _EVENT
        self.rank, self.name = rank, name
        self.run_key, self.hints, self.aliases = run_key, hints, ()


class Started(Fact):
    """Start of a run, step, phase, strategy or hook."""

    __slots__ = ("needs", "task_type")

    def __init__(
        self,
        event: SpanEvent,
        rank: Rank,
        name: str | None,
        run_key: str | None,
        hints: Hints,
        task_type: str | None = None,
        needs: tuple[str, ...] = (),
        aliases: tuple[str, ...] = (),
    ) -> None:
        self.event, self.verb = event, _START
        self.rank, self.name = rank, name
        self.run_key, self.hints, self.aliases = run_key, hints, aliases
        self.task_type, self.needs = task_type, needs

    def __repr__(self) -> str:
        return f"Started({self._repr_fields()}, {self.task_type!r}, {self.needs!r})"


class Ended(Fact):
    """End of a run, phase, attempt or hook.

    ``Verb.RETRY`` ends one attempt and announces the next; with ``Verb.SKIP`` the work never started.
    """

    __slots__ = (
        "attempts",
        "delay_ns",
        "duration_ns",
        "failure",
        "final",
        "reason",
        "result",
        "task_type",
    )

    def __init__(
        self,
        event: SpanEvent,
        verb: Verb,
        rank: Rank,
        name: str | None,
        run_key: str | None,
        hints: Hints,
        result: Result,
        failure: Failure | None = None,
        duration_ns: int | None = None,
        attempts: int = 0,
        final: bool = False,
        aliases: tuple[str, ...] = (),
        task_type: str | None = None,
        reason: str | None = None,
        delay_ns: int = 0,
    ) -> None:
        self.event, self.verb = event, verb
        self.rank, self.name = rank, name
        self.run_key, self.hints, self.aliases = run_key, hints, aliases
        self.result, self.failure, self.duration_ns = result, failure, duration_ns
        self.attempts, self.final, self.task_type = attempts, final, task_type
        self.reason, self.delay_ns = reason, delay_ns

    def __repr__(self) -> str:
        return (
            f"Ended({self._repr_fields()}, {self.result!r}, {self.failure!r}, {self.duration_ns!r}, {self.attempts}, "
            f"{self.final}, {self.task_type!r}, {self.reason!r}, {self.delay_ns})"
        )
