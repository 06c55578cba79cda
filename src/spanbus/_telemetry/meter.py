"""A meter for observable instruments without the SDK.

Collecting by the SDK's callbacks takes twice the CPU in a service, and importing the SDK delays the start of a command. The
collected data is the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from spanbus._otlp.metrics_data import (
    CUMULATIVE,
    DELTA,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from spanbus._otlp.resource import PlainResource, Scope
from spanbus._semantics import names

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

Number = int | float
Observe = Callable[[], Iterable[tuple[Number, Mapping[str, str]]]]
_Key = tuple[tuple[str, str], ...]


class PlainMeter:
    """Observable instruments of the catalogue. ``counters`` is the temporality of counters."""

    def __init__(self, counters: int = DELTA) -> None:
        self._is_delta = counters == DELTA
        self._observed: list[tuple[names.Metric, Observe]] = []
        self._before: dict[tuple[str, _Key], Number] = {}
        self._began_ns = self._since_ns = time.time_ns()

    def observe(self, metric: names.Metric, read: Observe) -> None:
        """Register ``read`` as the callback of ``metric``."""
        self._observed.append((metric, read))

    def collect(self) -> list[Metric]:
        """Collect all instruments; delta counters since the last collection, cumulative ones since the beginning."""
        at_ns = time.time_ns()
        found: list[Metric] = []
        for metric, read in self._observed:
            is_gauge = metric.instrument == "gauge"
            counts = not is_gauge and metric.instrument != "updowncounter"
            is_delta = counts and self._is_delta
            start_ns = None if is_gauge else self._since_ns if is_delta else self._began_ns
            points: list[NumberDataPoint] = []
            for read_value, attributes in read():
                value = read_value
                if is_delta:
                    key = metric.name, tuple(sorted(attributes.items()))
                    value -= self._before.get(key, 0)
                    self._before[key] = read_value
                points.append(NumberDataPoint(attributes, start_ns, at_ns, value))
            if not points:
                continue
            data = (
                Gauge(points)
                if is_gauge
                else Sum(points, DELTA if is_delta else CUMULATIVE, counts)
            )
            found.append(Metric(metric.name, metric.brief, metric.unit, data))
        self._since_ns = at_ns
        return found


class Source(Protocol):
    """Metrics counted outside the meter: :meth:`take` copies the numbers, :meth:`collect` builds metrics from the copy."""

    def take(self, temporality: int) -> None: ...

    def collect(self, temporality: int) -> Sequence[Metric]: ...


class PlainReader:
    """Collects a meter and the source ``beside`` it; ``durations`` is the temporality of the latter.

    ``exclusive`` blocks measurements while the numbers are copied; ``mark`` then returns the position passed to ``put``.
    """

    def __init__(
        self,
        meter: PlainMeter,
        beside: Source,
        put: Callable[[MetricsData, int | None], None],
        resource: Resource | PlainResource,
        scope: Scope,
        interval_s: float,
        *,
        durations: int = DELTA,
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext,
        mark: Callable[[], int] | None = None,
    ) -> None:
        self._meter, self._beside = meter, beside
        self._put, self._mark, self._exclusive = put, mark, exclusive
        self._resource, self._scope, self._durations = resource, scope, durations
        self._lock = threading.Lock()
        self.interval_s = interval_s

    def export_now(self) -> None:
        """Collect everything and pass it to ``put``. Publishers are blocked only while the numbers are copied."""
        with self._lock:
            with self._exclusive():
                upto = self._mark() if self._mark is not None else None
                self._beside.take(self._durations)
            metrics = [*self._meter.collect(), *self._beside.collect(self._durations)]
            if metrics:
                scope = ScopeMetrics(self._scope, metrics, self._scope.schema_url or "")
                group = ResourceMetrics(self._resource, [scope], self._resource.schema_url)
                self._put(MetricsData([group]), upto)
