"""Documents of the page: lists of runs, one run as rows, phases over time."""

from __future__ import annotations

import re
import statistics
import time

from spanbus._backend.archive import Archive, Shortened
from spanbus._runs.compare import compare
from spanbus._runs.listing import PhasePoint, RunHead
from spanbus._runs.over_time import over_time
from spanbus._runs.tree import Stored, detail, stored, waterfall
from spanbus._semantics import Result
from spanbus.errors import RunNotFound

Document = dict[str, object]

_POINTS_LIMIT = 10_000
_POINTS_SHOWN = 60
_HISTORY_LIMIT = 500
_USUAL_RUNS = 20


class Views:
    """Documents of the page. Every method reads the archive and blocks; a missing run is None, not an error."""

    def __init__(self, archive: Archive, *, jaeger_url: str | None = None) -> None:
        self._archive = archive
        self._jaeger_url = jaeger_url.rstrip("/") if jaeger_url else None

    def runs(
        self,
        *,
        workflow: str | None,
        project: str | None,
        result: str | None,
        text: str | None,
        since_s: int | None,
        limit: int,
        offset: int,
    ) -> Document:
        since_ns = time.time_ns() - since_s * 10**9 if since_s is not None else None
        found = self._archive.run_heads(
            workflow=workflow,
            project=project,
            result=result,
            text=text,
            since_ns=since_ns,
            limit=limit + 1,
            offset=offset,
        )
        shown = found[:limit]
        return {
            "v": 1,
            "runs": [
                {**head.document(), **glance.document()}
                for head, glance in zip(shown, self._archive.glances(shown), strict=True)
            ],
            "more": len(found) > limit,
            "workflows": list(self._archive.workflows()),
            "projects": list(self._archive.projects()),
        }

    def run(self, run_id: str) -> Document | None:
        head = self._head(run_id)
        if head is None:
            return None
        fall = waterfall(self._spans(head), root=head.span_id)
        jaeger = f"{self._jaeger_url}/trace/{head.trace_id}" if self._jaeger_url else None
        [glance] = self._archive.glances((head,))
        run = {**head.document(), **glance.document()}
        return {
            "v": 1,
            "run": run,
            "jaeger": jaeger,
            **self._missing(head.trace_id),
            **fall,
        }

    def span(self, run_id: str, span_id: str) -> Document | None:
        head = self._head(run_id)
        if head is None:
            return None
        for each in self._spans(head):
            if each.span.span_id.hex() == span_id:
                return dict(detail(each.span))
        return None

    def traces(
        self, *, service: str | None, text: str | None, since_s: int | None, limit: int
    ) -> Document:
        since_ns = time.time_ns() - since_s * 10**9 if since_s is not None else None
        found = self._archive.trace_heads(
            service=service, text=text, since_ns=since_ns, limit=limit + 1
        )
        return {
            "v": 1,
            "traces": [head.document() for head in found[:limit]],
            "more": len(found) > limit,
            "services": list(self._archive.services()),
        }

    def trace(self, trace_id: str) -> Document | None:
        """All spans of a trace, of any sender; raises ValueError for an invalid id."""
        fall = waterfall(stored(self._archive.trace(_trace_id(trace_id))))
        if not fall["rows"]:
            return None
        jaeger = f"{self._jaeger_url}/trace/{_trace_id(trace_id)}" if self._jaeger_url else None
        return {
            "v": 1,
            "trace_id": _trace_id(trace_id),
            "services": sorted({row["service"] for row in fall["rows"]}),
            "jaeger": jaeger,
            **self._missing(_trace_id(trace_id)),
            **fall,
        }

    def trace_span(self, trace_id: str, span_id: str) -> Document | None:
        for each in stored(self._archive.trace(_trace_id(trace_id))):
            if each.span.span_id.hex() == span_id:
                return dict(detail(each.span))
        return None

    def phases(self, *, since_s: int, workflow: str | None, project: str | None) -> Document:
        points = self._archive.phase_points(
            since_ns=time.time_ns() - since_s * 10**9,
            workflow=workflow,
            project=project,
            limit=_POINTS_LIMIT + 1,
        )
        more = len(points) > _POINTS_LIMIT
        if more:  # drop the oldest
            points = points[-_POINTS_LIMIT:]
        groups: dict[tuple[str, str, str], list[PhasePoint]] = {}
        for point in points:
            groups.setdefault((point.project, point.workflow, point.phase), []).append(point)
        return {
            "v": 1,
            "workflows": list(self._archive.workflows()),
            "projects": list(self._archive.projects()),
            "phases": [over_time(groups[key], _POINTS_SHOWN) for key in sorted(groups)],
            "more": more,
        }

    def phase(self, *, project: str, workflow: str, phase: str, since_s: int) -> Document | None:
        """History of one phase; None without any."""
        points = self._archive.phase_points(
            since_ns=time.time_ns() - since_s * 10**9,
            workflow=workflow,
            project=project,
            phase=phase,
            limit=_HISTORY_LIMIT,
        )
        return {"v": 1, "phase": over_time(points, _HISTORY_LIMIT)} if points else None

    def usual(self, *, workflow: str, project: str | None) -> Document:
        """Usual durations of a workflow and its phases: medians of the last 20 successful runs, shown for running ones."""
        heads = self._archive.run_heads(
            workflow=workflow, project=project, result=str(Result.SUCCESS), limit=_USUAL_RUNS
        )
        times: dict[str, list[float]] = {}
        for glance in self._archive.glances(heads):
            for mark in glance.phases:
                if mark.result == Result.SUCCESS:
                    times.setdefault(mark.name, []).append(mark.duration_s)
        return {
            "v": 1,
            "runs": len(heads),
            "run_s": statistics.median(head.duration_s for head in heads) if heads else None,
            "phases": {name: statistics.median(found) for name, found in times.items()},
        }

    def diff(self, baseline: str, candidate: str) -> Document | None:
        """Compare two runs as ``spanbus diff`` does; None if one is not stored."""
        heads = self._head(baseline), self._head(candidate)
        if heads[0] is None or heads[1] is None:
            return None
        try:
            before, after = self._archive.run(heads[0]), self._archive.run(heads[1])
        except RunNotFound:  # deleted meanwhile
            return None
        glances = self._archive.glances((heads[0], heads[1]))
        return {
            "v": 1,
            "runs": [
                {**head.document(), **glance.document()}
                for head, glance in zip((heads[0], heads[1]), glances, strict=True)
            ],
            **compare((before,), after).document(),
        }

    def _missing(self, trace_id: str) -> Document:
        """Number of spans that the store deleted; empty for a complete trace."""
        if not isinstance(self._archive, Shortened):
            return {}
        missing = self._archive.missing_spans(trace_id)
        return {"missing": missing} if missing else {}

    def _head(self, run_id: str) -> RunHead | None:
        try:
            return self._archive.run_head(run_id)
        except RunNotFound:
            return None

    def _spans(self, head: RunHead) -> list[Stored]:
        return list(stored(self._archive.trace(head.trace_id)))


def _trace_id(text: str) -> str:
    if len(text) > 32 or re.fullmatch(r"[0-9a-fA-F]+", text, re.ASCII) is None:
        raise ValueError(f"{text[:40]!r} is no trace id")
    return text.lower().rjust(32, "0")
