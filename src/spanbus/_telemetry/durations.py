"""Duration histograms without the SDK.

The SDK's ``Histogram.record`` creates a measurement, cleans and hashes its attributes and looks up a view at every call.
Here the series is looked up once for each combination of attributes, and a duration then costs a bisection and an addition.
The collected data points equal the SDK's: explicit buckets, with the last sampled measurement of a bucket as its exemplar
(``AlignedHistogramBucketExemplarReservoir`` of the specification).
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


class Snapshot(NamedTuple):
    """The counts of one series at one time."""

    attributes: Mapping[str, str]
    started_at_ns: int
    number: int
    total_s: float
    counts: tuple[int, ...]
    least_s: float
    most_s: float
    exemplars: Mapping[int, tuple[float, int, int | None, int | None]]
    """By bucket: seconds, Unix nanoseconds, trace id, span id."""


class DurationSeries:
    """The histogram of one combination of attributes."""

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
        self._reset(at_ns)

    def _reset(self, at_ns: int) -> None:
        self.started_at_ns = at_ns
        self.counts = [0] * _BUCKETS
        self.total_s = 0.0
        self._least, self._most = float("inf"), float("-inf")
        self._exemplars: dict[int, tuple[float, int, int | None, int | None]] = {}

    def record(self, seconds: float, of: SpanState) -> None:
        """Record a duration of a span. The caller holds the lock of the :class:`DurationHistogram`."""
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

    def snapshot(self, at_ns: int, *, reset: bool) -> Snapshot:
        """Return the counts; ``reset`` starts the series again at zero, for delta temporality."""
        snapshot = Snapshot(
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
        if reset:
            self._reset(at_ns)
        return snapshot


class DurationHistogram:
    """The series of one metric of the catalogue. Thread-safe by ``lock``, which some callers hold already."""

    def __init__(
        self, metric: names.Metric, lock: threading.Lock, exemplar_filter: ExemplarFilter
    ) -> None:
        self._metric = metric
        self._lock = lock
        self._exemplar_filter: ExemplarFilter = exemplar_filter
        self._series: dict[tuple[tuple[str, str], ...], DurationSeries] = {}
        self._snapshots: tuple[int, list[Snapshot]] | None = None

    def series(self, attributes: Mapping[str, str]) -> DurationSeries:
        """Return the series of these attributes. The caller holds the lock."""
        key = tuple(sorted(attributes.items()))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = DurationSeries(
                dict(attributes), self._exemplar_filter, time.time_ns()
            )
        return found

    def take(self, temporality: int) -> None:
        """Copy the counts for :meth:`collect`. The caller holds the lock."""
        reset = temporality == DELTA
        at_ns = time.time_ns()
        snapshot = [
            one.snapshot(at_ns, reset=reset) for one in self._series.values() if any(one.counts)
        ]
        self._snapshots = at_ns, snapshot

    def collect(self, temporality: int) -> Sequence[Metric]:
        """Return the metric, or nothing if no duration was recorded."""
        if self._snapshots is None:
            with self._lock:
                self.take(temporality)
        assert self._snapshots is not None
        (at_ns, snapshot), self._snapshots = self._snapshots, None
        if not snapshot:
            return ()
        metric, points = self._metric, [_point(one, at_ns) for one in snapshot]
        return (Metric(metric.name, metric.brief, metric.unit, Histogram(points, temporality)),)


def _point(snapshot: Snapshot, at_ns: int) -> HistogramDataPoint:
    exemplars = [
        Exemplar({}, seconds, taken_at_ns, span_id, trace_id)
        for _, (seconds, taken_at_ns, trace_id, span_id) in sorted(snapshot.exemplars.items())
    ]
    return HistogramDataPoint(
        snapshot.attributes,
        snapshot.started_at_ns,
        at_ns,
        snapshot.number,
        snapshot.total_s,
        snapshot.counts,
        _BOUNDS,
        snapshot.least_s,
        snapshot.most_s,
        exemplars,
    )
