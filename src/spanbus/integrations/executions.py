"""Executions of tasks by the workers of a queue: identity in the headers of a message, a span of its own for each execution.

A publisher puts trace context, run and time into the headers (:func:`carry`); the worker makes a record of them
(:meth:`Executions.begin`), which is open in its journal while the task runs, so that an execution whose process was killed
is ended as ``error``/``killed`` by the next process on that host.
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


class Whose(NamedTuple):
    """The run that a task is executed for: its id, its workflow, and the phase and attempt where an engine published the task."""

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
    """Put into the headers of a message who published it, and when.

    The trace context is that of the caller's span. A task that is published ``again`` keeps what its first message was
    given, so that its executions stand side by side; the time is always that of now.
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
    """:func:`carry` for a message that code here publishes: for the execution or the phase that it is in, else the caller's span.

    ``task_id`` is the message's: an execution that publishes its own does it again. ``workflow`` is that of messages that are
    published outside of any.
    """
    here = execution_here()
    whose = here.delivery.whose if here is not None else current_scope.get()
    again = here is not None and task_id == here.delivery.task_id
    if whose is None or RUN_ID in headers:
        carry(headers, workflow=workflow if here is None else None, again=again)
    else:
        carry(headers, run_id=whose.run_id, workflow=whose.workflow, again=again)


def was_published(headers: Mapping[str, object]) -> bool:
    """Whether a message was published inside a span, or for a run, of which it is a part."""
    return (
        isinstance(headers.get(RUN_ID), str)
        or parse_traceparent(_text(headers.get("traceparent"))) is not None
    )


def execution_here() -> Execution | None:
    """The execution that this code is in, None outside of one."""
    return _here.get()


def whose_of(headers: Mapping[str, object], *, run_id: str, workflow: str) -> Whose:
    """The run named by the headers, else the one given."""
    phase, attempt = headers.get(PHASE), headers.get(ATTEMPT)
    return Whose(
        _text(headers.get(RUN_ID)) or run_id,
        _text(headers.get(WORKFLOW)) or workflow,
        _text(phase) or None,
        attempt if type(attempt) is int and attempt > 0 else 1,
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a task's message to a worker. ``due_ns`` is the time that it was meant for, where that is later
    than its publication.
    """

    task_id: str
    task: str
    whose: Whose
    headers: Mapping[str, object]
    kind: str
    retries: int = 0
    due_ns: int = 0
    queue: str | None = None
    worker: str | None = None
    redelivered: bool = False


@dataclass(slots=True, eq=False)
class Execution:
    """One execution under way. ``told`` is what was said of its end before that came."""

    owner: Executions
    delivery: Delivery
    record: SpanState
    began_ns: int
    token: Token[Context] | None = None
    here: Token[Execution | None] | None = None
    told: tuple[Result, Failure] | None = None


_here: ContextVar[Execution | None] = ContextVar("spanbus_execution_here", default=None)


class Executions:
    """The executions of one process, told to the sinks of a handle. None of its methods raises."""

    def __init__(self, handle: Handle, redactor: Redactor) -> None:
        self._handle, self._redactor = handle, redactor

    def begin(self, delivery: Delivery) -> Execution | None:
        """Open the record of an execution and make its span current; None where telemetry is off."""
        if self._handle.off:
            return None
        try:
            now_ns = max(time.time_ns(), 1)
            came = from_headers(delivery.headers)
            record = _record(delivery, came, now_ns)
            self._handle.correlator.begin(record)
            execution = Execution(self, delivery, record, time.perf_counter_ns())
            execution.token = otel_context.attach(context_of(record, came, self._redactor))
            execution.here = _here.set(execution)
        except Exception as error:
            self._handle.failed(error)
            return None
        return execution

    def end(self, execution: Execution, result: Result, failure: Failure | None = None) -> None:
        """End the record, and give the task's context back. What was told of it before counts more."""
        try:
            if execution.here is not None:
                _here.reset(execution.here)
            if execution.token is not None:
                otel_context.detach(execution.token)
            if execution.told is not None:
                result, failure = execution.told
            passed_ns = time.perf_counter_ns() - execution.began_ns
            at_ns = execution.record.started_at_ns + passed_ns
            self._handle.correlator.end(execution.record, result, failure, at_ns, passed_ns)
        except Exception as error:
            self._handle.failed(error)


def failure_of(error: BaseException, stacktrace: object = None) -> Failure:
    """An exception as a failure, by the name of its class."""
    trace = stacktrace if isinstance(stacktrace, str) else trace_of(error)
    return Failure(class_name(type(error)), error_text(error), trace)


def _record(delivery: Delivery, came: Context, now_ns: int) -> SpanState:
    traceparent, tracestate = identity_of(came)
    parent = parse_traceparent(traceparent)
    whose, headers = delivery.whose, delivery.headers
    trace_id = trace_id_of(whose.run_id, parent)
    sent_ns = headers.get(SENT_NS)
    path: list[object] = ["execution", delivery.task_id, delivery.retries, sent_ns]
    if delivery.redelivered:  # the same message as an earlier execution, which was another one
        path.append(now_ns)
    record = SpanState(
        Level.EXECUTION,
        delivery.task[:_NAME_CHARS],
        run_id=whose.run_id,
        workflow=whose.workflow,
        trace_id=trace_id,
        span_id=child_span_id(trace_id & (1 << 64) - 1, *path),
        started_at_ns=now_ns,
        remote_parent=parent,
        tracestate=tracestate,
        task_type=delivery.kind,
        attempt=whose.attempt,
    )
    record.of_phase = whose.phase
    said: dict[str, AttributeValue | None] = {
        names.TASK_ID: delivery.task_id,
        names.QUEUE_NAME: delivery.queue,
        names.WORKER: delivery.worker,
        names.REDELIVERED: True if delivery.redelivered else None,
    }
    if type(sent_ns) is int and 0 <= sent_ns < 2**63:
        waited_ns = now_ns - max(sent_ns, delivery.due_ns)
        if waited_ns >= 0:
            said[names.QUEUE_WAIT] = waited_ns / 1e9
        elif not delivery.due_ns:
            record.flag(Flag.CLOCK)
    for name, value in said.items():
        if value is not None:
            record.describe(name, value)
    return record


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
