"""Metric points in the store: deltas accumulate, cumulative series and gauges are replaced by newer points.

A delta that comes again is not added again: the same process may write the store itself and send to the backend that serves
it, and a batch whose answer was lost is sent once more. Points of one-shot processes (resource attribute ``spanbus.lifetime=run``) carry no instance, so that all runs of a service
are one series, as the collector's pipeline makes them; a service's series keep theirs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import cast

from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint

from spanbus.local.series import Exemplar, Kind, Series
from spanbus.local.waterfall import plain
from spanbus.telemetry import names

SERIES_LIMIT = 20_000
"""More than this nobody means; it is what a scrape renders each time."""
_EXEMPLARS_KEPT = 10
_MOST = 2**63 - 1


class _Kept(Enum):
    NEW = 1
    KNOWN = 2
    NOT = 3


@dataclass(slots=True)
class _Point:
    attributes: dict[str, str]
    value: float
    at_ns: int
    delta: bool
    count: int = 0
    bounds: list[float] = field(default_factory=list[float])
    buckets: list[int] = field(default_factory=list[int])
    exemplars: list[Exemplar] = field(default_factory=list[Exemplar])
    sent: bytes = b""
    """A delta as it was sent."""


def first_time(connection: sqlite3.Connection, now_s: int, *parts: bytes) -> bool:
    """Whether these bytes were not stored before; from now on they were."""
    digest = blake2b(b"".join(len(part).to_bytes(4, "big") + part for part in parts), digest_size=16).digest()
    return connection.execute("INSERT OR IGNORE INTO seen (digest, stored_at_s) VALUES (?,?)", (digest, now_s)).rowcount > 0


def add(connection: sqlite3.Connection, request: ExportMetricsServiceRequest, now_s: int) -> int:
    """Add every point, within the caller's transaction; how many were left out because there are too many series already."""
    room = SERIES_LIMIT - int(connection.execute("SELECT count(*) FROM series").fetchone()[0])
    if room <= 0:  # processes that are long gone make place
        oldest = "SELECT id FROM series WHERE instance != '' ORDER BY at_ns LIMIT 1000"
        room += connection.execute(f"DELETE FROM series WHERE id IN ({oldest})").rowcount
    left_out = 0
    for group in request.resource_metrics:
        resource = {pair.key: str(plain(pair.value)) for pair in group.resource.attributes}
        one_shot = resource.get(names.LIFETIME) == "run"
        identity = (
            resource.get("service.name") or "unknown_service", resource.get("service.namespace", ""),
            "" if one_shot else resource.get("service.instance.id", ""),
        )
        # Without an instance two processes may say the same and both be right.
        sender = group.resource.SerializeToString(deterministic=True) if resource.get("service.instance.id") else None
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind, points = _points(metric)
                for point in points:
                    if point.delta and sender is not None and not first_time(connection, now_s, sender, metric.name.encode("utf-8", "replace"), point.sent):
                        continue
                    kept = _keep(connection, metric, kind, identity, point, room > 0)
                    room -= kept is _Kept.NEW
                    left_out += kept is _Kept.NOT
    return left_out


def _points(metric: Metric) -> tuple[Kind, list[_Point]]:
    delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    match metric.WhichOneof("data"):
        case "sum":
            is_delta = metric.sum.aggregation_temporality == delta
            return "counter" if metric.sum.is_monotonic else "gauge", [_number(point, is_delta) for point in metric.sum.data_points]
        case "gauge":
            return "gauge", [_number(point, False) for point in metric.gauge.data_points]
        case "histogram":
            is_delta = metric.histogram.aggregation_temporality == delta
            return "histogram", [_histogram(point, is_delta) for point in metric.histogram.data_points]
        case "exponential_histogram":  # its count and sum; the buckets of two scales cannot be added exactly
            is_delta = metric.exponential_histogram.aggregation_temporality == delta
            return "histogram", [
                _Point(
                    _labels(point.attributes), point.sum, point.time_unix_nano, is_delta, point.count, [], [point.count], _exemplars(point.exemplars), _sent(point),
                )
                for point in metric.exponential_histogram.data_points
            ]
        case "summary":
            return "histogram", [
                _Point(_labels(point.attributes), point.sum, point.time_unix_nano, False, point.count, [], [point.count]) for point in metric.summary.data_points
            ]
        case _:
            return "gauge", []


def _number(point: NumberDataPoint, delta: bool) -> _Point:
    value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
    return _Point(_labels(point.attributes), value, point.time_unix_nano, delta, exemplars=_exemplars(point.exemplars), sent=_sent(point))


def _histogram(point: HistogramDataPoint, delta: bool) -> _Point:
    return _Point(
        _labels(point.attributes), point.sum, point.time_unix_nano, delta, point.count, list(point.explicit_bounds), list(point.bucket_counts) or [point.count],
        _exemplars(point.exemplars), _sent(point),
    )


def _sent(point: Message) -> bytes:
    return point.SerializeToString(deterministic=True)


def _labels(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key: _said(plain(pair.value)) for pair in pairs}


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _exemplars(found: Iterable[object]) -> list[Exemplar]:
    made: list[Exemplar] = []
    for each in found:
        value = each.as_double if each.WhichOneof("value") == "as_double" else float(each.as_int)  # pyright: ignore
        if len(each.trace_id) == 16 and len(each.span_id) == 8 and value - value == 0:  # pyright: ignore
            made.append(Exemplar(value, min(_MOST, each.time_unix_nano), each.trace_id.hex(), each.span_id.hex()))  # pyright: ignore
    return made


def _keep(connection: sqlite3.Connection, metric: Metric, kind: Kind, identity: tuple[str, str, str], point: _Point, room: bool) -> _Kept:
    attributes = json.dumps(point.attributes, sort_keys=True)
    digest = blake2b("\0".join((metric.name, kind, *identity, attributes)).encode("utf-8", "replace"), digest_size=16).digest()
    at_ns = min(_MOST, point.at_ns)
    row = connection.execute("SELECT value, count, bounds, buckets, exemplars, at_ns FROM series WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        if not room:
            return _Kept.NOT
        connection.execute(
            "INSERT INTO series (digest, name, kind, unit, description, service, namespace, instance, attributes, value, count, bounds, buckets, exemplars, at_ns) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                digest, metric.name, kind, metric.unit, metric.description, *identity, attributes, point.value, point.count, json.dumps(point.bounds),
                json.dumps(point.buckets), json.dumps(point.exemplars[-_EXEMPLARS_KEPT:]), at_ns,
            ),
        )
        return _Kept.NEW
    value, count, bounds, buckets, exemplars, known_at_ns = row
    known_buckets, known_bounds = cast("list[int]", json.loads(buckets)), cast("list[float]", json.loads(bounds))
    kept = [*cast("list[object]", json.loads(exemplars)), *point.exemplars][-_EXEMPLARS_KEPT:]
    if point.delta:
        if known_bounds == point.bounds and len(known_buckets) == len(point.buckets):
            summed = [before + now for before, now in zip(known_buckets, point.buckets, strict=True)]
        else:  # other buckets than before: count and sum stay right, the buckets begin anew
            known_bounds, summed = point.bounds, list(point.buckets)
            if summed:
                summed[-1] += count
        new = (value + point.value, min(_MOST, count + point.count), json.dumps(known_bounds), json.dumps(summed), json.dumps(kept), max(at_ns, known_at_ns))
    elif at_ns >= known_at_ns:
        value = max(value, point.value) if kind == "gauge" and metric.unit == "s" and metric.name.endswith(".timestamp") else point.value
        new = (value, point.count, json.dumps(point.bounds), json.dumps(point.buckets), json.dumps(kept), at_ns)
    else:
        return _Kept.KNOWN
    connection.execute("UPDATE series SET value=?, count=?, bounds=?, buckets=?, exemplars=?, at_ns=? WHERE digest=?", (*new, digest))
    return _Kept.KNOWN


def read(connection: sqlite3.Connection) -> list[Series]:
    """Every series in the order of names."""
    rows = connection.execute(
        "SELECT name, kind, unit, description, service, namespace, instance, attributes, value, count, bounds, buckets, exemplars FROM series ORDER BY name, id"
    ).fetchall()
    return [
        Series(
            name, cast("Kind", kind), unit, description, service, namespace, instance, cast("Mapping[str, str]", json.loads(attributes)), value, count,
            tuple(json.loads(bounds)), tuple(json.loads(buckets)), tuple(Exemplar(*each) for each in json.loads(exemplars)),
        )
        for name, kind, unit, description, service, namespace, instance, attributes, value, count, bounds, buckets, exemplars in rows
    ]
