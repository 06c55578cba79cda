"""A metric reader whose collections become records of the spool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter, ObservableGauge, ObservableUpDownCounter, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, MetricReader, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.metrics.view import Aggregation, ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

_DEFAULT_INTERVAL_MS = 60_000.0
_DELTA, _CUMULATIVE = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE


def temporality(lifetime: Literal["run", "service"], env: Mapping[str, str]) -> dict[type, AggregationTemporality]:
    """Delta for a one-shot process, which exports once and dies; else what the specification's preference says."""
    preference = env.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative").strip().lower()
    monotonic = _DELTA if lifetime == "run" or preference in ("delta", "lowmemory") else _CUMULATIVE
    observed = _DELTA if lifetime == "run" or preference == "delta" else _CUMULATIVE
    return {
        Counter: monotonic, Histogram: monotonic, ObservableCounter: observed,
        UpDownCounter: _CUMULATIVE, ObservableUpDownCounter: _CUMULATIVE, ObservableGauge: _CUMULATIVE,
    }


def aggregation(env: Mapping[str, str]) -> dict[type, Aggregation]:
    """``OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION``."""
    wanted = env.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "").strip().lower()
    return {Histogram: ExponentialBucketHistogramAggregation() if wanted == "base2_exponential_bucket_histogram" else ExplicitBucketHistogramAggregation()}


def exemplar_filter(env: Mapping[str, str]) -> Literal["trace_based", "always_on", "always_off"]:
    """``OTEL_METRICS_EXEMPLAR_FILTER``; what is none of its values is the default."""
    wanted = env.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower()
    return "always_on" if wanted == "always_on" else "always_off" if wanted == "always_off" else "trace_based"


class SpoolMetricReader(MetricReader):
    """Collects when told to, and at the end. ``exclusive`` keeps measurements out while a collection is taken.

    ``mark`` gives the number of what was measured last; a collection is taken together with it.
    """

    def __init__(
        self, take: Callable[[MetricsData, int | None], None], lifetime: Literal["run", "service"], env: Mapping[str, str],
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext, *, mark: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(preferred_temporality=temporality(lifetime, env), preferred_aggregation=aggregation(env))
        self._take = take
        self._exclusive = exclusive
        self._mark = mark
        self._received: MetricsData | None = None
        self._more: tuple[Resource, InstrumentationScope, Callable[[AggregationTemporality], Sequence[Metric]]] | None = None
        self._histograms = temporality(lifetime, env)[Histogram]
        self._lock = threading.Lock()
        try:
            self.interval_s = float(env.get("OTEL_METRIC_EXPORT_INTERVAL") or _DEFAULT_INTERVAL_MS) / 1e3
        except ValueError:
            self.interval_s = _DEFAULT_INTERVAL_MS / 1e3

    def also(self, resource: Resource, scope: InstrumentationScope, collect: Callable[[AggregationTemporality], Sequence[Metric]]) -> None:
        """Histograms that are counted outside the SDK, collected together with what the SDK counts."""
        self._more = resource, scope, collect

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object) -> None:
        del timeout_millis, options
        self._received = metrics_data

    def export_now(self) -> None:
        """Collect and put what was collected."""
        with self._lock:
            with self._exclusive():
                upto = self._mark() if self._mark is not None else None
                self._received = None
                self.collect()
                data, self._received = self._with_more(self._received), None
            if data is not None and data.resource_metrics:
                self._take(data, upto)

    def _with_more(self, data: MetricsData | None) -> MetricsData | None:
        if self._more is None:
            return data
        resource, scope, collect = self._more
        metrics = collect(self._histograms)
        if not metrics:
            return data
        found = list(data.resource_metrics) if data is not None else []
        found.append(ResourceMetrics(resource, [ScopeMetrics(scope, metrics, scope.schema_url or "")], resource.schema_url))
        return MetricsData(found)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        del timeout_millis
        self.export_now()
        return True

    def shutdown(self, timeout_millis: float = 30_000, **options: object) -> None:
        del timeout_millis, options
        self.export_now()
