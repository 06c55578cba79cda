"""What the page asks: lists of runs, one run as rows, phases over time."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from spanbus.errors import RunNotFound
from spanbus.local.archive import Archive
from spanbus.local.heads import PhasePoint, RunHead
from spanbus.local.waterfall import Stored, detail, stored, waterfall
from spanbus.telemetry.names import FAILED_RESULTS, Result
from spanbus.timestamps import iso

Document = dict[str, object]

_POINTS_LIMIT = 20_000
_POINTS_SHOWN = 60
_RAN = FAILED_RESULTS | {Result.SUCCESS}


class Views:
    """Documents of the page. Every method reads the archive and blocks; none raises for a run that is not there."""

    def __init__(self, archive: Archive, *, jaeger_url: str | None = None) -> None:
        self._archive = archive
        self._jaeger_url = jaeger_url.rstrip("/") if jaeger_url else None

    def runs(
        self, *, workflow: str | None, result: str | None, text: str | None, since_s: int | None, limit: int, offset: int
    ) -> Document:
        since_ns = time.time_ns() - since_s * 10**9 if since_s is not None else None
        found = self._archive.run_heads(workflow=workflow, result=result, text=text, since_ns=since_ns, limit=limit + 1, offset=offset)
        return {"v": 1, "runs": [head.document() for head in found[:limit]], "more": len(found) > limit, "workflows": list(self._archive.workflows())}

    def run(self, run_id: str) -> Document | None:
        head = self._head(run_id)
        if head is None:
            return None
        fall = waterfall(self._spans(head), root=head.span_id)
        jaeger = f"{self._jaeger_url}/trace/{head.trace_id}" if self._jaeger_url else None
        return {"v": 1, "run": head.document(), "jaeger": jaeger, **fall}

    def span(self, run_id: str, span_id: str) -> Document | None:
        head = self._head(run_id)
        if head is None:
            return None
        for each in self._spans(head):
            if each.span.span_id.hex() == span_id:
                return dict(detail(each.span))
        return None

    def traces(self, *, service: str | None, text: str | None, since_s: int | None, limit: int) -> Document:
        since_ns = time.time_ns() - since_s * 10**9 if since_s is not None else None
        found = self._archive.trace_heads(service=service, text=text, since_ns=since_ns, limit=limit + 1)
        return {"v": 1, "traces": [head.document() for head in found[:limit]], "more": len(found) > limit, "services": list(self._archive.services())}

    def trace(self, trace_id: str) -> Document | None:
        """Every span of a trace, whoever sent it; ValueError where the id is none."""
        fall = waterfall(stored(self._archive.trace(_trace_id(trace_id))))
        if not fall["rows"]:
            return None
        jaeger = f"{self._jaeger_url}/trace/{_trace_id(trace_id)}" if self._jaeger_url else None
        return {"v": 1, "trace_id": _trace_id(trace_id), "services": sorted({row["service"] for row in fall["rows"]}), "jaeger": jaeger, **fall}

    def trace_span(self, trace_id: str, span_id: str) -> Document | None:
        for each in stored(self._archive.trace(_trace_id(trace_id))):
            if each.span.span_id.hex() == span_id:
                return dict(detail(each.span))
        return None

    def phases(self, *, since_s: int, workflow: str | None) -> Document:
        points = self._archive.phase_points(since_ns=time.time_ns() - since_s * 10**9, workflow=workflow, limit=_POINTS_LIMIT)
        groups: dict[tuple[str, str], list[PhasePoint]] = {}
        for point in points:
            groups.setdefault((point.workflow, point.phase), []).append(point)
        return {"v": 1, "workflows": list(self._archive.workflows()), "phases": [_phase(key, groups[key]) for key in sorted(groups)]}

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


def _phase(key: tuple[str, str], points: Sequence[PhasePoint]) -> Document:
    ran = [point for point in points if point.result in _RAN]
    failed = [point for point in ran if point.result in FAILED_RESULTS]
    durations = sorted(point.duration_s for point in ran)
    last = failed[-1] if failed else None
    return {
        "workflow": key[0], "phase": key[1], "runs": len(ran), "failures": len(failed), "p50_s": quantile(durations, 0.5), "p95_s": quantile(durations, 0.95),
        "last_failure": {"run_id": last.run_id, "at": iso(last.started_at_ns)} if last is not None else None,
        "points": [[iso(point.started_at_ns), point.duration_s, point.result] for point in points[-_POINTS_SHOWN:]],
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of ordered values, between neighbours in proportion; 0.0 of none."""
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
