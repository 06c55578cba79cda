"""Heads of stored runs, traces and phases, without opening them."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple
from spanbus._semantics import FAILED_RESULTS
from spanbus._timestamps import iso


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
    project: str = ""

    def document(self) -> dict[str, object]:
        """Document of ``runs --json``."""
        return {
            "run_id": self.run_id,
            "project": self.project,
            "workflow": self.workflow,
            "trace_id": self.trace_id,
            "result": self.result,
            "error_type": self.error_type,
            "started_at": iso(self.started_at_ns),
            "duration_s": self.duration_s,
        }


class TraceHead(NamedTuple):
    """Head of another client's trace, as far as it is stored: a span without parent, or one that serves a request."""

    trace_id: str
    service: str
    name: str
    failed: bool
    started_at_ns: int
    duration_s: float

    def document(self) -> dict[str, object]:
        return {
            "trace_id": self.trace_id,
            "service": self.service,
            "name": self.name,
            "result": "failure" if self.failed else "success",
            "started_at": iso(self.started_at_ns),
            "duration_s": self.duration_s,
        }


class PhaseMark(NamedTuple):
    """One phase in the strip of a listed run."""

    name: str
    result: str
    duration_s: float


class RunGlance(NamedTuple):
    """Facts of a listed run beside its head: where its code stood, its phases, what failed first."""

    branch: str = ""
    commit: str = ""
    phases: tuple[PhaseMark, ...] = ()
    phases_total: int = 0
    failed_phase: str = ""
    """The phase that failed first; empty where none did."""
    error: str = ""
    """The first line of what it said."""
    output: str = ""
    """The last line that the command wrote because of which it failed."""

    def document(self) -> dict[str, object]:
        return {
            "branch": self.branch,
            "commit": self.commit,
            "phases": [list(phase) for phase in self.phases],
            "phases_total": self.phases_total,
            "failed_phase": self.failed_phase,
            "error": self.error,
            "output": self.output,
        }


class PhasePoint(NamedTuple):
    """One phase of one run, for the view over time."""

    workflow: str
    phase: str
    run_id: str
    started_at_ns: int
    duration_s: float
    result: str
    project: str = ""
    attempts: int = 1


FAILED = "failed"
"""All results that count as a failure, for whoever asks."""


def results(asked: str) -> tuple[str, ...]:
    """Parse a result filter such as ``failure``, ``skip,timeout`` or ``failed``; ``failed`` stands for all that count
    as a failure.
    """
    words = (word.strip() for word in asked.split(","))
    return tuple(
        dict.fromkeys(
            result
            for word in words
            if word
            for result in (FAILED_RESULTS if word == FAILED else (word,))
        )
    )
