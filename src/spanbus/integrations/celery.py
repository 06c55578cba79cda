"""Celery: run phases as tasks on workers (:func:`on_celery`), record task executions as spans (:func:`instrument`).

Needs the extra ``celery``. Instrument the app once, where it is created, for producers and for workers of any pool.
``docs/celery.md`` lists what is recorded in which case.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from spanbus._runtime import current_runtime
from spanbus._runtime import instrument as instrument_app
from spanbus._runtime.opened import close_all
from spanbus._semantics import ErrorType, Failure, Result, error_text
from spanbus._telemetry.redaction import Redactor
from spanbus.errors import InputError, MissingExtra
from spanbus.integrations.executions import (
    Delivery,
    Execution,
    Executions,
    failure_of,
    publish,
    run_ref_of,
)

try:
    from celery import Celery, signals
except ImportError as error:
    raise MissingExtra("celery", error.name) from error

from spanbus.integrations._celery_phase import on_celery

if TYPE_CHECKING:
    from spanbus import Handle

__all__ = ["attach", "instrument", "on_celery"]

_EXECUTION = "spanbus_execution"
_RETRY = "celery.exceptions.Retry"


def instrument(app: Any, *, workflow: str | None = None) -> Handle:
    """Record each task execution of this app as a span, and send trace context and time with its messages.

    The same as ``spanbus.instrument(app)``. ``workflow`` names the workflow of tasks that are published outside of any;
    the default is the name of the first task. An app that is already instrumented returns its handle. Raises
    :class:`~spanbus.errors.InputError` if ``app`` is not a Celery app.
    """
    app = _app(app)
    handle = instrument_app(app)
    instrumented = _instrumented.get(id(handle))
    if instrumented is not None and workflow is not None:
        instrumented.workflow = workflow
    return handle


def attach(target: object, handle: Handle) -> None:
    """Connect to Celery's signals. The adapter behind ``spanbus.instrument(app)``."""
    instrumented = _Instrumented(_app(target), handle)
    _instrumented[id(handle)] = instrumented
    handle.add_undo(instrumented.connect())
    handle.expect_nothing()


def _app(target: object) -> Any:
    if not isinstance(target, Celery):
        raise InputError(f"instrument takes the Celery app, not {type(target).__name__}")
    return cast("Any", target)


class _Instrumented:
    """Signal receivers for one app. Celery's signals are global, so tasks of other apps are ignored."""

    def __init__(self, app: Any, handle: Handle) -> None:
        settings = current_runtime().settings
        self._app, self._handle = app, handle
        self._executions = Executions(
            handle, Redactor(settings.redact, patterns=settings.redact_patterns)
        )
        self.workflow: str | None = None

    def connect(self) -> Any:
        """Connect the receivers and return a function that disconnects them."""
        receivers: list[tuple[Any, Any]] = [
            (signals.before_task_publish, self._on_publish),
            (signals.task_prerun, self._on_prerun),
            (signals.task_failure, self._on_failure),
            (signals.task_retry, self._on_retry),
            (signals.task_postrun, self._on_postrun),
            (signals.worker_process_shutdown, _on_process_shutdown),
        ]
        for signal, receiver in receivers:
            signal.connect(receiver, weak=False)

        def disconnect() -> None:
            _instrumented.pop(id(self._handle), None)
            for signal, receiver in receivers:
                if receiver is not _on_process_shutdown:
                    signal.disconnect(receiver)

        return disconnect

    def _on_publish(self, headers: MutableMapping[str, object] | None = None, **_: object) -> None:
        if headers is None or self._handle.off:
            return
        try:
            publish(headers, headers.get("id"), workflow=self.workflow)
        except Exception as problem:  # the message must be sent in any case
            self._handle.failed(problem)

    def _on_prerun(self, task: Any = None, task_id: object = None, **_: object) -> None:
        try:
            if getattr(task, "app", None) is not self._app:
                return
            execution = self._executions.begin(_delivery(task, str(task_id), self.workflow))
            if execution is not None:
                setattr(task.request, _EXECUTION, execution)
        except Exception as problem:
            self._handle.failed(problem)

    def _on_failure(
        self, sender: Any = None, exception: object = None, einfo: Any = None, **_: object
    ) -> None:
        try:
            execution = self._execution_of(getattr(sender, "request", None))
            if execution is None or not isinstance(exception, BaseException):
                return
            if type(exception).__name__ == "SoftTimeLimitExceeded":
                failure = Failure(ErrorType.TIMEOUT, error_text(exception) or "soft time limit")
                execution.outcome = Result.TIMEOUT, failure
            else:
                failure = failure_of(exception, getattr(einfo, "traceback", None))
                execution.outcome = Result.FAILURE, failure
        except Exception as problem:
            self._handle.failed(problem)

    def _on_retry(self, request: Any = None, reason: object = None, **_: object) -> None:
        try:
            execution = self._execution_of(request)
            if execution is not None:
                text = error_text(reason) if isinstance(reason, BaseException) else None
                execution.outcome = Result.FAILURE, Failure(_RETRY, text)
        except Exception as problem:
            self._handle.failed(problem)

    def _on_postrun(
        self, task: Any = None, state: object = None, retval: object = None, **_: object
    ) -> None:
        try:
            execution = self._execution_of(getattr(task, "request", None))
            if execution is None:
                return
            delattr(task.request, _EXECUTION)
            if state in ("SUCCESS", "IGNORED"):
                self._executions.end(execution, Result.SUCCESS)
            elif isinstance(retval, BaseException):
                self._executions.end(execution, Result.FAILURE, failure_of(retval))
            elif state:
                self._executions.end(
                    execution, Result.FAILURE, Failure(ErrorType.OTHER, str(state))
                )
            else:  # SystemExit went through the task
                failure = Failure(ErrorType.TERMINATED, "its process was told to end")
                self._executions.end(execution, Result.ERROR, failure)
        except Exception as problem:
            self._handle.failed(problem)

    def _execution_of(self, request: Any) -> Execution | None:
        found = getattr(request, _EXECUTION, None)
        return found if isinstance(found, Execution) and found.owner is self._executions else None


_instrumented: dict[int, _Instrumented] = {}


def _delivery(task: Any, task_id: str, workflow: str | None) -> Delivery:
    request: Any = task.request
    headers = cast("Mapping[str, object]", request.headers or {})
    info = cast("Mapping[str, object]", request.delivery_info or {})
    queue = info.get("routing_key")
    run_id = str(request.group or request.root_id or task_id)
    return Delivery(
        task_id=task_id,
        task=str(task.name),
        run=run_ref_of(headers, run_id=run_id, workflow=workflow or str(task.name)),
        headers=headers,
        kind="celery",
        retries=int(request.retries or 0),
        due_ns=_unix_ns(request.eta),
        queue=queue if isinstance(queue, str) and queue else None,
        worker=str(request.hostname) if request.hostname else None,
        redelivered=bool(info.get("redelivered")),
    )


def _unix_ns(eta: object) -> int:
    """Return the scheduled start of a task in Unix nanoseconds; 0 if it is absent or unreadable."""
    if isinstance(eta, str):
        try:
            eta = datetime.fromisoformat(eta)
        except ValueError:
            return 0
    if not isinstance(eta, datetime):
        return 0
    return int((eta if eta.tzinfo else eta.replace(tzinfo=UTC)).timestamp() * 1e9)


def _on_process_shutdown(**_: object) -> None:
    close_all()  # a child of the worker pool ends by os._exit, without atexit
