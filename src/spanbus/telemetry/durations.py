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

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

from spanbus.telemetry import names
from spanbus.telemetry.rendering import SpanHandle

ExemplarFilter = Literal["trace_based", "always_on", "always_off"]

_BOUNDS: Final = tuple(names.DURATION_BUCKETS_S)
_BUCKETS: Final = len(_BOUNDS) + 1


class Durations:
    """One combination of attributes: seconds by bucket."""

    __slots__ = ("_exemplar_filter", "_exemplars", "_most", "_least", "attributes", "count", "counts", "started_at_ns", "total_s")

    def __init__(self, attributes: Mapping[str, str], exemplar_filter: ExemplarFilter, at_ns: int) -> None:
        self.attributes = attributes
        self._exemplar_filter = exemplar_filter
        self._begin(at_ns)

    def _begin(self, at_ns: int) -> None:
        self.started_at_ns = at_ns
        self.count = 0
        self.counts = [0] * _BUCKETS
        self.total_s = 0.0
        self._least, self._most = float("inf"), float("-inf")
        self._exemplars: dict[int, tuple[float, int, SpanHandle | None]] = {}

    def record(self, seconds: float, span: SpanHandle | None) -> None:
        """One duration; ``span`` is the span that it is of. The caller has the lock of its :class:`DurationHistogram`."""
        bucket = bisect_left(_BOUNDS, seconds)
        self.counts[bucket] += 1
        self.count += 1
        self.total_s += seconds
        if seconds < self._least:
            self._least = seconds
        if seconds > self._most:
            self._most = seconds
        wanted = self._exemplar_filter
        if wanted == "always_on" or (wanted == "trace_based" and span is not None and span.sampled):
            self._exemplars[bucket] = seconds, time.time_ns(), span

    def point(self, at_ns: int, *, again: bool) -> HistogramDataPoint:
        """The data point until now; with ``again`` the series begins again at zero, as delta temporality has it."""
        exemplars = [
            Exemplar({}, seconds, taken_at_ns, span.span_id if span is not None else None, span.trace_id if span is not None else None)
            for _, (seconds, taken_at_ns, span) in sorted(self._exemplars.items())
        ]
        point = HistogramDataPoint(
            self.attributes, self.started_at_ns, at_ns, self.count, self.total_s, tuple(self.counts), _BOUNDS, self._least, self._most, exemplars
        )
        self._exemplars = {}
        if again:
            self._begin(at_ns)
        return point


class DurationHistogram:
    """The series of one metric of the catalogue, collected as the SDK would. Safe from any thread under ``lock``."""

    def __init__(self, metric: names.Metric, lock: threading.Lock, exemplar_filter: ExemplarFilter) -> None:
        self._metric = metric
        self._lock = lock
        self._exemplar_filter: ExemplarFilter = exemplar_filter
        self._series: dict[tuple[tuple[str, str], ...], Durations] = {}

    def series(self, attributes: Mapping[str, str]) -> Durations:
        """The series of these attributes; the caller has the lock."""
        key = tuple(sorted(attributes.items()))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Durations(dict(attributes), self._exemplar_filter, time.time_ns())
        return found

    def collect(self, temporality: AggregationTemporality) -> Sequence[Metric]:
        """The metric, or nothing when nothing was recorded."""
        again = temporality is AggregationTemporality.DELTA
        with self._lock:
            at_ns = time.time_ns()
            points = [series.point(at_ns, again=again) for series in self._series.values() if series.count]
        if not points:
            return ()
        metric = self._metric
        return (Metric(metric.name, metric.brief, metric.unit, Histogram(points, temporality)),)
