"""Encode metrics directly to the bytes of an OTLP export request."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spanbus._otlp.values import DOUBLE, attributes, field, string, varint

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import export as sdk

    from spanbus._otlp import metrics_data as ours

_F64 = struct.Struct("<Q").pack
_I64 = struct.Struct("<q").pack


def encode_metrics(data: sdk.MetricsData | ours.MetricsData) -> bytes:
    """Return a complete ``ExportMetricsServiceRequest``."""
    request: list[bytes] = []
    for resource_metrics in data.resource_metrics:
        resource = resource_metrics.resource
        body = [field(b"\x0a", attributes(b"\x0a", resource.attributes))]
        for scope_metrics in resource_metrics.scope_metrics:
            scope = scope_metrics.scope
            inner = (
                string(b"\x0a", scope.name)
                + string(b"\x12", scope.version)
                + attributes(b"\x1a", scope.attributes)
            )
            metrics = b"".join(
                [field(b"\x12", _metric(metric)) for metric in scope_metrics.metrics]
            )
            body.append(
                field(b"\x12", field(b"\x0a", inner) + metrics + string(b"\x1a", scope.schema_url))
            )
        body.append(string(b"\x1a", resource.schema_url))
        request.append(field(b"\x0a", b"".join(body)))
    return b"".join(request)


def count_points(data: sdk.MetricsData | ours.MetricsData) -> int:
    """Return the number of data points in a collection."""
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _metric(metric: sdk.Metric | ours.Metric) -> bytes:
    head = (
        string(b"\x0a", metric.name)
        + string(b"\x12", metric.description)
        + string(b"\x1a", metric.unit)
    )
    data: Any = metric.data
    kind = type(data).__name__  # our classes have the names of the SDK's
    if kind == "Gauge":
        return (
            head
            + field(
                b"\x2a", b"".join([field(b"\x0a", _number(point)) for point in data.data_points])
            )
            if data.data_points
            else head
        )
    if not data.data_points:
        return head
    temporality = (
        b"\x10" + varint(int(data.aggregation_temporality)) if data.aggregation_temporality else b""
    )
    if kind == "Sum":
        points = b"".join([field(b"\x0a", _number(point)) for point in data.data_points])
        return head + field(
            b"\x3a", points + temporality + (b"\x18\x01" if data.is_monotonic else b"")
        )
    if kind == "Histogram":
        return head + field(
            b"\x4a",
            b"".join([field(b"\x0a", _histogram(point)) for point in data.data_points])
            + temporality,
        )
    if kind == "ExponentialHistogram":
        return head + field(
            b"\x52",
            b"".join([field(b"\x0a", _exponential(point)) for point in data.data_points])
            + temporality,
        )
    return head


def _time(tag: bytes, at_ns: int | None) -> bytes:
    return tag + _F64(at_ns) if at_ns else b""


def _amount(double: bytes, integer: bytes, value: float) -> bytes:
    return integer + _I64(value) if isinstance(value, int) else double + DOUBLE(value)


def _number(point: Any) -> bytes:
    return (
        _time(b"\x11", point.start_time_unix_nano)
        + _time(b"\x19", point.time_unix_nano)
        + _amount(b"\x21", b"\x31", point.value)
        + _exemplars(b"\x2a", point.exemplars)
        + attributes(b"\x3a", point.attributes)
    )


def _histogram(point: Any) -> bytes:
    buckets = b"".join([_F64(count) for count in point.bucket_counts])
    bounds = b"".join([DOUBLE(bound) for bound in point.explicit_bounds])
    return (
        _time(b"\x11", point.start_time_unix_nano)
        + _time(b"\x19", point.time_unix_nano)
        + _time(b"\x21", point.count)
        + _optional(b"\x29", point.sum)
        + (field(b"\x32", buckets) if buckets else b"")
        + (field(b"\x3a", bounds) if bounds else b"")
        + _exemplars(b"\x42", point.exemplars)
        + attributes(b"\x4a", point.attributes)
        + _optional(b"\x59", point.min)
        + _optional(b"\x61", point.max)
    )


def _exponential(point: Any) -> bytes:
    body = (
        attributes(b"\x0a", point.attributes)
        + _time(b"\x11", point.start_time_unix_nano)
        + _time(b"\x19", point.time_unix_nano)
        + _time(b"\x21", point.count)
        + _optional(b"\x29", point.sum)
    )
    if point.scale:
        body += b"\x30" + _zigzag(point.scale)
    body += _time(b"\x39", point.zero_count)
    for tag, buckets in ((b"\x42", point.positive), (b"\x4a", point.negative)):
        if buckets.bucket_counts:
            inner = b"\x08" + _zigzag(buckets.offset) if buckets.offset else b""
            body += field(
                tag,
                inner
                + field(b"\x12", b"".join([varint(count) for count in buckets.bucket_counts])),
            )
    if point.flags:
        body += b"\x50" + varint(int(point.flags))
    return (
        body
        + _exemplars(b"\x5a", point.exemplars)
        + _optional(b"\x61", point.min)
        + _optional(b"\x69", point.max)
    )


def _optional(tag: bytes, value: float | None) -> bytes:
    return tag + DOUBLE(value) if value is not None else b""


def _exemplars(tag: bytes, exemplars: Iterable[Any] | None) -> bytes:
    if not exemplars:
        return b""
    parts: list[bytes] = []
    for exemplar in exemplars:
        body = _time(b"\x11", exemplar.time_unix_nano) + _amount(b"\x19", b"\x31", exemplar.value)
        if exemplar.span_id is not None and exemplar.trace_id is not None:
            body += (
                b"\x22\x08"
                + exemplar.span_id.to_bytes(8, "big")
                + b"\x2a\x10"
                + exemplar.trace_id.to_bytes(16, "big")
            )
        parts.append(field(tag, body + attributes(b"\x3a", exemplar.filtered_attributes)))
    return b"".join(parts)


def _zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)
