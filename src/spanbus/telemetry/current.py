"""Which phases this task has made current, and what it is feeding just now."""

from __future__ import annotations

import contextvars
from typing import NamedTuple

from opentelemetry.trace import Span

from spanbus.telemetry.facts import Fact
from spanbus.telemetry.records import Record


class Attached(NamedTuple):
    """A phase whose span this task made current: the id of that span, and the span that was current before."""

    record: Record
    span_id: int
    before: Span


attached_here: contextvars.ContextVar[tuple[Attached, ...]] = contextvars.ContextVar("spanbus_attached", default=())
fed_here: contextvars.ContextVar[list[tuple[Fact, Record]] | None] = contextvars.ContextVar("spanbus_fed", default=None)
"""What the publish that is under way in this task has fed."""


def within() -> str | None:
    """The id of the run in whose context this task is."""
    return next((one.record.run_id for one in reversed(attached_here.get()) if one.record.result is None), None)
