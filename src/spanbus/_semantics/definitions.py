"""Definitions of every span and attribute; for metrics see :mod:`spanbus._semantics.names`.

``docs/telemetry.md`` is generated from both (``python -m spanbus._telemetry.catalogue``).
"""

from __future__ import annotations

from typing import Literal

from spanbus._named_tuple import NamedTuple
from spanbus._semantics import Level, names


class Attribute(NamedTuple):
    """A span attribute: its name, type, the levels that have it, and a description."""

    name: str
    kind: Literal["string", "string[]", "int", "double", "boolean"]
    on: str
    brief: str


class Span(NamedTuple):
    """A kind of span."""

    level: Level
    name: str
    kind: Literal["SERVER", "INTERNAL", "CONSUMER"]
    brief: str


SPANS = (
    Span(
        Level.RUN,
        "RUN {workflow}",
        "SERVER",
        "One run of a workflow; child of a valid TRACEPARENT, else a root. The status of a failed run begins with its result; the name of a cancelled run ends with ` (cancellation)`.",
    ),
    Span(
        Level.PHASE,
        "{phase}",
        "INTERNAL",
        "One phase of a run with all its attempts; the name of a skipped phase ends with ` (skip)`.",
    ),
    Span(
        Level.ATTEMPT,
        "{phase} attempt {n}",
        "INTERNAL",
        "One attempt of a phase that has several.",
    ),
    Span(
        Level.STRATEGY,
        "strategy {name}",
        "INTERNAL",
        "A hook strategy of a foreign engine inside a phase of another name.",
    ),
    Span(Level.HOOK, "hook {name}", "INTERNAL", "One hook inside a phase."),
    Span(Level.COMMAND, "{executable}", "INTERNAL", "One command that a phase ran."),
    Span(
        Level.EXECUTION,
        "{task}",
        "CONSUMER",
        "One execution of a task by a worker of a queue; child of the phase, task or request that published it.",
    ),
)

ATTRIBUTES = (
    Attribute(names.PIPELINE_NAME, "string", "all spans, metrics", "The workflow's name."),
    Attribute(
        names.PIPELINE_RUN_ID, "string", "all spans", "The run's id; never a metric attribute."
    ),
    Attribute(names.PIPELINE_ACTION_NAME, "string", "run", "Always `RUN`."),
    Attribute(
        names.PIPELINE_RESULT,
        "string",
        "run, metrics",
        "The result of the run, one of the results above.",
    ),
    Attribute(names.PIPELINE_RUN_STATE, "string", "run metrics", "Always `executing`."),
    Attribute(
        names.TASK_NAME,
        "string",
        "phase, attempt, execution, metrics",
        "The phase's name; for an execution that belongs to no phase, the task's name.",
    ),
    Attribute(
        names.TASK_TYPE,
        "string",
        "phase, execution, metrics",
        "The action of the phase: `fast_hooks`, `code_cleaning`, `comprehensive_hooks`, `test_workflow`, `command`, `celery` or a foreign one.",
    ),
    Attribute(
        names.TASK_RUN_ID,
        "string",
        "phase, attempt",
        "The span id of the phase.",
    ),
    Attribute(
        names.TASK_RESULT,
        "string",
        "phase, attempt, execution, metrics",
        "The result of the phase, attempt or execution.",
    ),
    Attribute(
        names.ERROR_TYPE,
        "string",
        "failed spans, metrics",
        "A class name, or `unsuccessful`, `timeout`, `killed`, `terminated`, `abandoned`, `_OTHER`.",
    ),
    Attribute(
        names.LEVEL,
        "string",
        "all spans",
        "`run`, `phase`, `attempt`, `strategy`, `hook`, `command` or `execution`.",
    ),
    Attribute(names.PHASE_ATTEMPTS, "int", "phase", "Number of attempts of the phase."),
    Attribute(
        names.PHASE_ATTEMPT,
        "int",
        "attempt, hook, command, execution",
        "The number of the attempt, from 1.",
    ),
    Attribute(names.HOOK_NAME, "string", "hook", "The hook's name."),
    Attribute(names.HOOK_RESULT, "string", "strategy, hook, command", "Its result."),
    Attribute(names.HOOK_CACHED, "boolean", "hook", "The engine reused an earlier result."),
    Attribute(names.STRATEGY_NAME, "string", "strategy", "The strategy's name."),
    Attribute(
        names.PROCESS_EXECUTABLE,
        "string",
        "hook, command",
        "The program that ran, without its path.",
    ),
    Attribute(names.PROCESS_COMMAND_ARGS, "string[]", "hook, command", "Its arguments, redacted."),
    Attribute(
        names.PROCESS_EXIT_CODE, "int", "hook, command", "Its exit code; negative is a signal."
    ),
    Attribute(
        names.OUTPUT_TAIL,
        "string",
        "failed or cancelled hook, command, phase",
        "The end of the output, redacted, at most 4,096 characters.",
    ),
    Attribute(names.SKIP_REASON, "string", "skipped phase", "The reason."),
    Attribute(
        names.MATCH,
        "string",
        "spans",
        "`ambiguous`: an end or another attempt could belong to several spans; the oldest was chosen. `inferred`: the run had no start event.",
    ),
    Attribute(names.ORPHAN, "string", "spans", "`end`: an end arrived without its start."),
    Attribute(
        names.CLOCK,
        "string",
        "spans",
        "`clamped`: by two clocks, the end was earlier than the start, or a task began before it was published.",
    ),
    Attribute(
        names.ABANDONED,
        "string",
        "run",
        "`unread`: the stream may have deleted events of the run before an observer read them.",
    ),
    Attribute(
        names.EVENTS_TOTAL,
        "int",
        "all spans",
        "Number of bus events of the span, kept or not; on a failed span, an event that another emitter published before is not counted again.",
    ),
    Attribute(
        names.EVENTS_DROPPED,
        "int",
        "spans above the event limit",
        "Number of events between the first and the last 60, which are not on the span.",
    ),
    Attribute(
        names.EVENTS_SUMMARY_PREFIX + "{type}",
        "int",
        "spans above the event limit",
        "Number of dropped events of this type; at most 32 types, then `_OTHER`.",
    ),
    Attribute(names.DELIVERY_DROPPED, "int", "run", "Records of this run that could not be kept."),
    Attribute(names.EVENT_ID, "string", "span events", "The event's id on its bus."),
    Attribute(names.EVENT_SOURCE, "string", "span events", "Its publisher."),
    Attribute(
        names.EVENT_PAYLOAD_PREFIX + "{key}",
        "string",
        "span events",
        "A payload value with a key of the allow-list, redacted; numbers and booleans keep their type.",
    ),
    Attribute(
        names.EXCEPTION_TYPE,
        "string",
        "exception event",
        "The fully qualified class, recorded once, on the innermost span.",
    ),
    Attribute(names.EXCEPTION_MESSAGE, "string", "exception event", "Its text, redacted."),
    Attribute(names.EXCEPTION_STACKTRACE, "string", "exception event", "Its traceback, redacted."),
    Attribute(
        names.QUEUE_WAIT,
        "double",
        "execution",
        "Seconds from publishing, or from the time that the task was scheduled for, to its start; absent where the clocks of two hosts disagree.",
    ),
    Attribute(
        names.QUEUE_NAME, "string", "execution, metrics", "The queue that the message came from."
    ),
    Attribute(names.WORKER, "string", "execution", "The worker's name, such as `celery@host`."),
    Attribute(names.TASK_ID, "string", "execution", "The task's id in its queue."),
    Attribute(
        names.REDELIVERED, "boolean", "execution", "The broker has delivered this message before."
    ),
    Attribute(names.LINK_TYPE, "string", "links", "`retry_of`, `depends_on` or `rerun_of`."),
    Attribute(
        names.LIFETIME,
        "string",
        "resource",
        "`run` for one-shot processes, which export delta temporality; absent for services.",
    ),
    Attribute(
        names.EVENT_TYPE,
        "string",
        "spanbus.events",
        "The event's type; at most 200 types, then `_OTHER`.",
    ),
    Attribute(names.EVENT_OUTCOME, "string", "spanbus.events", "`recorded` or `dropped`."),
    Attribute(
        names.DELIVERY_SIGNAL,
        "string",
        "delivery metrics",
        "`traces`, `metrics`, `logs`, or `events` (carried to NATS).",
    ),
    Attribute(
        names.DELIVERY_REASON,
        "string",
        "dropped, rejected",
        "Dropped: `quota`, `disk_full`, `no_spool`, `too_large`, `not_encodable`, or that its signal is turned off (`OTEL_*_EXPORTER`); rejected: `partial_success`, `refused`.",
    ),
    Attribute(names.OBSERVE_GROUP, "string", "observe metrics", "The group of the observer."),
)
