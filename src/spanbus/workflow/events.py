"""The names of what happens in a workflow, with the frozen envelope that carries one of them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple


class WorkflowEvent(StrEnum):
    """Event types of the workflow bus.

    The first twenty have the names and values of crackerjack's bus; the ``PHASE_*`` members, which that bus lacks, are
    published by :class:`~spanbus.workflow.engine.BasicWorkflowEngine` for every phase.
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
    """One thing that happened, as it stands on the bus: frozen, with its identity.

    ``at_ns`` is Unix time in nanoseconds. ``run_id``, ``phase`` and ``attempt`` (from 1) say to which work the event
    belongs, None where that is not known. ``traceparent`` and ``tracestate`` are the W3C trace context that was current
    where the event was published; on ``workflow.started`` that is the caller of the run. ``event_id`` is unique, and
    the ids of one process sort in the order of publishing.
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
        """Frozen mappings cannot be pickled or copied, so plain ones are, and frozen again."""
        return _frozen, tuple(dict(field) if isinstance(field, Mapping) else field for field in self)

    def as_dict(self) -> dict[str, object]:
        """A plain mapping with the fields that are set, in the shape of one line of a recorded stream."""
        line: dict[str, object] = {"event_type": str(self.event_type), "event_id": self.event_id, "at_ns": self.at_ns}
        for name in ("source", "run_id", "phase", "attempt", "traceparent", "tracestate"):
            value = getattr(self, name)
            if value is not None and value != "":
                line[name] = value
        if self.metadata:
            line["metadata"] = dict(self.metadata)
        line["payload"] = dict(self.payload)
        return line


def _frozen(*fields: Any) -> Event:
    event = Event(*fields)
    return event._replace(payload=MappingProxyType(event.payload), metadata=MappingProxyType(event.metadata))


_LAST_DIGITS = tuple([f"{number:02x}" for number in range(256)])


class EventIds:
    """Ids that are unique across processes and sort in the order of their making within one.

    An id is twelve hexadecimal digits of milliseconds at process start, eight of process randomness and ten of a
    counter: 0.2 µs instead of the 1.5 µs of ``uuid4``. A forked child takes a new prefix.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._prefix = f"{time.time_ns() // 1_000_000:012x}-{os.urandom(4).hex()}-"
        self._next = itertools.count().__next__
        self._lead = (0, f"{self._prefix}{0:08x}")

    def __call__(self) -> str:
        number = self._next()
        lead, text = self._lead  # one reading: another thread may be at a later one
        if number >> 8 != lead:
            lead = number >> 8
            text = f"{self._prefix}{lead:08x}"
            self._lead = (lead, text)
        return text + _LAST_DIGITS[number & 0xFF]


new_event_id = EventIds()
