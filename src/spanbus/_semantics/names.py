"""Names of all attributes and metrics that spanbus emits, with units, buckets and limits.

Names of ``cicd.*``, ``error.*``, ``exception.*`` and ``process.*`` are those of the OpenTelemetry semantic conventions
1.44.0; the strings are copied because the Python package keeps them in a private module. ``docs/telemetry.md`` is
generated from this file and ``definitions.py`` (``python -m spanbus._telemetry.catalogue``).
"""

from __future__ import annotations

from typing import Literal

from spanbus._named_tuple import NamedTuple

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "spanbus"


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
ABANDONED = "spanbus.abandoned"
LINK_TYPE = "spanbus.link.type"
QUEUE_WAIT = "spanbus.queue.wait_s"
QUEUE_NAME = "spanbus.queue.name"
WORKER = "spanbus.worker"
TASK_ID = "spanbus.task.id"
REDELIVERED = "spanbus.redelivered"
DELIVERY_DROPPED = "spanbus.delivery.dropped"
LIFETIME = "spanbus.lifetime"
DEFAULT_SERVICE = "spanbus"
"""Default ``service.name`` of the command line."""

EVENT_TYPE = "spanbus.event.type"
EVENT_OUTCOME = "spanbus.event.outcome"
DELIVERY_SIGNAL = "spanbus.delivery.signal"
DELIVERY_REASON = "spanbus.delivery.reason"
OBSERVE_GROUP = "spanbus.observe.group"

LINK_RETRY_OF = "retry_of"
LINK_DEPENDS_ON = "depends_on"
LINK_RERUN_OF = "rerun_of"

ACTION_RUN = "RUN"
STATE_EXECUTING = "executing"

# --- limits -----------------------------------------------------------------------------------------------------------

STRING_LIMIT = 1_024
ERROR_TEXT_LIMIT = 4_096
EVENT_ATTRIBUTES_LIMIT = 32
NAMES_LIMIT = 200
"""Maximum of distinct user-given names (workflows, phases) in metrics; any further one becomes ``_OTHER``."""

DURATION_BUCKETS_S = (
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
    7200,
    14400,
)


# --- metrics ----------------------------------------------------------------------------------------------------------


class Metric(NamedTuple):
    """A metric. ``prometheus`` is its name in the collector's exporter and in ``/metrics``."""

    name: str
    instrument: Literal["histogram", "counter", "updowncounter", "gauge"]
    unit: str
    attributes: tuple[str, ...]
    prometheus: str
    brief: str


RUN_DURATION = "cicd.pipeline.run.duration"
RUN_ERRORS = "cicd.pipeline.run.errors"
RUN_ACTIVE = "cicd.pipeline.run.active"
PHASE_DURATION = "spanbus.phase.duration"
PHASE_FAILURES = "spanbus.phase.failures"
PHASE_RETRIES = "spanbus.phase.retries"
PHASE_LAST_RUN = "spanbus.phase.last_run.timestamp"
WORKFLOW_LAST_RUN = "spanbus.workflow.last_run.timestamp"
QUEUE_WAITS = "spanbus.queue.wait"
EVENTS = "spanbus.events"
DELIVERY_SPOOLED = "spanbus.delivery.spooled"
DELIVERY_DELIVERED = "spanbus.delivery.delivered"
DELIVERY_REJECTED = "spanbus.delivery.rejected"
DELIVERY_DROPPED_RECORDS = "spanbus.delivery.dropped"
DELIVERY_SPOOL_SIZE = "spanbus.delivery.spool.size"
DELIVERY_OLDEST_AGE = "spanbus.delivery.oldest.age"
OBSERVE_EVENTS = "spanbus.observe.events"
OBSERVE_LAG = "spanbus.observe.lag"
OBSERVE_LOST = "spanbus.observe.lost"
OBSERVE_LATE = "spanbus.observe.late"
OBSERVE_DOUBLED = "spanbus.observe.doubled"
OBSERVE_BROKEN = "spanbus.observe.broken"
OBSERVE_PARTITIONS = "spanbus.observe.partitions"
OBSERVE_TAKEOVERS = "spanbus.observe.takeovers"
OBSERVE_READ_AGAIN = "spanbus.observe.read_again"
OBSERVE_KILLED = "spanbus.observe.killed"
OBSERVE_CHECKPOINT_AGE = "spanbus.observe.checkpoint.age"
OBSERVE_CLOCK_OFFSET = "spanbus.observe.clock.offset"

DOCTOR_SERVICE = "spanbus-doctor"
"""``service.name`` of the test telemetry that ``spanbus doctor`` sends."""
DOCTOR_SPAN = "spanbus doctor"
DOCTOR_POINTS = "spanbus.doctor.points"
DOCTOR_POINTS_PROMETHEUS = "spanbus_doctor_points_total"

METRICS = (
    Metric(
        RUN_DURATION,
        "histogram",
        "s",
        (PIPELINE_NAME, PIPELINE_RUN_STATE, PIPELINE_RESULT, ERROR_TYPE),
        "cicd_pipeline_run_duration_seconds",
        "Seconds from start to end of a run.",
    ),
    Metric(
        RUN_ERRORS,
        "counter",
        "{error}",
        (PIPELINE_NAME, ERROR_TYPE),
        "cicd_pipeline_run_errors_total",
        "Runs that failed.",
    ),
    Metric(
        RUN_ACTIVE,
        "updowncounter",
        "{run}",
        (PIPELINE_NAME, PIPELINE_RUN_STATE),
        "cicd_pipeline_run_active",
        "Runs in progress; long-lived processes only.",
    ),
    Metric(
        PHASE_DURATION,
        "histogram",
        "s",
        (PIPELINE_NAME, TASK_NAME, TASK_TYPE, TASK_RESULT, ERROR_TYPE),
        "spanbus_phase_duration_seconds",
        "Seconds from start to end of a phase, all attempts together.",
    ),
    Metric(
        PHASE_FAILURES,
        "counter",
        "{failure}",
        (PIPELINE_NAME, TASK_NAME),
        "spanbus_phase_failures_total",
        "Phases that failed, each counted once; 0 is written at every phase end.",
    ),
    Metric(
        PHASE_RETRIES,
        "counter",
        "{retry}",
        (PIPELINE_NAME, TASK_NAME),
        "spanbus_phase_retries_total",
        "Attempts after the first.",
    ),
    Metric(
        PHASE_LAST_RUN,
        "gauge",
        "s",
        (PIPELINE_NAME, TASK_NAME, TASK_RESULT),
        "spanbus_phase_last_run_timestamp_seconds",
        "Unix time at which the phase last ended with this result.",
    ),
    Metric(
        WORKFLOW_LAST_RUN,
        "gauge",
        "s",
        (PIPELINE_NAME, PIPELINE_RESULT),
        "spanbus_workflow_last_run_timestamp_seconds",
        "Unix time at which the workflow last ended with this result.",
    ),
    Metric(
        QUEUE_WAITS,
        "histogram",
        "s",
        (PIPELINE_NAME, TASK_NAME, QUEUE_NAME),
        "spanbus_queue_wait_seconds",
        "Seconds that tasks waited in their queue before a worker began them.",
    ),
    Metric(
        EVENTS,
        "counter",
        "{event}",
        (EVENT_TYPE, EVENT_OUTCOME),
        "spanbus_events_total",
        "Bus events seen.",
    ),
    Metric(
        DELIVERY_SPOOLED,
        "counter",
        "{record}",
        (DELIVERY_SIGNAL,),
        "spanbus_delivery_spooled_total",
        "Records written to the spool.",
    ),
    Metric(
        DELIVERY_DELIVERED,
        "counter",
        "{record}",
        (DELIVERY_SIGNAL,),
        "spanbus_delivery_delivered_total",
        "Records that the destination acknowledged.",
    ),
    Metric(
        DELIVERY_REJECTED,
        "counter",
        "{record}",
        (DELIVERY_SIGNAL, DELIVERY_REASON),
        "spanbus_delivery_rejected_total",
        "Records that the destination refused for good.",
    ),
    Metric(
        DELIVERY_DROPPED_RECORDS,
        "counter",
        "{record}",
        (DELIVERY_SIGNAL, DELIVERY_REASON),
        "spanbus_delivery_dropped_total",
        "Records that could not be kept.",
    ),
    Metric(
        DELIVERY_SPOOL_SIZE,
        "gauge",
        "By",
        (),
        "spanbus_delivery_spool_size_bytes",
        "Bytes that wait in the spool.",
    ),
    Metric(
        DELIVERY_OLDEST_AGE,
        "gauge",
        "s",
        (),
        "spanbus_delivery_oldest_age_seconds",
        "Age of the oldest record that waits.",
    ),
    Metric(
        OBSERVE_EVENTS,
        "counter",
        "{event}",
        (OBSERVE_GROUP,),
        "spanbus_observe_events_total",
        "Events that an observer made spans and metrics of.",
    ),
    Metric(
        OBSERVE_LAG,
        "gauge",
        "s",
        (OBSERVE_GROUP,),
        "spanbus_observe_lag_seconds",
        "Age of the newest event that an observer has read; 0 at the head of the stream.",
    ),
    Metric(
        OBSERVE_LOST,
        "counter",
        "{message}",
        (OBSERVE_GROUP,),
        "spanbus_observe_lost_total",
        "Messages that the stream deleted before they were read.",
    ),
    Metric(
        OBSERVE_LATE,
        "counter",
        "{event}",
        (OBSERVE_GROUP,),
        "spanbus_observe_late_total",
        "Events that came after the end of their run had settled, and were left out.",
    ),
    Metric(
        OBSERVE_DOUBLED,
        "counter",
        "{event}",
        (OBSERVE_GROUP,),
        "spanbus_observe_doubled_total",
        "Events that were in the stream already, and were left out.",
    ),
    Metric(
        OBSERVE_BROKEN,
        "counter",
        "{line}",
        (OBSERVE_GROUP,),
        "spanbus_observe_broken_total",
        "Lines of the stream that are no event.",
    ),
    Metric(
        OBSERVE_PARTITIONS,
        "updowncounter",
        "{partition}",
        (OBSERVE_GROUP,),
        "spanbus_observe_partitions",
        "Partitions of the stream that an observer holds; 64 over all observers of a group.",
    ),
    Metric(
        OBSERVE_TAKEOVERS,
        "counter",
        "{takeover}",
        (OBSERVE_GROUP,),
        "spanbus_observe_takeovers_total",
        "Partitions that an observer took from another one.",
    ),
    Metric(
        OBSERVE_READ_AGAIN,
        "counter",
        "{event}",
        (OBSERVE_GROUP,),
        "spanbus_observe_read_again_total",
        "Events of open runs that were read again when a partition was taken.",
    ),
    Metric(
        OBSERVE_KILLED,
        "counter",
        "{run}",
        (OBSERVE_GROUP,),
        "spanbus_observe_killed_total",
        "Runs that were ended as killed because their publisher was gone.",
    ),
    Metric(
        OBSERVE_CHECKPOINT_AGE,
        "gauge",
        "s",
        (OBSERVE_GROUP,),
        "spanbus_observe_checkpoint_age_seconds",
        "Age of the oldest checkpoint among the partitions held: what came since would be told twice.",
    ),
    Metric(
        OBSERVE_CLOCK_OFFSET,
        "gauge",
        "s",
        (OBSERVE_GROUP,),
        "spanbus_observe_clock_offset_seconds",
        "Largest offset of a publisher's clock from the server's, ahead or behind.",
    ),
)
