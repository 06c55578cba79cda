"""Statistics of one phase over time: runs, failures, flaky runs, duration and its trend."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from spanbus._runs.compare import Thresholds
from spanbus._runs.listing import PhasePoint
from spanbus._semantics import FAILED_RESULTS, Result
from spanbus._timestamps import iso

_RAN = FAILED_RESULTS | {Result.SUCCESS}
_FEWEST = 8
"""Minimum number of successes for a trend."""


def over_time(points: Sequence[PhasePoint], most: int) -> dict[str, object]:
    """Return the document of a phase from at least one point, oldest first. It lists the newest ``most`` points."""
    ran = [point for point in points if point.result in _RAN]
    failed = [point for point in ran if point.result in FAILED_RESULTS]
    durations = sorted(point.duration_s for point in ran)
    last = failed[-1] if failed else None
    return {
        "project": points[-1].project,
        "workflow": points[-1].workflow,
        "phase": points[-1].phase,
        "runs": len(ran),
        "failures": len(failed),
        "flaky": sum(passed_on_retry(point) for point in ran),
        "p50_s": quantile(durations, 0.5),
        "p95_s": quantile(durations, 0.95),
        "trend": trend([point.duration_s for point in ran if point.result == Result.SUCCESS]),
        "last_failure": {"run_id": last.run_id, "at": iso(last.started_at_ns)}
        if last is not None
        else None,
        "points": [
            [
                iso(point.started_at_ns),
                point.duration_s,
                point.result,
                point.run_id,
                point.attempts,
            ]
            for point in points[-most:]
        ],
    }


def passed_on_retry(point: PhasePoint) -> bool:
    """Whether the phase failed, then passed in the same run."""
    return point.result == Result.SUCCESS and point.attempts > 1


def trend(seconds: Sequence[float]) -> float | None:
    """Return the relative change of the median duration from the first to the second half of successes.

    None if there are too few, or if the change is below the thresholds of ``spanbus diff``.
    """
    if len(seconds) < _FEWEST:
        return None
    half = len(seconds) // 2
    before, after = statistics.median(seconds[:half]), statistics.median(seconds[half:])
    deviation = 1.4826 * statistics.median([abs(each - before) for each in seconds[:half]])
    noise = 1.2533 * deviation / math.sqrt(half)  # the standard error of a median
    limits = Thresholds()
    margin = max(before * limits.slower_by, limits.at_least_s, noise * limits.noise_factor)
    return round(after / before - 1, 4) if before > 0 and abs(after - before) > margin else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values by linear interpolation; 0.0 if there are none."""
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
