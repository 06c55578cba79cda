"""Buses whose events are carried to an observer, which makes spans and metrics of them in this process's place."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from spanbus._loaded import is_of

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus

_carried: weakref.WeakSet[WorkflowEventBus] = weakref.WeakSet()


def mark_as_carried(bus: WorkflowEventBus) -> None:
    """An observer makes the telemetry of this bus from now on; to be called before its first event."""
    _carried.add(bus)


def is_carried(bus: object) -> bool:
    """Whether an observer makes the telemetry of this bus."""
    return is_of(bus, "spanbus._workflow.bus", "WorkflowEventBus") and bus in _carried
