"""Shared vocabulary: results, error types, span levels, names of attributes and metrics.

The values are those of the OpenTelemetry semantic conventions where they exist.
"""

from __future__ import annotations

from enum import StrEnum

from spanbus._named_tuple import NamedTuple

OVERFLOW = "_OTHER"
DESELECTED = "deselected"
"""Skip reason of a phase that the caller deselected."""
EVENTS_KEPT_FIRST = 60
EVENTS_KEPT_LAST = 60
EVENTS_SUMMARY_TYPES = 32


class Result(StrEnum):
    """Result of a run, phase, attempt or hook (the values of ``cicd.pipeline.result``)."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    SKIP = "skip"
    ERROR = "error"

    def __init__(self, value: str) -> None:
        self.failed = value in ("failure", "timeout", "error")
        """Whether it counts as a failure, with span status ERROR."""


FAILED_RESULTS: frozenset[str] = frozenset(result for result in Result if result.failed)


class ErrorType(StrEnum):
    """Values of ``error.type`` that are not the name of an exception class."""

    UNSUCCESSFUL = "unsuccessful"
    TIMEOUT = "timeout"
    KILLED = "killed"
    TERMINATED = "terminated"
    ABANDONED = "abandoned"
    OTHER = "_OTHER"


class Level(StrEnum):
    """Level of a span; the value of ``spanbus.level``."""

    RUN = "run"
    PHASE = "phase"
    ATTEMPT = "attempt"
    STRATEGY = "strategy"
    HOOK = "hook"
    COMMAND = "command"
    EXECUTION = "execution"


class Flag(StrEnum):
    """Reservations about the data of a span."""

    AMBIGUOUS = "ambiguous"
    INFERRED = "inferred"
    ORPHAN_END = "orphan_end"
    ABANDONED = "abandoned"
    CLOCK = "clock"
    UNREAD = "unread"


class Failure(NamedTuple):
    """Error of a failed span. ``message`` and ``stacktrace`` are raw text, redacted when rendered."""

    error_type: str
    message: str | None = None
    stacktrace: str | None = None


def class_name(kind: type[BaseException]) -> str:
    """Return the fully qualified name of an exception class; builtins without their module."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def error_text(error: BaseException) -> str:
    """Return the text of an exception; never raises."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without a text>"
