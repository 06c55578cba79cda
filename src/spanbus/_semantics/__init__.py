"""Shared vocabulary: results, error types, span levels, names of attributes and metrics.

The values are those of the OpenTelemetry semantic conventions where these have one.
"""

from __future__ import annotations

from enum import StrEnum

from spanbus._named_tuple import NamedTuple

OVERFLOW = "_OTHER"
DESELECTED = "deselected"
"""The reason of a phase that the caller left out."""
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
        """Counted as a failure, with span status ERROR."""


FAILED_RESULTS: frozenset[str] = frozenset(result for result in Result if result.failed)


class ErrorType(StrEnum):
    """The values of ``error.type`` that are not the name of an exception class."""

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
    """Short words about how certain a span is."""

    AMBIGUOUS = "ambiguous"
    INFERRED = "inferred"
    ORPHAN_END = "orphan_end"
    ABANDONED = "abandoned"
    CLOCK = "clock"
    UNREAD = "unread"


class Failure(NamedTuple):
    """Error of a failed span: ``message`` and ``stacktrace`` are raw text, redacted when rendered."""

    error_type: str
    message: str | None = None
    stacktrace: str | None = None


def error_text(error: BaseException) -> str:
    """The text of an exception, whatever its ``__str__`` does."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without a text>"
