"""Metric reader that puts collections into the spool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

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
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)

from spanbus._delivery.metric_settings import (
    export_interval_s,
    temporalities,
    wants_exponential_histograms,
)

_CUMULATIVE = AggregationTemporality.CUMULATIVE


def temporality(
    lifetime: Literal["run", "service"], env: Mapping[str, str]
) -> dict[type, AggregationTemporality]:
    """:func:`~spanbus._delivery.metric_settings.temporalities` by the SDK's instrument classes."""
    monotonic, observed = map(AggregationTemporality, temporalities(lifetime, env))
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


class SpoolMetricReader(MetricReader):
    """Collects on :meth:`export_now` and at shutdown. ``exclusive`` blocks measurements during a collection.

    ``mark`` returns the last measured number, which is put together with the collection.
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
        self._lock = threading.Lock()
        self.interval_s = export_interval_s(env)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object
    ) -> None:
        del timeout_millis, options
        self._received = metrics_data

    def export_now(self) -> None:
        """Collect, and put the collection."""
        with self._lock:
            with self._exclusive():
                upto = self._mark() if self._mark is not None else None
                self._received = None
                self.collect()
            data, self._received = self._received, None
            if data is not None and data.resource_metrics:
                self._take(data, upto)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        del timeout_millis
        self.export_now()
        return True

    def shutdown(self, timeout_millis: float = 30_000, **options: object) -> None:
        del timeout_millis, options
        self.export_now()
