"""Event types of a workflow, and the frozen event that is published on the bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from spanbus._named_tuple import NamedTuple
from spanbus._workflow.event_ids import EventIds as EventIds
from spanbus._workflow.event_ids import new_event_id as new_event_id


class WorkflowEvent(StrEnum):
    """Event types of the workflow bus.

    The first twenty members have the names and values of crackerjack's bus. The ``PHASE_*`` members, which that bus lacks,
    are published by :class:`~spanbus._workflow.engine.BasicWorkflowEngine` for every phase.
    """

    WORKFLOW_STARTED = "workflow.started"
    WORKFLOW_SESSION_INITIALIZING = "workflow.session.initializing"
    WORKFLOW_SESSION_READY = "workflow.session.ready"
    CONFIG_PHASE_STARTED = "workflow.config.started"
    CONFIG_PHASE_COMPLETED = "workflow.config.completed"
    QUALITY_PHASE_STARTED = "workflow.quality.started"
    QUALITY_PHASE_COMPLETED = "workflow.quality.completed"
    PUBLISH_PHASE_STARTED = "workflow.publish.started"
    PUBLISH_PHASE_COMPLETED = "workflow.publish.completed"
    COMMIT_PHASE_STARTED = "workflow.commit.started"
    COMMIT_PHASE_COMPLETED = "workflow.commit.completed"
    WORKFLOW_COMPLETED = "workflow.completed"
    WORKFLOW_FAILED = "workflow.failed"
    WORKFLOW_INTERRUPTED = "workflow.interrupted"
    HOOK_STRATEGY_STARTED = "hooks.strategy.started"
    HOOK_STRATEGY_COMPLETED = "hooks.strategy.completed"
    HOOK_STRATEGY_FAILED = "hooks.strategy.failed"
    HOOK_EXECUTION_STARTED = "hooks.execution.started"
    HOOK_EXECUTION_COMPLETED = "hooks.execution.completed"
    HOOK_EXECUTION_FAILED = "hooks.execution.failed"

    PHASE_STARTED = "workflow.phase.started"
    PHASE_COMPLETED = "workflow.phase.completed"
    PHASE_FAILED = "workflow.phase.failed"
    PHASE_SKIPPED = "workflow.phase.skipped"
    PHASE_CANCELLED = "workflow.phase.cancelled"
    PHASE_RETRYING = "workflow.phase.retrying"


EMPTY: Mapping[str, object] = MappingProxyType({})


class Event(NamedTuple):
    """An immutable event on the bus.

    ``at_ns`` is Unix time in nanoseconds. ``run_id``, ``phase`` and ``attempt`` (from 1) identify the work that the event
    belongs to, None if unknown. ``traceparent`` and ``tracestate`` are the W3C trace context in which the event was
    published; for ``workflow.started`` that of the run's caller. ``event_id`` is unique, and the ids of one process sort in
    the order of publishing.
    """

    event_type: str
    event_id: str
    at_ns: int
    payload: Mapping[str, object] = EMPTY
    source: str = ""
    run_id: str | None = None
    phase: str | None = None
    attempt: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    metadata: Mapping[str, object] = EMPTY

    def __reduce__(self) -> tuple[Callable[..., Event], tuple[object, ...]]:
        """Pickle and copy plain dictionaries, because read-only mappings support neither."""
        return _frozen, tuple(
            dict(field) if isinstance(field, Mapping) else field for field in self
        )

    def as_dict(self) -> dict[str, object]:
        """Return the fields that are set as a plain mapping, in the format of a recorded stream."""
        line: dict[str, object] = {
            "event_type": str(self.event_type),
            "event_id": self.event_id,
            "at_ns": self.at_ns,
        }
        for name in ("source", "run_id", "phase", "attempt", "traceparent", "tracestate"):
            value = getattr(self, name)
            if value is not None and value != "":
                line[name] = value
        if self.metadata:
            line["metadata"] = dict(self.metadata)
        line["payload"] = dict(self.payload)
        return line


class ReceivedEvent(Event):
    """An event of another process, delivered to a bus in this one. It is not carried on and not counted here."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., Event], tuple[object, ...]]:
        return _received, super().__reduce__()[1]


def _received(*fields: Any) -> ReceivedEvent:
    return ReceivedEvent._make(_frozen(*fields))


def _frozen(*fields: Any) -> Event:
    event = Event(*fields)
    return event._replace(
        payload=MappingProxyType(event.payload), metadata=MappingProxyType(event.metadata)
    )
