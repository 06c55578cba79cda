"""How something ended, from what its end event says: the table of outcomes, for any emitter."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import cast

from spanbus.telemetry.names import ErrorType, Result
from spanbus.telemetry.raw import text_of
from spanbus.telemetry.records import Failure
from spanbus.workflow.events import EMPTY

_RESULTS = {result.value: result for result in Result}
_STATUS = {
    **dict.fromkeys(("success", "succeeded", "passed", "pass", "ok", "completed", "done", "fixed"), Result.SUCCESS),
    **dict.fromkeys(("failed", "failure", "fail", "error", "errored", "broken"), Result.FAILURE),
    **dict.fromkeys(("timeout", "timed_out", "timed out"), Result.TIMEOUT),
    **dict.fromkeys(("cancelled", "canceled", "interrupted", "aborted"), Result.CANCELLATION),
    **dict.fromkeys(("skipped", "skip"), Result.SKIP),
}
_TIMED_OUT = re.compile(r"\btimed[ -]out\b|\btime-?out(error|expired)?\b(?!\s*[=:])", re.IGNORECASE)
_CANCELLED = re.compile(r"^\W*(?:asyncio\.)?(?:exceptions\.)?(CancelledError|KeyboardInterrupt|Cancelled)\b")
_CLASS = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Timeout|Failure))\s*(?:[:(]|$)", re.ASCII)


def outcome(payload: Mapping[str, object], announced: Result) -> tuple[Result, Failure | None]:
    """How something ended, from what its end event says: semantics.md's table, for any emitter."""
    nested = payload.get("result")
    inner: Mapping[str, object] = cast("Mapping[str, object]", nested) if isinstance(nested, Mapping) else EMPTY
    result = announced
    named = _RESULTS.get(nested) if isinstance(nested, str) else None
    if announced in (Result.SUCCESS, Result.FAILURE):
        status = payload.get("status")
        said = _STATUS.get(status.lower()) if isinstance(status, str) else None
        if payload.get("skipped") is True or inner.get("skipped") is True:
            return Result.SKIP, None
        if payload.get("success") is False or inner.get("success") is False:
            result = Result.FAILURE
        if said is not None and (announced is Result.SUCCESS or said.failed or said is Result.CANCELLATION):
            result = said
        if named is not None and (named is not Result.SUCCESS or result is Result.SUCCESS):
            result = named
    if not result.failed:
        return result, None
    return _failure(payload, inner, result)


def _failure(payload: Mapping[str, object], inner: Mapping[str, object], result: Result) -> tuple[Result, Failure | None]:
    error: object = None
    for key in ("error", "exception", "error_message"):
        error = payload.get(key) or inner.get(key)
        if error:
            break
    declared = text_of(payload.get("error_type"))
    stack = payload.get("stacktrace")
    stacktrace = stack if isinstance(stack, str) else None
    message: str | None = None
    if isinstance(error, BaseException):
        message = _safe_str(error)
        declared = declared or class_name(type(error))
        if stacktrace is None and error.__traceback__ is not None:
            stacktrace = "".join(traceback.format_exception(error))
    elif isinstance(error, str):
        message = error
    elif isinstance(error, Mapping):
        fields = cast("Mapping[str, object]", error)
        message = text_of(fields.get("message"))
        declared = declared or text_of(fields.get("type"))
    if declared is None and message and (found := _CLASS.match(message)) is not None:
        declared = found[1]
    if result is not Result.TIMEOUT and result is not Result.ERROR and message is not None and _CANCELLED.match(message):
        return Result.CANCELLATION, None
    if result is Result.TIMEOUT or declared == ErrorType.TIMEOUT or (message is not None and declared is None and _TIMED_OUT.search(message)):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message, stacktrace)
    if declared is not None and _TIMED_OUT.search(declared.rpartition(".")[2]):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message, stacktrace)
    return result, Failure(declared or (ErrorType.OTHER if message else ErrorType.UNSUCCESSFUL), message, stacktrace)


def class_name(kind: type[BaseException]) -> str:
    """The fully qualified name of an exception class, builtins without their module."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a broken __str__ of somebody's exception
        return f"<{type(error).__name__} without a text>"
