"""The catalogue of all telemetry, as a Markdown page and as data.

``python -m spanbus._telemetry.catalogue`` writes ``docs/telemetry.md``; with ``--check`` it only compares the file.
``spanbus metrics`` prints the catalogue.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from spanbus._named_tuple import NamedTuple
from spanbus._semantics import (
    EVENTS_KEPT_FIRST,
    EVENTS_KEPT_LAST,
    ErrorType,
    Result,
    definitions,
    names,
)
from spanbus._telemetry.redaction import PAYLOAD_KEYS
from spanbus._workflow.events import WorkflowEvent

Document = dict[str, object]


class CatalogueEvent(NamedTuple):
    """A type of bus event. Each becomes a span event (or a log event) of the same name."""

    name: str
    brief: str


class Outcome(NamedTuple):
    """A way to end, as telemetry reports it. ``failure``: counted as a failure."""

    what: str
    result: Result
    status: str
    error_type: str | None
    failure: bool


EVENTS = (
    CatalogueEvent(WorkflowEvent.WORKFLOW_STARTED, "A run begins."),
    CatalogueEvent(
        WorkflowEvent.WORKFLOW_COMPLETED, "A run ends; with `success: false` it failed."
    ),
    CatalogueEvent(
        WorkflowEvent.WORKFLOW_FAILED,
        "A run failed; with `step_id` or `phase`, and no `workflow_id`, that phase did.",
    ),
    CatalogueEvent(WorkflowEvent.WORKFLOW_INTERRUPTED, "A run was cancelled."),
    CatalogueEvent(WorkflowEvent.WORKFLOW_SESSION_INITIALIZING, "An engine prepares its session."),
    CatalogueEvent(WorkflowEvent.WORKFLOW_SESSION_READY, "The session is ready."),
    CatalogueEvent(WorkflowEvent.PHASE_STARTED, "A phase begins."),
    CatalogueEvent(WorkflowEvent.PHASE_COMPLETED, "A phase succeeded."),
    CatalogueEvent(WorkflowEvent.PHASE_FAILED, "A phase failed in all its attempts."),
    CatalogueEvent(WorkflowEvent.PHASE_SKIPPED, "A phase did not run; `reason` has the reason."),
    CatalogueEvent(WorkflowEvent.PHASE_CANCELLED, "A phase was cancelled."),
    CatalogueEvent(
        WorkflowEvent.PHASE_RETRYING, "An attempt failed; the next begins after `delay` seconds."
    ),
    CatalogueEvent(WorkflowEvent.CONFIG_PHASE_STARTED, "The configuration step begins."),
    CatalogueEvent(WorkflowEvent.CONFIG_PHASE_COMPLETED, "The configuration step ends."),
    CatalogueEvent(
        WorkflowEvent.QUALITY_PHASE_STARTED,
        "`run_code_cleaning` or `run_test_workflow` begins, or an engine's quality step.",
    ),
    CatalogueEvent(WorkflowEvent.QUALITY_PHASE_COMPLETED, "The quality step ends."),
    CatalogueEvent(WorkflowEvent.PUBLISH_PHASE_STARTED, "The publishing step begins."),
    CatalogueEvent(WorkflowEvent.PUBLISH_PHASE_COMPLETED, "The publishing step ends."),
    CatalogueEvent(WorkflowEvent.COMMIT_PHASE_STARTED, "The commit step begins."),
    CatalogueEvent(WorkflowEvent.COMMIT_PHASE_COMPLETED, "The commit step ends."),
    CatalogueEvent(
        WorkflowEvent.HOOK_STRATEGY_STARTED,
        "`run_fast_hooks` or `run_comprehensive_hooks` begins, or an engine's strategy.",
    ),
    CatalogueEvent(WorkflowEvent.HOOK_STRATEGY_COMPLETED, "The strategy succeeded."),
    CatalogueEvent(WorkflowEvent.HOOK_STRATEGY_FAILED, "The strategy failed."),
    CatalogueEvent(WorkflowEvent.HOOK_EXECUTION_STARTED, "One hook begins."),
    CatalogueEvent(
        WorkflowEvent.HOOK_EXECUTION_COMPLETED, "One hook ends; `status` has its result."
    ),
    CatalogueEvent(WorkflowEvent.HOOK_EXECUTION_FAILED, "One hook failed."),
)

OUTCOMES = (
    Outcome("It returned success", Result.SUCCESS, "unset", None, False),
    Outcome(
        "It raised an exception",
        Result.FAILURE,
        "ERROR, with the message",
        "the fully qualified class name if known, else `_OTHER`",
        True,
    ),
    Outcome(
        "It returned false, or an exit code other than 0",
        Result.FAILURE,
        "ERROR",
        f"`{ErrorType.UNSUCCESSFUL}`",
        True,
    ),
    Outcome("It timed out", Result.TIMEOUT, "ERROR", f"`{ErrorType.TIMEOUT}`", True),
    Outcome(
        "It was cancelled: Ctrl-C, `workflow.interrupted`",
        Result.CANCELLATION,
        "unset",
        None,
        False,
    ),
    Outcome("It was skipped", Result.SKIP, "unset", None, False),
    Outcome(
        "The process died with it open, or it had no end event",
        Result.ERROR,
        "ERROR",
        f"`{ErrorType.KILLED}`, `{ErrorType.TERMINATED}`, `{ErrorType.ABANDONED}`",
        True,
    ),
    Outcome(
        "It failed, then succeeded on a retry",
        Result.SUCCESS,
        "unset; the attempts that failed are ERROR",
        None,
        False,
    ),
)

ALERT = """\
sum by (job, cicd_pipeline_name, cicd_pipeline_task_name) (
    (last_over_time(spanbus_phase_failures_total[15m]) - last_over_time(spanbus_phase_failures_total[135m] offset 15m)) >= 0
  or
    last_over_time(spanbus_phase_failures_total[15m])
) > 0"""

_PAGE = Path("docs") / "telemetry.md"
_GENERATED = "<!-- Generated by `python -m spanbus._telemetry.catalogue`; change src/spanbus/_semantics/names.py and run it again. -->"


def document() -> Document:
    """Return the catalogue as plain data for JSON."""
    return {
        "schema_url": names.SCHEMA_URL,
        "scope": names.SCOPE,
        "spans": [
            {
                "level": span.level.value,
                "name": span.name,
                "kind": span.kind,
                "description": span.brief,
            }
            for span in definitions.SPANS
        ],
        "events": [{"name": str(event.name), "description": event.brief} for event in EVENTS]
        + [{"name": "exception", "description": _EXCEPTION}],
        "attributes": [
            {
                "name": attribute.name,
                "type": attribute.kind,
                "on": attribute.on,
                "description": attribute.brief,
            }
            for attribute in definitions.ATTRIBUTES
        ],
        "metrics": [
            {
                "name": metric.name,
                "instrument": metric.instrument,
                "unit": metric.unit,
                "attributes": list(metric.attributes),
                "prometheus": metric.prometheus,
                "description": metric.brief,
                **(
                    {"buckets": list(names.DURATION_BUCKETS_S)}
                    if metric.instrument == "histogram"
                    else {}
                ),
            }
            for metric in names.METRICS
        ],
        "results": [
            {
                "when": row.what,
                "result": row.result.value,
                "status": row.status,
                "error_type": row.error_type,
                "failure": row.failure,
            }
            for row in OUTCOMES
        ],
        "payload_keys": sorted(PAYLOAD_KEYS),
        "limits": {name: value for name, value, _ in _LIMITS},
    }


_EXCEPTION = "The exception of a failure, once, on the innermost span that it failed."
_LIMITS: tuple[tuple[str, int, str], ...] = (
    (
        "events_kept_first",
        EVENTS_KEPT_FIRST,
        "Events of a span that are kept from its beginning.",
    ),
    (
        "events_kept_last",
        EVENTS_KEPT_LAST,
        "Events of a span that are kept from its end. The others are counted by type on the span and in `spanbus.events`.",
    ),
    ("string_characters", names.STRING_LIMIT, "Characters of a string."),
    (
        "error_text_characters",
        names.ERROR_TEXT_LIMIT,
        "Characters of an error's text and of the tail of an output; a traceback may have four times as many.",
    ),
    ("event_attributes", names.EVENT_ATTRIBUTES_LIMIT, "Attributes from the payload of one event."),
    (
        "metric_names",
        names.NAMES_LIMIT,
        "Different names of workflows, phases, task types, error types and event types in metrics; further names become `_OTHER`.",
    ),
)


def markdown() -> str:
    """Return the page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterable[str]:
    yield "# Telemetry"
    yield ""
    yield _GENERATED
    yield ""
    yield (
        "All spans, events, attributes and metrics of spanbus; `spanbus metrics` prints the same. Names of `cicd.*`, `error.*`, `exception.*` and `process.*` are those of the"
        f" OpenTelemetry semantic conventions ({names.SCHEMA_URL}); the rest begins with `spanbus.`. The instrumentation scope is `{names.SCOPE}`."
    )
    yield ""
    yield "## Spans"
    yield ""
    yield from _table(
        ("Level", "Name", "Kind", "Meaning"),
        (
            (f"`{span.level}`", f"`{span.name}`", span.kind, span.brief)
            for span in definitions.SPANS
        ),
    )
    yield ""
    yield (
        "A phase's parent is its run. Links lead to the phases that it needs (`depends_on`), to the previous attempt (`retry_of`) and to the run that is repeated (`rerun_of`)."
        " Trace and span ids are hashes of run id, phase and attempt, so that a replay of the same events gives the same trace. Where the application has set a"
        " TracerProvider, that provider chooses them."
    )
    yield ""
    yield "## Results"
    yield ""
    yield from _table(
        ("What happened", "Result", "Span status", "`error.type`", "Counted as a failure"),
        (
            (
                row.what,
                f"`{row.result}`",
                row.status,
                row.error_type or "–",
                "yes" if row.failure else "no",
            )
            for row in OUTCOMES
        ),
    )
    yield ""
    yield (
        "The result is in `cicd.pipeline.result` of a run, `cicd.pipeline.task.run.result` of a phase or attempt and `spanbus.hook.result` of a strategy, hook"
        " or command. A failure is counted once, however often it is published. A hook's failure counts as its phase's and not separately."
    )
    yield ""
    yield "## Events"
    yield ""
    yield (
        "Every bus event is a span event on the innermost open span that it belongs to, with the event's own name and time. `SPANBUS_EVENTS=log` makes log"
        " events instead; `both` makes both. Events of a foreign bus keep their own names. An event carries `spanbus.event.id`, `spanbus.event.source` and, as"
        " `spanbus.payload.*`, these keys of its payload, nested keys with dots, values redacted:"
    )
    yield ""
    yield (
        ", ".join(f"`{key}`" for key in sorted(PAYLOAD_KEYS))
        + "; the setting `payload_allow` adds more."
    )
    yield ""
    yield from _table(
        ("Event", "Meaning"),
        (
            (f"`{event.name}`", event.brief)
            for event in (*EVENTS, CatalogueEvent("exception", _EXCEPTION))
        ),
    )
    yield ""
    yield (
        "`OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=logs` makes the exception a log event instead of a span event; `logs/dup` makes both."
    )
    yield ""
    yield "## Attributes"
    yield ""
    yield from _table(
        ("Attribute", "Type", "On", "Meaning"),
        ((f"`{one.name}`", one.kind, one.on, one.brief) for one in definitions.ATTRIBUTES),
    )
    yield ""
    yield "## Metrics"
    yield ""
    yield from _table(
        ("Metric", "Instrument", "Unit", "Attributes", "Meaning"),
        (
            (
                f"`{one.name}`",
                one.instrument,
                f"`{one.unit}`",
                ", ".join(f"`{name}`" for name in one.attributes) or "–",
                one.brief,
            )
            for one in names.METRICS
        ),
    )
    yield ""
    yield (
        "The run's id is never an attribute of a metric. Durations are measured on the monotonic clock if the publisher provides it. Their buckets are, in"
        f" seconds, {', '.join(f'{bucket:g}' for bucket in names.DURATION_BUCKETS_S)};"
        " `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=base2_exponential_bucket_histogram` makes them exponential. Each point has the trace of a"
        " phase or run as its exemplar."
    )
    yield ""
    yield (
        f"A process that lives for one run exports delta temporality under the resource attribute `{names.LIFETIME}=run`; a long-lived process keeps the SDK's"
        " default and its `service.instance.id`. `SPANBUS_LIFETIME` sets the lifetime explicitly."
    )
    yield ""
    yield "## In Prometheus"
    yield ""
    yield from _table(
        ("Metric", "Series"),
        (
            (
                f"`{one.name}`",
                f"`{one.prometheus}`"
                + (" with `_bucket`, `_sum`, `_count`" if one.instrument == "histogram" else ""),
            )
            for one in names.METRICS
        ),
    )
    yield ""
    yield (
        "Attributes become labels with `_` for every dot: `cicd_pipeline_task_name`. The first value of a short-lived process' counter is invisible to"
        " `increase()`, so query the difference instead. This is every phase that failed in the last quarter of an hour, in whole numbers:"
    )
    yield ""
    yield "```promql"
    yield ALERT
    yield "```"
    yield ""
    yield "## What `spanbus doctor` sends"
    yield ""
    yield (
        f"It sends a trace of one span `{names.DOCTOR_SPAN}`, three points of the counter `{names.DOCTOR_POINTS}` (`{names.DOCTOR_POINTS_PROMETHEUS}`), and, if log events are"
        f" on, one log record, all with `service.name={names.DOCTOR_SERVICE}`. They are in no number above."
    )
    yield ""
    yield "## Limits"
    yield ""
    yield from _table(
        ("Limit", "Value", "Meaning"),
        ((f"`{name}`", f"{value:,}", brief) for name, value, brief in _LIMITS),
    )
    yield ""
    yield "The `OTEL_*_LIMIT` variables of the SDK apply on top of these."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |".replace("|  |", "| |")
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it with ``--check``; return 1 if it differs."""
    page = markdown()
    if "--check" in arguments:
        if _PAGE.is_file() and _PAGE.read_text(encoding="utf-8") == page:
            return 0
        sys.stderr.write(
            f"{_PAGE} is not what the catalogue says; run python -m spanbus._telemetry.catalogue\n"
        )
        return 1
    _PAGE.parent.mkdir(exist_ok=True)
    _PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
