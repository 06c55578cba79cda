"""Buses whose events are carried to an observer process, which makes the spans and metrics instead of this process."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from spanbus._loaded import is_instance_of

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus

_carried: weakref.WeakSet[WorkflowEventBus] = weakref.WeakSet()


def mark_as_carried(bus: WorkflowEventBus) -> None:
    """Leave the telemetry of this bus to an observer process; must be called before its first event."""
    _carried.add(bus)


def is_carried(bus: object) -> bool:
    """Whether an observer process makes the telemetry of this bus."""
    return is_instance_of(bus, "spanbus._workflow.bus", "WorkflowEventBus") and bus in _carried
