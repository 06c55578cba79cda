"""Failures reported by several publishers, inherited from phases, or inferred."""

from __future__ import annotations

from spanbus._correlation.open_phase import OpenPhase
from spanbus._correlation.span_state import SpanState
from spanbus._semantics import ErrorType, Failure, Result


def merge(first: Failure | None, second: Failure | None) -> Failure | None:
    """Merge the failures of an inner (``first``) and an outer publisher.

    The inner one counts, unless the outer one is a timeout, or has an error class and the inner one has none.
    """
    if first is None or second is None:
        return second or first
    if second.error_type == ErrorType.TIMEOUT:
        return second
    knows_more = first.error_type == ErrorType.OTHER and second.error_type not in (
        ErrorType.OTHER,
        ErrorType.UNSUCCESSFUL,
    )
    error_type = second.error_type if knows_more else first.error_type
    return Failure(
        error_type, first.message or second.message, first.stacktrace or second.stacktrace
    )


def result_without_end(phase: OpenPhase, failure: Failure | None) -> tuple[Result, Failure | None]:
    """Return the result of an attempt without an end event, as far as inner publishers reported it."""
    if failure is not None:
        return Result.FAILURE, failure
    if phase.inner_ended_at_ns is not None and not (phase.open_ranks - {phase.outer}):
        return Result.SUCCESS, None
    return Result.ERROR, Failure(
        ErrorType.ABANDONED, "the next attempt began before this one ended"
    )


def abandoned_text(record: SpanState, error_type: ErrorType) -> str:
    """Return the failure message of a record without an end event."""
    what = f"{record.level} {record.name!r}"
    if error_type is ErrorType.ABANDONED:
        return f"{what} started and no end was announced"
    return f"{what} was open when its process was {error_type}"


def inherited(
    failure: Failure | None, first: tuple[Result, Failure | None] | None
) -> Failure | None:
    """Return a run's failure, completed from the first failure of its phases."""
    if failure is not None and (
        failure.error_type not in (ErrorType.OTHER, ErrorType.UNSUCCESSFUL) or first is None
    ):
        return failure
    known = first[1] if first is not None else None
    if known is not None:
        error_type = known.error_type
    else:
        error_type = failure.error_type if failure is not None else ErrorType.UNSUCCESSFUL
    message = failure.message if failure is not None else None
    return Failure(error_type, message or (known.message if known is not None else None))
