"""The three facts that an event of any bus can state: something started, something ended, something was noted.

Every fact keeps the event as it will stand on a span, and says at which level (:class:`Rank`) and of which run it speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from spanbus._semantics import Failure, Result


class Rank(IntEnum):
    """The speaker, from the outside in. A step, a phase and a strategy that mean the same work are one phase."""

    RUN = 0
    STEP = 1
    PHASE = 2
    STRATEGY = 3
    HOOK = 4


class Verb(IntEnum):
    """Effect of the event on the thing that it names."""

    EVENT = 0
    START = 1
    END = 2
    RETRY = 3
    SKIP = 4


_EVENT: Final = Verb.EVENT  # members cost a look-up each
_START: Final = Verb.START


class SpanEvent:
    """One bus event as it will stand on a span. ``payload`` is the raw mapping; it is cleaned when it is rendered."""

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
    """Further hints of an event about the work that it belongs to; absent things are None. Most events share one of few."""

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
        """The name is an identity (a step id, our engine's phase), not one that has to be looked for among aliases."""
        self.shared = shared
        """The run key is a definition's name or the like: concurrent and later runs bear the same one."""
        self.correlation = correlation
        self.workflow: str | None = None
        self.stage: str | None = None
        self.task = task
        """The publisher's task, thread or job, where the event tells."""
        self.traceparent, self.tracestate = traceparent, tracestate
        self.odd_time = odd_time
        """The event's time could not be read or believed: it stands where it was heard."""
        self.subject_id = subject_id
        """The id of what it speaks of, as far as an id can be believed to be that, and not the event's."""
        self.of_open = False
        """It ends what is open, and says nothing where nothing is."""
        self.state = False
        """It is told as a state, which may be told again while nothing changes."""

    def copy(self) -> Hints:
        """One of its own, to be changed."""
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
"""The hints of a plain event of our own engine."""


class Fact:
    """The common part of the three facts; ``rank`` is RUN for what belongs to a run as a whole."""

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
        """Whether its name comes from the payload, not from its type."""
        return self.name in [value for value in self.event.payload.values() if type(value) is str]

    def _repr_fields(self) -> str:
        return f"{self.event!r}, {self.verb.name}, {self.rank.name}, {self.name!r}, {self.run_key!r}, {self.hints!r}, {self.aliases!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._repr_fields()})"


class Noted(Fact):
    """An event that opens and ends nothing."""

    __slots__ = ()

    def __init__(
        self, event: SpanEvent, rank: Rank, name: str | None, run_key: str | None, hints: Hints
    ) -> None:
        self.event, self.verb = event, _EVENT
        self.rank, self.name = rank, name
        self.run_key, self.hints, self.aliases = run_key, hints, ()


class Started(Fact):
    """A run, step, phase, strategy or hook began."""

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
    """End of a run, phase, attempt or hook; for ``Verb.RETRY`` this attempt only, another follows, and for
    ``Verb.SKIP`` it never began.
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
