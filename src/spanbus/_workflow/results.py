"""Results of attempts, phases and runs."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from spanbus._semantics import DESELECTED as DESELECTED
from spanbus.errors import PhaseError

ResultName = Literal["success", "failure", "timeout", "cancellation", "skip", "error"]
FAILED: Collection[str] = ("failure", "timeout", "error")


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """Outcome of a phase. ``duration_s`` is monotonic and covers all attempts and the waits between them."""

    name: str
    result: ResultName
    error_type: str | None = None
    error: str | None = None
    attempts: int = 1
    duration_s: float = 0.0
    value: object = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """Outcome of a run: the result and error type of the first failed phase.

    Without one, a cancelled phase or a stop request makes it a cancellation.
    """

    run_id: str
    workflow: str
    result: ResultName
    error_type: str | None
    duration_s: float
    phases: tuple[PhaseResult, ...]

    @property
    def success(self) -> bool:
        return self.result == "success"


class AttemptFailed(Exception):
    """An attempt failed; carries the fields to publish."""

    def __init__(
        self,
        result: ResultName,
        error_type: str,
        error: str | None,
        stacktrace: str | None = None,
        output_tail: str | None = None,
    ) -> None:
        super().__init__(error)
        self.result: ResultName = result
        self.error_type = error_type
        self.error = error
        self.stacktrace = stacktrace
        self.output_tail = output_tail

    def payload(self) -> dict[str, object]:
        return {
            "success": False,
            "result": self.result,
            "error_type": self.error_type,
            **({"error": self.error} if self.error else {}),
            **({"stacktrace": self.stacktrace} if self.stacktrace else {}),
        }


class AttemptStopped(Exception):
    """An attempt was stopped, because the run was asked to or for another ``reason``; carries the end of its output."""

    def __init__(self, output_tail: str | None = None, reason: str | None = None) -> None:
        super().__init__("stopped")
        self.output_tail = output_tail
        self.reason = reason


def trace_of(error: BaseException) -> str | None:
    """Return the traceback as text, None if it cannot be formatted."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # __repr__, __notes__ or __cause__ of a foreign exception may raise
        return None


def tail_of(error: PhaseError) -> str | None:
    tail = getattr(error, "output_tail", None)
    return tail if isinstance(tail, str) else None


def failure_summary(phase: PhaseResult) -> str:
    """Return one line about a failed phase, for the end event of its run."""
    if phase.error is not None and phase.error.startswith(f"phase {phase.name} "):
        return phase.error
    said = "timed out" if phase.result == "timeout" else "failed"
    return f"phase {phase.name} {said}{f': {phase.error}' if phase.error else ''}"
