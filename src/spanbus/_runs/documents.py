"""JSON documents of runs, as printed by ``run``, ``show``, ``runs`` and ``replay``.

A phase without a command of its own has ``exit_code``, ``command``, ``output_tail`` and ``log`` of the tool that decided its
result: the first failed tool of its last attempt, otherwise its only tool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spanbus._correlation.limits import CorrelatorState
from spanbus._runs.summary import RunSummary, SpanSummary
from spanbus._semantics import FAILED_RESULTS, Level
from spanbus._timestamps import iso

Document = dict[str, object]
_TOTALS = (
    "events_seen",
    "events_recorded",
    "run_failures",
    "phase_failures",
    "retries",
    "orphan_ends",
    "unmatched_ends",
    "abandoned",
)
Logs = Callable[[str], str | None]
"""Return the file with the whole output of a span, by span id."""


def no_logs(span_id: str) -> str | None:
    """Return None: no output is kept."""
    del span_id
    return None


def head_document(run: RunSummary, logs: Logs = no_logs) -> Document:
    """Return the document of a run without its phases, with the command that failed first."""
    failed = next(
        (phase for phase in run.phases if phase.result in FAILED_RESULTS),
        run.phases[0] if len(run.phases) == 1 else None,
    )
    deciding = _deciding(failed) if failed is not None else None
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "trace_id": run.trace_id,
        "result": run.result,
        "error_type": run.error_type,
        "error": run.message,
        "started_at": iso(run.started_at_ns),
        "duration_s": run.duration_s,
        **_command(deciding, logs),
        **({"missing_spans": run.missing_spans} if run.missing_spans else {}),
    }


def run_document(run: RunSummary, logs: Logs = no_logs) -> Document:
    """Return the document of a run with its phases."""
    phases = [_span_document(phase, run.started_at_ns, logs) for phase in run.phases]
    return {**head_document(run, logs), "phases": phases}


def runs_document(
    runs: Iterable[RunSummary], counts: CorrelatorState, logs: Logs = no_logs
) -> Document:
    """Return the document of ``run --json`` and ``replay --json``."""
    return {
        "runs": [run_document(run, logs) for run in runs],
        "totals": totals_document(counts),
    }


def totals_document(counts: CorrelatorState) -> dict[str, int]:
    """Return the counts over all runs."""
    found = counts._asdict()
    return {name: found[name] for name in _TOTALS}


def _span_document(span: SpanSummary, run_started_at_ns: int, logs: Logs) -> Document:
    document: Document = {
        "name": span.name,
        "result": span.result,
        "error_type": span.error_type,
        "error": span.message,
        "skip_reason": span.skip_reason,
        "attempts": span.attempts,
        "retries": span.retries,
        "start_offset_s": max(0, span.started_at_ns - run_started_at_ns) / 1e9,
        "duration_s": span.duration_s,
        **_command(_deciding(span), logs),
        "span_id": span.span_id,
        "events": span.events,
        "flags": list(span.flags),
        "children": [_span_document(child, run_started_at_ns, logs) for child in span.children],
    }
    if span.kind != Level.PHASE.value:
        document["kind"] = span.kind
    return document


def _command(span: SpanSummary | None, logs: Logs) -> Document:
    return {
        "command": list(span.command) or None if span is not None else None,
        "exit_code": span.exit_code if span is not None else None,
        "output_tail": span.output_tail if span is not None else None,
        "log": logs(span.span_id) if span is not None else None,
    }


def _deciding(span: SpanSummary) -> SpanSummary:
    """Return the tool that decided the result of ``span``, otherwise ``span`` itself."""
    if span.command or not span.children:
        return span
    last = [child for child in span.children if child.kind == Level.ATTEMPT.value][-1:]
    tools = list(_tools(last[0] if last else span))
    failed = [tool for tool in tools if tool.result in (*FAILED_RESULTS, "cancellation")]
    found = failed[:1] or (tools if len(tools) == 1 else [])
    return found[0] if found else span


def _tools(span: SpanSummary) -> Iterator[SpanSummary]:
    for child in span.children:
        if child.kind in (Level.HOOK.value, Level.COMMAND.value):
            yield child
        yield from _tools(child)
