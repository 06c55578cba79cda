"""The catalogue: every span, event, attribute, metric, unit and bucket that spanbus emits.

Names of ``cicd.*``, ``error.*``, ``exception.*`` and ``process.*`` are those of the OpenTelemetry semantic conventions
1.44.0; the strings are copied because the Python package keeps them in a private module. ``docs/telemetry.md`` is
generated from this file (``python -m spanbus.telemetry.catalogue``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "spanbus"


class Result(StrEnum):
    """How a run, phase, attempt or hook ended (the values of ``cicd.pipeline.result``)."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    SKIP = "skip"
    ERROR = "error"

    @property
    def failed(self) -> bool:
        """Counted as a failure, with span status ERROR."""
        return self in FAILED_RESULTS


FAILED_RESULTS: frozenset[str] = frozenset({Result.FAILURE, Result.TIMEOUT, Result.ERROR})


class ErrorType(StrEnum):
    """The values of ``error.type`` that are not the name of an exception class."""

    UNSUCCESSFUL = "unsuccessful"
    TIMEOUT = "timeout"
    KILLED = "killed"
    TERMINATED = "terminated"
    ABANDONED = "abandoned"
    OTHER = "_OTHER"


class Level(StrEnum):
    """What a span stands for; the value of ``spanbus.level``."""

    RUN = "run"
    PHASE = "phase"
    ATTEMPT = "attempt"
    STRATEGY = "strategy"
    HOOK = "hook"
    COMMAND = "command"


class Flag(StrEnum):
    """Short words about how certain a span is."""

    AMBIGUOUS = "ambiguous"
    ORPHAN_END = "orphan_end"
    ABANDONED = "abandoned"
    CLOCK = "clock"


# --- attributes -------------------------------------------------------------------------------------------------------

PIPELINE_NAME = "cicd.pipeline.name"
PIPELINE_RUN_ID = "cicd.pipeline.run.id"
PIPELINE_ACTION_NAME = "cicd.pipeline.action.name"
PIPELINE_RESULT = "cicd.pipeline.result"
PIPELINE_RUN_STATE = "cicd.pipeline.run.state"
TASK_NAME = "cicd.pipeline.task.name"
TASK_TYPE = "cicd.pipeline.task.type"
TASK_RUN_ID = "cicd.pipeline.task.run.id"
TASK_RESULT = "cicd.pipeline.task.run.result"
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
PROCESS_EXECUTABLE = "process.executable.name"
PROCESS_COMMAND_ARGS = "process.command_args"
PROCESS_EXIT_CODE = "process.exit.code"

LEVEL = "spanbus.level"
PHASE_ATTEMPTS = "spanbus.phase.attempts"
PHASE_ATTEMPT = "spanbus.phase.attempt"
HOOK_NAME = "spanbus.hook.name"
HOOK_RESULT = "spanbus.hook.result"
HOOK_CACHED = "spanbus.hook.cached"
STRATEGY_NAME = "spanbus.strategy.name"
OUTPUT_TAIL = "spanbus.output.tail"
SKIP_REASON = "spanbus.skip.reason"
EVENT_ID = "spanbus.event.id"
EVENT_SOURCE = "spanbus.event.source"
EVENT_PAYLOAD_PREFIX = "spanbus.payload."
EVENTS_TOTAL = "spanbus.events.total"
EVENTS_DROPPED = "spanbus.events.dropped"
EVENTS_SUMMARY_PREFIX = "spanbus.events.count."
MATCH = "spanbus.match"
ORPHAN = "spanbus.orphan"
CLOCK = "spanbus.clock"
LINK_TYPE = "spanbus.link.type"
DELIVERY_DROPPED = "spanbus.delivery.dropped"
LIFETIME = "spanbus.lifetime"
DEFAULT_SERVICE = "spanbus"
"""``service.name`` of the command line where none is configured."""

EVENT_TYPE = "spanbus.event.type"
EVENT_OUTCOME = "spanbus.event.outcome"
DELIVERY_SIGNAL = "spanbus.delivery.signal"
DELIVERY_REASON = "spanbus.delivery.reason"

LINK_RETRY_OF = "retry_of"
LINK_DEPENDS_ON = "depends_on"
LINK_RERUN_OF = "rerun_of"

ACTION_RUN = "RUN"
STATE_EXECUTING = "executing"
OVERFLOW = "_OTHER"

# --- limits -----------------------------------------------------------------------------------------------------------

EVENTS_KEPT_FIRST = 60
EVENTS_KEPT_LAST = 60
EVENTS_SUMMARY_TYPES = 32
STRING_LIMIT = 1_024
ERROR_TEXT_LIMIT = 4_096
EVENT_ATTRIBUTES_LIMIT = 32
NAMES_LIMIT = 200
"""Distinct user-given names (workflows, phases) in metrics; what comes after them is ``_OTHER``."""

DURATION_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)


# --- the catalogue as data --------------------------------------------------------------------------------------------


class Attribute(NamedTuple):
    """One attribute: where it stands, what it says."""

    name: str
    kind: Literal["string", "string[]", "int", "double", "boolean"]
    on: str
    brief: str


class Span(NamedTuple):
    """One kind of span."""

    level: Level
    name: str
    kind: Literal["SERVER", "INTERNAL"]
    brief: str


class Metric(NamedTuple):
    """One instrument. ``prometheus`` is the name that the collector's exporter and ``/metrics`` serve."""

    name: str
    instrument: Literal["histogram", "counter", "updowncounter", "gauge"]
    unit: str
    attributes: tuple[str, ...]
    prometheus: str
    brief: str


SPANS = (
    Span(Level.RUN, "RUN {workflow}", "SERVER", "One run of a workflow; child of a valid TRACEPARENT, else a root."),
    Span(Level.PHASE, "{phase}", "INTERNAL", "One phase of a run, all its attempts together."),
    Span(Level.ATTEMPT, "{phase} attempt {n}", "INTERNAL", "One attempt, only when a phase was tried more than once."),
    Span(Level.STRATEGY, "strategy {name}", "INTERNAL", "A hook strategy of a foreign engine inside a phase of another name."),
    Span(Level.HOOK, "hook {name}", "INTERNAL", "One hook inside a phase."),
    Span(Level.COMMAND, "{executable}", "INTERNAL", "One command that a phase ran."),
)

ATTRIBUTES = (
    Attribute(PIPELINE_NAME, "string", "all spans, metrics", "The workflow's name."),
    Attribute(PIPELINE_RUN_ID, "string", "all spans", "The run's id; never a metric attribute."),
    Attribute(PIPELINE_ACTION_NAME, "string", "run", "Always `RUN`."),
    Attribute(PIPELINE_RESULT, "string", "run, metrics", "How the run ended: one of the results below."),
    Attribute(PIPELINE_RUN_STATE, "string", "run metrics", "Always `executing`."),
    Attribute(TASK_NAME, "string", "phase, attempt, metrics", "The phase's name."),
    Attribute(TASK_TYPE, "string", "phase, metrics", "The action of the phase: `fast_hooks`, `code_cleaning`, `comprehensive_hooks`, `test_workflow`, `command` or a foreign one."),
    Attribute(TASK_RUN_ID, "string", "phase, attempt", "The id of this execution of the phase: its span id."),
    Attribute(TASK_RESULT, "string", "phase, attempt, metrics", "How the phase or attempt ended."),
    Attribute(ERROR_TYPE, "string", "failed spans, metrics", "A class name, or `unsuccessful`, `timeout`, `killed`, `terminated`, `abandoned`, `_OTHER`."),
    Attribute(LEVEL, "string", "all spans", "`run`, `phase`, `attempt`, `strategy`, `hook` or `command`."),
    Attribute(PHASE_ATTEMPTS, "int", "phase", "How often the phase was tried."),
    Attribute(PHASE_ATTEMPT, "int", "attempt, hook, command", "Which attempt this belongs to, from 1."),
    Attribute(HOOK_NAME, "string", "hook", "The hook's name."),
    Attribute(HOOK_RESULT, "string", "strategy, hook, command", "How it ended."),
    Attribute(HOOK_CACHED, "boolean", "hook", "The engine repeated an earlier result."),
    Attribute(STRATEGY_NAME, "string", "strategy", "The strategy's name."),
    Attribute(PROCESS_EXECUTABLE, "string", "hook, command", "The program that ran, without its path."),
    Attribute(PROCESS_COMMAND_ARGS, "string[]", "hook, command", "Its arguments, redacted."),
    Attribute(PROCESS_EXIT_CODE, "int", "hook, command", "Its exit code; negative is a signal."),
    Attribute(OUTPUT_TAIL, "string", "failed or cancelled hook, command, phase", "The end of the output, redacted, at most 4,096 characters."),
    Attribute(SKIP_REASON, "string", "skipped phase", "Why it did not run."),
    Attribute(MATCH, "string", "spans", "`ambiguous`: the end could have belonged to several open spans; the oldest was taken."),
    Attribute(ORPHAN, "string", "spans", "`end`: an end arrived without its start."),
    Attribute(CLOCK, "string", "spans", "`clamped`: the end was announced as earlier than the start."),
    Attribute(EVENTS_TOTAL, "int", "all spans", "How many bus events belong to the span, kept or not."),
    Attribute(EVENTS_DROPPED, "int", "spans above the event limit", "How many events between the first and the last 60 are not on the span."),
    Attribute(EVENTS_SUMMARY_PREFIX + "{type}", "int", "spans above the event limit", "How many of the dropped were of this type; at most 32 types, then `_OTHER`."),
    Attribute(DELIVERY_DROPPED, "int", "run", "Records of this run that could not be kept."),
    Attribute(EVENT_ID, "string", "span events", "The event's id on its bus."),
    Attribute(EVENT_SOURCE, "string", "span events", "Who published it."),
    Attribute(EVENT_PAYLOAD_PREFIX + "{key}", "string", "span events", "A payload value, from the allow-list, redacted; numbers and booleans keep their type."),
    Attribute(EXCEPTION_TYPE, "string", "exception event", "The fully qualified class, recorded once, on the innermost span."),
    Attribute(EXCEPTION_MESSAGE, "string", "exception event", "Its text, redacted."),
    Attribute(EXCEPTION_STACKTRACE, "string", "exception event", "Its traceback, redacted."),
    Attribute(LINK_TYPE, "string", "links", "`retry_of`, `depends_on` or `rerun_of`."),
    Attribute(LIFETIME, "string", "resource", "`run` for one-shot processes, which export delta temporality; absent for services."),
    Attribute(EVENT_TYPE, "string", "spanbus.events", "The event's type; at most 200 types, then `_OTHER`."),
    Attribute(EVENT_OUTCOME, "string", "spanbus.events", "`recorded` or `dropped`."),
    Attribute(DELIVERY_SIGNAL, "string", "delivery metrics", "`traces`, `metrics` or `logs`."),
    Attribute(DELIVERY_REASON, "string", "dropped, rejected", "Dropped: `quota`, `disk_full`, `no_spool`, `too_large`, `not_encodable`, or that its signal is not sent (`OTEL_*_EXPORTER`); rejected: `partial_success`, `refused`."),
)

RUN_DURATION = "cicd.pipeline.run.duration"
RUN_ERRORS = "cicd.pipeline.run.errors"
RUN_ACTIVE = "cicd.pipeline.run.active"
PHASE_DURATION = "spanbus.phase.duration"
PHASE_FAILURES = "spanbus.phase.failures"
PHASE_RETRIES = "spanbus.phase.retries"
PHASE_LAST_RUN = "spanbus.phase.last_run.timestamp"
WORKFLOW_LAST_RUN = "spanbus.workflow.last_run.timestamp"
EVENTS = "spanbus.events"
DELIVERY_SPOOLED = "spanbus.delivery.spooled"
DELIVERY_DELIVERED = "spanbus.delivery.delivered"
DELIVERY_REJECTED = "spanbus.delivery.rejected"
DELIVERY_DROPPED_RECORDS = "spanbus.delivery.dropped"
DELIVERY_SPOOL_SIZE = "spanbus.delivery.spool.size"
DELIVERY_OLDEST_AGE = "spanbus.delivery.oldest.age"

DOCTOR_SERVICE = "spanbus-doctor"
"""``service.name`` of what ``spanbus doctor`` sends to see whether it arrives."""
DOCTOR_SPAN = "spanbus doctor"
DOCTOR_POINTS = "spanbus.doctor.points"
DOCTOR_POINTS_PROMETHEUS = "spanbus_doctor_points_total"

METRICS = (
    Metric(RUN_DURATION, "histogram", "s", (PIPELINE_NAME, PIPELINE_RUN_STATE, PIPELINE_RESULT, ERROR_TYPE), "cicd_pipeline_run_duration_seconds", "Seconds from start to end of a run."),
    Metric(RUN_ERRORS, "counter", "{error}", (PIPELINE_NAME, ERROR_TYPE), "cicd_pipeline_run_errors_total", "Runs that failed."),
    Metric(RUN_ACTIVE, "updowncounter", "{run}", (PIPELINE_NAME, PIPELINE_RUN_STATE), "cicd_pipeline_run_active", "Runs in progress; long-lived processes only."),
    Metric(PHASE_DURATION, "histogram", "s", (PIPELINE_NAME, TASK_NAME, TASK_TYPE, TASK_RESULT, ERROR_TYPE), "spanbus_phase_duration_seconds", "Seconds from start to end of a phase, all attempts together."),
    Metric(PHASE_FAILURES, "counter", "{failure}", (PIPELINE_NAME, TASK_NAME), "spanbus_phase_failures_total", "Phases that failed, each counted once; 0 is written at every phase end."),
    Metric(PHASE_RETRIES, "counter", "{retry}", (PIPELINE_NAME, TASK_NAME), "spanbus_phase_retries_total", "Attempts after the first."),
    Metric(PHASE_LAST_RUN, "gauge", "s", (PIPELINE_NAME, TASK_NAME, TASK_RESULT), "spanbus_phase_last_run_timestamp_seconds", "Unix time at which the phase last ended with this result."),
    Metric(WORKFLOW_LAST_RUN, "gauge", "s", (PIPELINE_NAME, PIPELINE_RESULT), "spanbus_workflow_last_run_timestamp_seconds", "Unix time at which the workflow last ended with this result."),
    Metric(EVENTS, "counter", "{event}", (EVENT_TYPE, EVENT_OUTCOME), "spanbus_events_total", "Bus events seen."),
    Metric(DELIVERY_SPOOLED, "counter", "{record}", (DELIVERY_SIGNAL,), "spanbus_delivery_spooled_total", "Records written to the spool."),
    Metric(DELIVERY_DELIVERED, "counter", "{record}", (DELIVERY_SIGNAL,), "spanbus_delivery_delivered_total", "Records that the destination acknowledged."),
    Metric(DELIVERY_REJECTED, "counter", "{record}", (DELIVERY_SIGNAL, DELIVERY_REASON), "spanbus_delivery_rejected_total", "Records that the destination refused for good."),
    Metric(DELIVERY_DROPPED_RECORDS, "counter", "{record}", (DELIVERY_SIGNAL, DELIVERY_REASON), "spanbus_delivery_dropped_total", "Records that could not be kept."),
    Metric(DELIVERY_SPOOL_SIZE, "gauge", "By", (), "spanbus_delivery_spool_size_bytes", "Bytes that wait in the spool."),
    Metric(DELIVERY_OLDEST_AGE, "gauge", "s", (), "spanbus_delivery_oldest_age_seconds", "Age of the oldest record that waits."),
)
