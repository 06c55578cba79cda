"""A metric reader whose collections become records of the spool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricReader,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from spanbus._delivery.metric_settings import export_interval_s, wants_exponential_histograms

_DELTA, _CUMULATIVE = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE


def temporality(
    lifetime: Literal["run", "service"], env: Mapping[str, str]
) -> dict[type, AggregationTemporality]:
    """Delta for a one-shot process, which exports once and dies; else what the specification's preference says."""
    preference = (
        env.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative").strip().lower()
    )
    monotonic = _DELTA if lifetime == "run" or preference in ("delta", "lowmemory") else _CUMULATIVE
    observed = _DELTA if lifetime == "run" or preference == "delta" else _CUMULATIVE
    return {
        Counter: monotonic,
        Histogram: monotonic,
        ObservableCounter: observed,
        UpDownCounter: _CUMULATIVE,
        ObservableUpDownCounter: _CUMULATIVE,
        ObservableGauge: _CUMULATIVE,
    }


def aggregation(env: Mapping[str, str]) -> dict[type, Aggregation]:
    """``OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION``."""
    return {
        Histogram: ExponentialBucketHistogramAggregation()
        if wants_exponential_histograms(env)
        else ExplicitBucketHistogramAggregation()
    }


class Source(Protocol):
    """Counts outside the SDK: :meth:`take` sets the numbers aside at once, :meth:`collect` makes metrics of them."""

    def take(self, temporality: AggregationTemporality) -> None: ...

    def collect(self, temporality: AggregationTemporality) -> Sequence[Metric]: ...


class SpoolMetricReader(MetricReader):
    """Collects when told to, and at the end. ``exclusive`` keeps measurements out while a collection is taken.

    ``mark`` gives the number of what was measured last; a collection is taken together with it.
    """

    def __init__(
        self,
        take: Callable[[MetricsData, int | None], None],
        lifetime: Literal["run", "service"],
        env: Mapping[str, str],
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        mark: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(
            preferred_temporality=temporality(lifetime, env), preferred_aggregation=aggregation(env)
        )
        self._take = take
        self._exclusive = exclusive
        self._mark = mark
        self._received: MetricsData | None = None
        self._more: tuple[Resource, InstrumentationScope, Source] | None = None
        self._histograms = temporality(lifetime, env)[Histogram]
        self.counters = temporality(lifetime, env)[ObservableCounter]
        """Temporality of counters that are observed."""
        self._lock = threading.Lock()
        self.interval_s = export_interval_s(env)

    def also(self, resource: Resource, scope: InstrumentationScope, source: Source) -> None:
        """Histograms that are counted outside the SDK, collected together with what the SDK counts.

        The source's numbers are then set aside while measurements are kept out, and read afterwards, when publishers go on.
        """
        self._more = resource, scope, source

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object
    ) -> None:
        del timeout_millis, options
        self._received = metrics_data

    def export_now(self) -> None:
        """Collect and put what was collected."""
        with self._lock:
            with self._exclusive():
                upto = self._mark() if self._mark is not None else None
                self._received = None
                if self._more is not None:
                    self._more[2].take(self._histograms)
                else:
                    self.collect()
            if self._more is not None:
                self.collect()
            data, self._received = self._with_more(self._received), None
            if data is not None and data.resource_metrics:
                self._take(data, upto)

    def _with_more(self, data: MetricsData | None) -> MetricsData | None:
        if self._more is None:
            return data
        resource, scope, source = self._more
        metrics = source.collect(self._histograms)
        if not metrics:
            return data
        found = list(data.resource_metrics) if data is not None else []
        found.append(
            ResourceMetrics(
                resource,
                [ScopeMetrics(scope, metrics, scope.schema_url or "")],
                resource.schema_url,
            )
        )
        return MetricsData(found)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        del timeout_millis
        self.export_now()
        return True

    def shutdown(self, timeout_millis: float = 30_000, **options: object) -> None:
        del timeout_millis, options
        self.export_now()
