"""Outcome of a Celery task as the outcome of its phase: a value or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from spanbus._semantics import class_name, error_text
from spanbus._workflow.results import AttemptFailed
from spanbus.errors import PhaseLost, PhaseRevoked, PhaseTimeout

Meta = Mapping[str, Any]
"""Task state as the result backend stores it: ``status``, ``result``, ``traceback``."""

READY = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
_TIMEOUTS = ("SoftTimeLimitExceeded", "TimeLimitExceeded")
_LOST = ("WorkerLostError",)


def value_of(meta: Meta, backend: Any) -> object:
    """Return the task's value, or raise the error of its phase.

    Errors are recognized by class name, because the class may not be importable in this process.
    """
    status, result = meta["status"], meta["result"]
    if status == "SUCCESS":
        return result
    kind, text = _error(result, backend)
    if status == "REVOKED":
        if "expired" in text:
            raise PhaseTimeout("the task expired in its queue before a worker began it")
        raise PhaseRevoked(f"the task was {text or 'revoked'}")
    short = kind.rpartition(".")[2]
    if short in _TIMEOUTS:
        raise PhaseTimeout(f"the task exceeded its time limit: {text}" if text else "time limit")
    if short in _LOST:
        raise PhaseLost(text or "the worker process is gone")
    stacktrace = meta.get("traceback")
    raise AttemptFailed("failure", kind, text, stacktrace if isinstance(stacktrace, str) else None)


def _error(result: object, backend: Any) -> tuple[str, str]:
    """Return class name and message of an error, stored or an exception."""
    if isinstance(result, Mapping):
        stored = cast("Mapping[str, object]", result)
        if "exc_type" in stored:
            module, kind = str(stored.get("exc_module") or "builtins"), str(stored["exc_type"])
            name = kind if module == "builtins" else f"{module}.{kind}"
            return name, _text(stored.get("exc_message"))
    error = cast("object", result)
    if not isinstance(error, BaseException):
        try:
            error = backend.exception_to_python(error)
        except Exception:
            error = None
    if isinstance(error, BaseException):
        return class_name(type(error)), error_text(error)
    return "_OTHER", _text(cast("object", result))


def _text(message: object) -> str:
    """Return the message of an exception from its arguments."""
    if isinstance(message, list | tuple):
        parts = list(cast("Sequence[object]", message))
        return str(parts[0]) if len(parts) == 1 else ", ".join(str(part) for part in parts)
    return "" if message is None else str(message)
