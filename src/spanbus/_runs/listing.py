"""List entries of stored runs, traces and phases."""

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
        """Return the document of ``runs --json``."""
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
    """A trace of another client, by its root span or a server span."""

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
    """A phase in the phase strip of a listed run."""

    name: str
    result: str
    duration_s: float


class RunGlance(NamedTuple):
    """Details of a listed run: branch and commit, phases, first failure."""

    branch: str = ""
    commit: str = ""
    phases: tuple[PhaseMark, ...] = ()
    phases_total: int = 0
    failed_phase: str = ""
    """The phase that failed first, or empty."""
    error: str = ""
    """First line of its error message."""
    output: str = ""
    """Last line of output of the command that failed."""

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
    """A phase of one run, for the view over time."""

    workflow: str
    phase: str
    run_id: str
    started_at_ns: int
    duration_s: float
    result: str
    project: str = ""
    attempts: int = 1


FAILED = "failed"
"""Filter word for all results that count as a failure."""


def results(text: str) -> tuple[str, ...]:
    """Parse a result filter such as ``skip,timeout`` or ``failed``."""
    words = (word.strip() for word in text.split(","))
    return tuple(
        dict.fromkeys(
            result
            for word in words
            if word
            for result in (FAILED_RESULTS if word == FAILED else (word,))
        )
    )
