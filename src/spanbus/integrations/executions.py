"""Task executions on queue workers: identity travels in message headers, and each execution is a span.

The publisher writes trace context, run and time into the headers (:func:`carry`). The worker opens a span from them
(:meth:`Executions.begin`) and keeps it in its journal while the task runs. If the worker is killed, the next process
on that host ends the span as ``error``/``killed``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from spanbus._correlation.span_state import AttributeValue, SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._semantics import Failure, Flag, Level, Result, class_name, error_text, names
from spanbus._telemetry.context import from_headers, identity_of, into_headers
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.span_handle import context_of
from spanbus._workflow.current import current_scope
from spanbus._workflow.identity import child_span_id, parse_traceparent, trace_id_of
from spanbus._workflow.results import trace_of

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle

RUN_ID = "spanbus_run_id"
WORKFLOW = "spanbus_workflow"
PHASE = "spanbus_phase"
ATTEMPT = "spanbus_attempt"
SENT_NS = "spanbus_sent_ns"
_NAME_CHARS = 1_024


class RunRef(NamedTuple):
    """The run that a task belongs to. ``phase`` and ``attempt`` are set if a workflow engine published the task."""

    run_id: str
    workflow: str
    phase: str | None = None
    attempt: int = 1


def carry(
    headers: MutableMapping[str, object],
    *,
    run_id: str | None = None,
    workflow: str | None = None,
    phase: str | None = None,
    attempt: int = 1,
    again: bool = False,
) -> None:
    """Write the publisher's identity and the current time into the headers of a message.

    The trace context is that of the caller's span. With ``again`` the headers keep the identity from the first
    publication, so that all executions of the task are siblings; only the time is updated.
    """
    if not again and "traceparent" not in headers:
        headers.update(into_headers(otel_context.get_current()))
    if run_id is not None:
        headers[RUN_ID] = run_id
    if workflow is not None:
        headers.setdefault(WORKFLOW, workflow)
    if phase is not None:
        headers[PHASE], headers[ATTEMPT] = phase, attempt
    headers[SENT_NS] = time.time_ns()


def publish(
    headers: MutableMapping[str, object], task_id: object, *, workflow: str | None = None
) -> None:
    """:func:`carry` with the run of the current execution or phase, if there is one.

    An execution that publishes a message with its own ``task_id`` publishes it again. ``workflow`` is used outside of
    an execution and a phase.
    """
    here = current_execution()
    run = here.delivery.run if here is not None else current_scope.get()
    again = here is not None and task_id == here.delivery.task_id
    if run is None or RUN_ID in headers:
        carry(headers, workflow=workflow if here is None else None, again=again)
    else:
        carry(headers, run_id=run.run_id, workflow=run.workflow, again=again)


def was_published(headers: Mapping[str, object]) -> bool:
    """Whether the headers carry a run id or a valid trace context."""
    return (
        isinstance(headers.get(RUN_ID), str)
        or parse_traceparent(_text(headers.get("traceparent"))) is not None
    )


def current_execution() -> Execution | None:
    """Return the execution that the calling code runs in, or None."""
    return _current.get()


def run_ref_of(headers: Mapping[str, object], *, run_id: str, workflow: str) -> RunRef:
    """Return the run that the headers name; ``run_id`` and ``workflow`` are the fallback."""
    phase, attempt = headers.get(PHASE), headers.get(ATTEMPT)
    return RunRef(
        _text(headers.get(RUN_ID)) or run_id,
        _text(headers.get(WORKFLOW)) or workflow,
        _text(phase) or None,
        attempt if type(attempt) is int and attempt > 0 else 1,
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a task's message to a worker.

    ``due_ns`` is the scheduled time (Unix nanoseconds) of a delayed task, otherwise 0.
    """

    task_id: str
    task: str
    run: RunRef
    headers: Mapping[str, object]
    kind: str
    retries: int = 0
    due_ns: int = 0
    queue: str | None = None
    worker: str | None = None
    redelivered: bool = False


@dataclass(slots=True, eq=False)
class Execution:
    """An open execution. ``outcome`` is its result if that was reported before the end."""

    owner: Executions
    delivery: Delivery
    record: SpanState
    began_ns: int
    token: Token[Context] | None = None
    current: Token[Execution | None] | None = None
    outcome: tuple[Result, Failure] | None = None


_current: ContextVar[Execution | None] = ContextVar("spanbus_execution", default=None)


class Executions:
    """Records the executions of this process on a handle. No method raises."""

    def __init__(self, handle: Handle, redactor: Redactor) -> None:
        self._handle, self._redactor = handle, redactor

    def begin(self, delivery: Delivery) -> Execution | None:
        """Open the span of an execution and make it current. Returns None if telemetry is off or fails."""
        if self._handle.off:
            return None
        try:
            now_ns = max(time.time_ns(), 1)
            sent_context = from_headers(delivery.headers)
            record = _record(delivery, sent_context, now_ns)
            self._handle.correlator.begin(record)
            execution = Execution(self, delivery, record, time.perf_counter_ns())
            execution.token = otel_context.attach(context_of(record, sent_context, self._redactor))
            execution.current = _current.set(execution)
        except Exception as error:
            self._handle.failed(error)
            return None
        return execution

    def end(self, execution: Execution, result: Result, failure: Failure | None = None) -> None:
        """End the span and restore the context. ``execution.outcome`` takes precedence over ``result``."""
        try:
            if execution.current is not None:
                _current.reset(execution.current)
            if execution.token is not None:
                otel_context.detach(execution.token)
            if execution.outcome is not None:
                result, failure = execution.outcome
            passed_ns = time.perf_counter_ns() - execution.began_ns
            at_ns = execution.record.started_at_ns + passed_ns
            self._handle.correlator.end(execution.record, result, failure, at_ns, passed_ns)
        except Exception as error:
            self._handle.failed(error)


def failure_of(error: BaseException, stacktrace: object = None) -> Failure:
    """Return an exception as a failure whose error type is the class name."""
    trace = stacktrace if isinstance(stacktrace, str) else trace_of(error)
    return Failure(class_name(type(error)), error_text(error), trace)


def _record(delivery: Delivery, sent_context: Context, now_ns: int) -> SpanState:
    traceparent, tracestate = identity_of(sent_context)
    parent = parse_traceparent(traceparent)
    run, headers = delivery.run, delivery.headers
    trace_id = trace_id_of(run.run_id, parent)
    sent_ns = headers.get(SENT_NS)
    path: list[object] = ["execution", delivery.task_id, delivery.retries, sent_ns]
    if delivery.redelivered:  # each execution of a redelivered message needs its own span id
        path.append(now_ns)
    record = SpanState(
        Level.EXECUTION,
        delivery.task[:_NAME_CHARS],
        run_id=run.run_id,
        workflow=run.workflow,
        trace_id=trace_id,
        span_id=child_span_id(trace_id & (1 << 64) - 1, *path),
        started_at_ns=now_ns,
        remote_parent=parent,
        tracestate=tracestate,
        task_type=delivery.kind,
        attempt=run.attempt,
    )
    record.of_phase = run.phase
    attributes: dict[str, AttributeValue | None] = {
        names.TASK_ID: delivery.task_id,
        names.QUEUE_NAME: delivery.queue,
        names.WORKER: delivery.worker,
        names.REDELIVERED: True if delivery.redelivered else None,
    }
    if type(sent_ns) is int and 0 <= sent_ns < 2**63:
        waited_ns = now_ns - max(sent_ns, delivery.due_ns)
        if waited_ns >= 0:
            attributes[names.QUEUE_WAIT] = waited_ns / 1e9
        elif not delivery.due_ns:
            record.flag(Flag.CLOCK)
    for name, value in attributes.items():
        if value is not None:
            record.describe(name, value)
    return record


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
