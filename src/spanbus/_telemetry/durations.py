"""Duration histograms that are counted here, for a meter provider of ours.

The SDK's ``Histogram.record`` makes a measurement, cleans and hashes its attributes and asks for a view at every call. Here
the series is looked up once for each combination of attributes, and a duration then costs a bisection and an addition. What
is collected are the SDK's own data points: explicit buckets, with the last sampled measurement of a bucket as its exemplar,
as the specification's AlignedHistogramBucketExemplarReservoir keeps it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from spanbus._correlation.span_state import SpanState
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.metrics_data import DELTA, Exemplar, Histogram, HistogramDataPoint, Metric
from spanbus._semantics import names
from spanbus._telemetry.span_handle import SpanHandle

ExemplarFilter = Literal["trace_based", "always_on", "always_off"]

_BOUNDS: Final = tuple(names.DURATION_BUCKETS_S)
_BUCKETS: Final = len(_BOUNDS) + 1


class Taken(NamedTuple):
    """The counts of one series at one moment."""

    attributes: Mapping[str, str]
    started_at_ns: int
    number: int
    total_s: float
    counts: tuple[int, ...]
    least_s: float
    most_s: float
    exemplars: Mapping[int, tuple[float, int, int | None, int | None]]
    """By bucket: seconds, when, trace id, span id."""


class Durations:
    """One combination of attributes: seconds by bucket."""

    __slots__ = (
        "_exemplar_filter",
        "_exemplars",
        "_least",
        "_most",
        "attributes",
        "counts",
        "started_at_ns",
        "total_s",
    )

    def __init__(
        self, attributes: Mapping[str, str], exemplar_filter: ExemplarFilter, at_ns: int
    ) -> None:
        self.attributes = attributes
        self._exemplar_filter = exemplar_filter
        self._begin(at_ns)

    def _begin(self, at_ns: int) -> None:
        self.started_at_ns = at_ns
        self.counts = [0] * _BUCKETS
        self.total_s = 0.0
        self._least, self._most = float("inf"), float("-inf")
        self._exemplars: dict[int, tuple[float, int, int | None, int | None]] = {}

    def record(self, seconds: float, of: SpanState) -> None:
        """One duration of a record's span. The caller has the lock of its :class:`DurationHistogram`."""
        bucket = bisect_left(_BOUNDS, seconds)
        self.counts[bucket] += 1
        self.total_s += seconds
        if seconds < self._least:
            self._least = seconds
        if seconds > self._most:
            self._most = seconds
        wanted = self._exemplar_filter
        if wanted == "always_off":
            return
        handle = of.handle
        if not isinstance(handle, SpanHandle):
            if wanted == "always_on":
                self._exemplars[bucket] = seconds, time.time_ns(), None, None
        elif handle.sampled or wanted == "always_on":
            ids = handle.context or of
            self._exemplars[bucket] = seconds, time.time_ns(), ids.trace_id, ids.span_id

    def taken(self, at_ns: int, *, again: bool) -> Taken:
        """The counts until now; with ``again`` the series begins again at zero, as delta temporality has it."""
        taken = Taken(
            self.attributes,
            self.started_at_ns,
            sum(self.counts),
            self.total_s,
            tuple(self.counts),
            self._least,
            self._most,
            self._exemplars,
        )
        self._exemplars = {}
        if again:
            self._begin(at_ns)
        return taken


class DurationHistogram:
    """The series of one metric of the catalogue, collected as the SDK would. Safe from any thread under ``lock``."""

    def __init__(
        self, metric: names.Metric, lock: threading.Lock, exemplar_filter: ExemplarFilter
    ) -> None:
        self._metric = metric
        self._lock = lock
        self._exemplar_filter: ExemplarFilter = exemplar_filter
        self._series: dict[tuple[tuple[str, str], ...], Durations] = {}
        self._taken: tuple[int, list[Taken]] | None = None

    def series(self, attributes: Mapping[str, str]) -> Durations:
        """The series of these attributes; the caller has the lock."""
        key = tuple(sorted(attributes.items()))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Durations(
                dict(attributes), self._exemplar_filter, time.time_ns()
            )
        return found

    def take(self, temporality: int) -> None:
        """Set aside what :meth:`collect` will give; the caller has the lock."""
        again = temporality == DELTA
        at_ns = time.time_ns()
        taken = [one.taken(at_ns, again=again) for one in self._series.values() if any(one.counts)]
        self._taken = at_ns, taken

    def collect(self, temporality: int) -> Sequence[Metric]:
        """The metric, or nothing when nothing was recorded."""
        if self._taken is None:
            with self._lock:
                self.take(temporality)
        assert self._taken is not None
        (at_ns, taken), self._taken = self._taken, None
        if not taken:
            return ()
        metric, points = self._metric, [_point(one, at_ns) for one in taken]
        return (Metric(metric.name, metric.brief, metric.unit, Histogram(points, temporality)),)


def _point(taken: Taken, at_ns: int) -> HistogramDataPoint:
    exemplars = [
        Exemplar({}, seconds, taken_at_ns, span_id, trace_id)
        for _, (seconds, taken_at_ns, trace_id, span_id) in sorted(taken.exemplars.items())
    ]
    return HistogramDataPoint(
        taken.attributes,
        taken.started_at_ns,
        at_ns,
        taken.number,
        taken.total_s,
        taken.counts,
        _BOUNDS,
        taken.least_s,
        taken.most_s,
        exemplars,
    )
