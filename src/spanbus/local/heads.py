"""What is told of stored runs, traces and phases without opening them."""

from __future__ import annotations

from typing import NamedTuple

from spanbus.telemetry.names import FAILED_RESULTS
from spanbus.timestamps import iso


class RunHead(NamedTuple):
    """A stored run without its phases; ids in hexadecimal."""

    run_id: str
    workflow: str
    trace_id: str
    span_id: str
    result: str
    error_type: str | None
    started_at_ns: int
    duration_s: float

    def document(self) -> dict[str, object]:
        """As ``runs --json`` has it."""
        return {
            "run_id": self.run_id, "workflow": self.workflow, "trace_id": self.trace_id, "result": self.result, "error_type": self.error_type,
            "started_at": iso(self.started_at_ns), "duration_s": self.duration_s,
        }


class TraceHead(NamedTuple):
    """Where a trace of another client begins, as far as it is stored: a span without parent, or one that serves a request."""

    trace_id: str
    service: str
    name: str
    failed: bool
    started_at_ns: int
    duration_s: float

    def document(self) -> dict[str, object]:
        return {
            "trace_id": self.trace_id, "service": self.service, "name": self.name, "result": "failure" if self.failed else "success",
            "started_at": iso(self.started_at_ns), "duration_s": self.duration_s,
        }


class PhasePoint(NamedTuple):
    """One phase of one run, for the view over time."""

    workflow: str
    phase: str
    run_id: str
    started_at_ns: int
    duration_s: float
    result: str


FAILED = "failed"
"""All results that count as a failure, for whoever asks."""


def results(asked: str) -> tuple[str, ...]:
    """What ``failure`` or ``skip,timeout`` or ``failed`` asks for; ``failed`` are those that count as a failure."""
    words = (word.strip() for word in asked.split(","))
    return tuple(dict.fromkeys(result for word in words if word for result in (FAILED_RESULTS if word == FAILED else (word,))))
