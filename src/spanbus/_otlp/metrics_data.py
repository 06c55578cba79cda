"""Collected metrics with the attributes that our encoder reads, named as in the SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.resource import PlainResource, Scope

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

CUMULATIVE, DELTA = 2, 1
"""``AggregationTemporality`` of OTLP; equal to the SDK's enum members."""


class Exemplar(NamedTuple):
    filtered_attributes: Mapping[str, str]
    value: float
    time_unix_nano: int
    span_id: int | None
    trace_id: int | None


class NumberDataPoint(NamedTuple):
    attributes: Mapping[str, str]
    start_time_unix_nano: int | None
    time_unix_nano: int
    value: float
    exemplars: Sequence[Exemplar] = ()


class HistogramDataPoint(NamedTuple):
    attributes: Mapping[str, str]
    start_time_unix_nano: int
    time_unix_nano: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - the name that the SDK has
    sum: float
    bucket_counts: Sequence[int]
    explicit_bounds: Sequence[float]
    min: float
    max: float
    exemplars: Sequence[Exemplar]


class Sum(NamedTuple):
    data_points: Sequence[NumberDataPoint]
    aggregation_temporality: int
    is_monotonic: bool


class Gauge(NamedTuple):
    data_points: Sequence[NumberDataPoint]


class Histogram(NamedTuple):
    data_points: Sequence[HistogramDataPoint]
    aggregation_temporality: int


class Metric(NamedTuple):
    name: str
    description: str | None
    unit: str | None
    data: Sum | Gauge | Histogram


class ScopeMetrics(NamedTuple):
    scope: Scope
    metrics: Sequence[Metric]
    schema_url: str


class ResourceMetrics(NamedTuple):
    resource: Resource | PlainResource
    scope_metrics: Sequence[ScopeMetrics]
    schema_url: str


class MetricsData(NamedTuple):
    resource_metrics: Sequence[ResourceMetrics]
