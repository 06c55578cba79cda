"""The result and the failure that an end event states."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from enum import Enum
from typing import Final, cast

from spanbus._reading.shape import WITHOUT_FIELDS, getter, is_true, text_of
from spanbus._reading.spelling import CANCELLATIONS, ENDS, FAILURES, SKIPS, TIMEOUTS, key_of
from spanbus._semantics import ErrorType, Failure, Result, class_name, error_text
from spanbus._workflow.events import EMPTY

_RESULTS: Final = {result.value: result for result in Result}
_WORDS: Final = (str, Enum)
_MAX_WORD_CHARS: Final = 32
_RESULT_BY_WORD: Final = {
    **dict.fromkeys((*ENDS, "pass", "fixed", "approved"), Result.SUCCESS),
    **dict.fromkeys(
        (*FAILURES, "broken", "killed", "rejected", "declined", "denied"), Result.FAILURE
    ),
    **dict.fromkeys((*TIMEOUTS, "timed_out"), Result.TIMEOUT),
    **dict.fromkeys((*CANCELLATIONS, "stopped", "halted", "terminated"), Result.CANCELLATION),
    **dict.fromkeys(SKIPS, Result.SKIP),
}
OUTCOMES: Final = ("conclusion", "outcome", "verdict", "status", "state")
"""Keys whose value may be a result word; ``conclusion`` and ``outcome`` take precedence over a state."""
_ERRORS: Final = ("error", "exception", "error_message")
SUCCESS_KEYS: Final = ("ok", "passed", "succeeded", "is_success", "successful")
"""Keys that are False after a failure."""
FAILURE_KEYS: Final = (
    "failed",
    "is_failed",
    "has_failed",
    "errored",
    "is_error",
    "has_error",
    "has_errors",
)
"""Keys that are true where something failed."""
EXIT_CODES: Final = ("exit_code", "returncode", "return_code", "exit_status", "exitcode", "rc")
"""Keys that are not zero after a failure."""
HTTP_STATUSES: Final = ("status_code", "http_status", "http_status_code")
"""Keys of an HTTP status: 5xx is an error for both sides, as in OpenTelemetry's conventions; 4xx may be what was expected."""
_FAILURE_SIGNS: Final = frozenset(
    (*_ERRORS, "errors", "exc_info", *SUCCESS_KEYS, *FAILURE_KEYS, *EXIT_CODES, *HTTP_STATUSES)
)
"""All keys that may say that an end is a failure."""
_TIMED_OUT: Final = re.compile(
    r"\btimed[ -]out\b|\btime-?out(error|expired)?\b(?!\s*[=:])", re.IGNORECASE
)
_CANCELLED: Final = re.compile(
    r"^\W*(?:asyncio\.)?(?:exceptions\.)?(CancelledError|KeyboardInterrupt|Cancelled)\b"
)
_CLASS: Final = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Timeout|Failure))\s*(?:[:(]|$)",
    re.ASCII,
)


def outcome(
    payload: Mapping[str, object], announced: Result, *, error_means_failure: bool = False
) -> tuple[Result, Failure | None]:
    """Return the result and failure of an end event; ``announced`` is the result that its type states.

    ``error_means_failure``: an end with an error, and without a success flag, failed.
    """
    nested = payload.get("result")
    inner: Mapping[str, object] = (
        cast("Mapping[str, object]", nested) if isinstance(nested, Mapping) else EMPTY
    )
    result = announced
    word = _word_of(cast("object", nested))
    named = _RESULTS.get(word) or _RESULT_BY_WORD.get(word)
    if announced in (Result.SUCCESS, Result.FAILURE):
        stated = _stated_result(payload)
        if payload.get("skipped") is True or inner.get("skipped") is True:
            return Result.SKIP, None
        success = payload.get("success")
        if (
            success is False
            or inner.get("success") is False
            or (
                announced is Result.SUCCESS
                and success is None
                and (stated, named) == (None, None)
                and (
                    _some_failed(payload)
                    or (error_means_failure and _has_error(payload, cast("object", nested)))
                )
            )
        ):
            result = Result.FAILURE
        if stated is not None and (
            announced is Result.SUCCESS or stated.failed or stated is Result.CANCELLATION
        ):
            result = stated
        if named is not None and (named is not Result.SUCCESS or result is Result.SUCCESS):
            result = named
    if not result.failed:
        return result, None
    return _failure(payload, inner, result)


def _stated_result(payload: Mapping[str, object]) -> Result | None:
    """Return the result that a word in the payload states."""
    for key in OUTCOMES:
        stated = _RESULT_BY_WORD.get(_word_of(payload.get(key)))
        if stated is not None:
            return stated
    return None


def _word_of(value: object) -> str:
    """Return a short text or enum member in snake case; empty for anything else."""
    text = text_of(value) if isinstance(value, _WORDS) else None
    return key_of(text) if text and len(text) <= _MAX_WORD_CHARS else ""


def _has_error(payload: Mapping[str, object], result: object) -> bool:
    """Whether an end without a success flag carries an error, an exit code other than 0, or a flag of failure."""
    if not _FAILURE_SIGNS.isdisjoint(payload) and _is_failure(payload):
        return True
    if result is None or isinstance(result, WITHOUT_FIELDS):
        return False
    get = getter(result)
    return any(get(key) is False for key in ("success", *SUCCESS_KEYS)) or any(
        is_true(get(key)) for key in _ERRORS
    )


def _is_failure(payload: Mapping[str, object]) -> bool:
    if any(is_true(payload.get(key)) for key in (*_ERRORS, "errors")):
        return True
    if _exception_in(payload.get("exc_info")) is not None:
        return True
    if any(payload.get(key) is False for key in SUCCESS_KEYS):
        return True
    if any(payload.get(key) is True for key in FAILURE_KEYS):
        return True
    if any(type(code := payload.get(key)) is int and 500 <= code < 600 for key in HTTP_STATUSES):
        return True
    return any(type(code := payload.get(key)) is int and code != 0 for key in EXIT_CODES)


def _some_failed(payload: Mapping[str, object]) -> bool:
    """Whether ``summary.counts.failed``, as hook orchestrators send it, is above zero."""
    found: object = payload.get("summary")
    for key in ("counts", "failed"):
        found = cast("Mapping[str, object]", found).get(key) if isinstance(found, Mapping) else None
    return isinstance(found, int | float) and found > 0


def _failure(
    payload: Mapping[str, object], inner: Mapping[str, object], result: Result
) -> tuple[Result, Failure | None]:
    error: object = None
    for key in _ERRORS:
        error = payload.get(key)
        if not is_true(error):
            error = inner.get(key)
        if is_true(error):
            break
    else:
        error = _nested_error(payload)
    declared = text_of(payload.get("error_type"))
    stack = payload.get("stacktrace")
    stacktrace = stack if isinstance(stack, str) else None
    message: str | None = None
    if isinstance(error, BaseException):
        message = error_text(error)
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
    if (
        result is not Result.TIMEOUT
        and result is not Result.ERROR
        and message is not None
        and _CANCELLED.match(message)
    ):
        return Result.CANCELLATION, None
    text = declared.rpartition(".")[2] if declared is not None else message
    if result is Result.TIMEOUT or (text is not None and _TIMED_OUT.search(text)):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message, stacktrace)
    return result, Failure(
        declared or (ErrorType.OTHER if message else ErrorType.UNSUCCESSFUL), message, stacktrace
    )


def _nested_error(payload: Mapping[str, object]) -> object:
    """Return the error from ``exc_info``, the first of ``errors``, or that of the result object."""
    errors, result = payload.get("errors"), payload.get("result")
    raised = _exception_in(payload.get("exc_info"))
    if raised is not None:
        return raised
    if isinstance(errors, list) and errors:
        return cast("list[object]", errors)[0]
    if result is None or isinstance(result, WITHOUT_FIELDS):
        return None
    get = getter(result)
    return next((error for key in _ERRORS if is_true(error := get(key))), None)


def _exception_in(exc_info: object) -> BaseException | None:
    """Return the exception, also from a ``sys.exc_info()`` triple."""
    if isinstance(exc_info, tuple):
        some = cast("tuple[object, ...]", exc_info)
        return next((one for one in some if isinstance(one, BaseException)), None)
    return exc_info if isinstance(exc_info, BaseException) else None
