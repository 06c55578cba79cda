"""Bounded decoding of a request: unpack, count, parse, and remove records that cannot be stored."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, MutableSequence, Sequence
from itertools import pairwise
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SummaryDataPoint,
)

from spanbus._named_tuple import NamedTuple
from spanbus._otlp import json as otlp_json
from spanbus._otlp.bounds import TooMany, check_json, check_protobuf

M = TypeVar("M", bound=Message)

JSON = "application/json"
_PIECE_BYTES = 1 << 20


_TRACE_ID, _SPAN_ID = (0, 16), (0, 8)
"""Sizes of ids, 0 for none; the protocol treats an id of another size as none."""

_RECORD_BYTES = 2 << 20
"""Largest span or log record with its resource and scope, because queries read it as a whole."""
_TOO_LARGE = "a record with its resource takes at most 2 MiB"


class TooLarge(ValueError):
    """The body is too large to be decoded."""


def unpacked(body: bytes, limit_bytes: int, ratio: int, free_bytes: int) -> bytes:
    """Decompress a gzip or zlib body.

    Raises :class:`TooLarge` above ``limit_bytes`` and, above ``free_bytes``, for more than ``ratio`` times its size. Raises
    ValueError for malformed data.
    """
    limit = min(limit_bytes, max(free_bytes, ratio * len(body)))
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: detect gzip or zlib
    pieces: list[bytes] = []
    size = 0
    try:
        rest = body
        while rest and not unpack.eof:
            piece = unpack.decompress(rest, _PIECE_BYTES)
            size += len(piece)
            if size > limit:
                raise TooLarge(f"the body is larger than {limit} bytes when unpacked")
            pieces.append(piece)
            rest = unpack.unconsumed_tail
    except zlib.error:
        raise ValueError("the body is not what its Content-Encoding says") from None
    if unpack.unused_data:
        raise ValueError("there are bytes behind the end of the compressed body")
    if body and not unpack.eof:
        raise ValueError("the compressed body is cut off")
    return b"".join(pieces)


class Bounds(NamedTuple):
    """Limits on the content of one request."""

    elements: int
    records: int


class Checked(NamedTuple):
    """A request that can be stored, and the number of removed records with the reason."""

    body: bytes
    records: int
    rejected: int
    why: str
    request: Message
    """The decoded ``body``."""


def traces(body: bytes, is_json: bool, bounds: Bounds) -> Checked:
    request = _decode(body, is_json, bounds, ExportTraceServiceRequest())
    _check_count(
        bounds,
        (len(scope.spans) for group in request.resource_spans for scope in group.scope_spans),
    )
    good = bad = 0
    changed = is_json
    is_large, large = len(body) > _RECORD_BYTES, False
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                if len(span.parent_span_id) not in _SPAN_ID:
                    span.ClearField("parent_span_id")
                    changed = True
            wrong = [
                at
                for at, span in enumerate(scope.spans)
                if len(span.trace_id) != 16
                or len(span.span_id) != 8
                or not any(span.trace_id)
                or not any(span.span_id)
            ]
            if is_large:
                found = _oversized(resource.resource, scope.scope, scope.spans)
                wrong = sorted({*wrong, *found})
                large = large or bool(found)
            good += len(scope.spans) - len(wrong)
            bad += len(wrong)
            for at in reversed(wrong):
                del scope.spans[at]
    return Checked(
        request.SerializeToString() if changed or bad else body,
        good,
        bad,
        (_TOO_LARGE if large else "a span needs a trace id of 16 bytes and a span id of 8")
        if bad
        else "",
        request,
    )


def metrics(body: bytes, is_json: bool, bounds: Bounds) -> Checked:
    request = _decode(body, is_json, bounds, ExportMetricsServiceRequest())
    _check_count(
        bounds,
        (
            len(_points(metric))
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
        ),
    )
    good = bad = 0
    whys: set[str] = set()
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                points = _points(metric)
                wrong = [
                    (at, why)
                    for at, point in enumerate(points)
                    if (why := _rejection(metric, kind, point))
                ]
                good += len(points) - len(wrong)
                bad += len(wrong)
                for at, why in reversed(wrong):
                    del points[at]
                    whys.add(why)
    return Checked(
        request.SerializeToString() if is_json or bad else body,
        good,
        bad,
        "; ".join(sorted(whys)),
        request,
    )


_Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint


def _points(metric: Metric) -> MutableSequence[_Point]:
    kind = metric.WhichOneof("data")
    return cast("MutableSequence[_Point]", getattr(metric, kind).data_points) if kind else []


def _rejection(metric: Metric, kind: str | None, point: _Point) -> str | None:
    """Reason that a point cannot be exposed to a scraper; None if it can."""
    if not metric.name:
        return "a metric needs a name"
    if isinstance(point, SummaryDataPoint):
        return "summaries are not stored"
    if isinstance(point, NumberDataPoint):
        if math.isnan(point.as_double):
            return "a value that is no number is not stored"
        if (
            kind == "sum"
            and metric.sum.is_monotonic
            and not (0 <= point.as_double < math.inf and point.as_int >= 0)
        ):
            return "a counter is neither negative nor infinite"
        return None
    if isinstance(point, HistogramDataPoint):
        bounds, counts = point.explicit_bounds, point.bucket_counts
        if not all(low < high for low, high in pairwise((-math.inf, *bounds, math.inf))):
            return "the bounds of a histogram ascend and are finite"
        if (counts or bounds) and len(counts) != len(bounds) + 1:
            return "a histogram has one bucket more than bounds"
        if counts and sum(counts) != point.count:
            return "the buckets of a histogram add up to its count"
    if not math.isfinite(point.sum):
        return "the sum of a histogram is finite"
    if point.count >= 2**53:
        return "a count is at most 2^53"
    return None


def logs(body: bytes, is_json: bool, bounds: Bounds) -> Checked:
    request = _decode(body, is_json, bounds, ExportLogsServiceRequest())
    good = sum(
        len(scope.log_records)
        for resource in request.resource_logs
        for scope in resource.scope_logs
    )
    _check_count(bounds, (good,))
    changed = is_json
    bad = 0
    if len(body) > _RECORD_BYTES:
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for at in reversed(_oversized(resource.resource, scope.scope, scope.log_records)):
                    del scope.log_records[at]
                    bad += 1
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                if len(record.trace_id) not in _TRACE_ID or len(record.span_id) not in _SPAN_ID:
                    record.ClearField("trace_id")
                    record.ClearField("span_id")
                    changed = True
    return Checked(
        request.SerializeToString() if changed or bad else body,
        good - bad,
        bad,
        _TOO_LARGE if bad else "",
        request,
    )


def _oversized(resource: Message, scope: Message, records: Sequence[Message]) -> list[int]:
    """Indexes of records that are too large together with their resource and scope."""
    rest = _RECORD_BYTES - resource.ByteSize() - scope.ByteSize()
    return [at for at, record in enumerate(records) if record.ByteSize() > rest]


def _decode(body: bytes, is_json: bool, bounds: Bounds, message: M) -> M:
    if is_json:
        check_json(body, bounds.elements)
        return otlp_json.read(body, message)
    check_protobuf(body, cast("Descriptor", message.DESCRIPTOR), bounds.elements)
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise ValueError(
            f"the body is not an {message.DESCRIPTOR.name} in protobuf; JSON needs Content-Type: {JSON}, and each signal has its own path"
        ) from None
    return message


def _check_count(bounds: Bounds, counts: Iterable[int]) -> None:
    if sum(counts) > bounds.records:
        raise TooMany(f"the request holds more than {bounds.records} records; send several")
