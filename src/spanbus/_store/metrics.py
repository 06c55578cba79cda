"""Metric points in the store: deltas accumulate, cumulative series and gauges are replaced by newer points.

A repeated delta is not added again. It repeats when a process writes the store itself and also sends to the backend that serves
it, and when a batch is resent because its answer was lost. Points of one-shot processes (resource attribute
``spanbus.lifetime=run``) are stored without instance, so that all runs of a service are one series, as in the collector's
pipeline; series of services keep their instance.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from spanbus._hash import blake2b
from spanbus._otlp.decode import UNKNOWN_SERVICE, plain
from spanbus._otlp.metrics_data import DELTA
from spanbus._semantics import names
from spanbus._store.schema import LARGEST
from spanbus._store.series import Exemplar, Kind, Series

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import (
        HistogramDataPoint,
        Metric,
        NumberDataPoint,
    )

SERIES_LIMIT = 20_000
SERIES_BYTES_LIMIT = 32 << 20
"""Limit on the bytes of all series in one scrape."""
_ONE_SERIES_BYTES = 64 << 10
_LABEL_CHARS = 1_024
_NAME_CHARS = 256
"""Limits of labels and names, because every scrape renders them."""
_EXEMPLARS_KEPT = 10


class _Kept(Enum):
    NEW = 1
    KNOWN = 2
    LEFT_OUT = 3


class _Point:
    """A point of a series; ``sent`` are the bytes of a delta, to recognize repetitions."""

    __slots__ = (
        "at_ns",
        "attributes",
        "bounds",
        "buckets",
        "count",
        "delta",
        "exemplars",
        "sent",
        "value",
    )

    def __init__(
        self,
        attributes: dict[str, str],
        value: float,
        at_ns: int,
        delta: bool,
        count: int = 0,
        bounds: Sequence[float] = (),
        buckets: Sequence[int] = (),
        exemplars: Sequence[Exemplar] = (),
        sent: bytes = b"",
    ) -> None:
        self.attributes, self.value, self.at_ns, self.delta = attributes, value, at_ns, delta
        self.count, self.bounds, self.buckets = count, list(bounds), list(buckets)
        self.exemplars, self.sent = exemplars, sent


def first_time(connection: sqlite3.Connection, now_s: int, *parts: bytes) -> bool:
    """Remember the digest of these bytes; True the first time."""
    digest = blake2b(
        b"".join(len(part).to_bytes(4, "big") + part for part in parts), digest_size=16
    ).digest()
    return (
        connection.execute(
            "INSERT OR IGNORE INTO seen (digest, stored_at_s) VALUES (?,?)", (digest, now_s)
        ).rowcount
        > 0
    )


def add(connection: sqlite3.Connection, request: ExportMetricsServiceRequest, now_s: int) -> int:
    """Add every point within the caller's transaction; return the number of points left out at the limit of series."""
    room = SERIES_LIMIT - int(connection.execute("SELECT count(*) FROM series").fetchone()[0])
    if room <= 0:  # delete the oldest series of process instances
        oldest = "SELECT id FROM series WHERE instance != '' ORDER BY at_ns LIMIT 1000"
        room += connection.execute(f"DELETE FROM series WHERE id IN ({oldest})").rowcount
    room_bytes = SERIES_BYTES_LIMIT - int(connection.execute(_SCRAPE_BYTES).fetchone()[0])
    left_out = 0
    for group in request.resource_metrics:
        resource = {pair.key: str(plain(pair.value)) for pair in group.resource.attributes}
        one_shot = resource.get(names.LIFETIME) == "run"
        identity = (
            (resource.get("service.name") or UNKNOWN_SERVICE)[:_NAME_CHARS],
            resource.get("service.namespace", "")[:_NAME_CHARS],
            "" if one_shot else resource.get("service.instance.id", "")[:_NAME_CHARS],
        )
        # Without an instance, equal deltas may come from two processes and are no repetition.
        sender = (
            group.resource.SerializeToString(deterministic=True)
            if resource.get("service.instance.id")
            else None
        )
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind, points = _points(metric)
                for point in points:
                    if (
                        point.delta
                        and sender is not None
                        and not first_time(
                            connection,
                            now_s,
                            sender,
                            metric.name.encode("utf-8", "replace"),
                            point.sent,
                        )
                    ):
                        continue
                    size = _scrape_bytes(metric, identity, point)
                    if size > _ONE_SERIES_BYTES:
                        left_out += 1
                        continue
                    fits = room > 0 and size <= room_bytes
                    kept = _keep(connection, metric, kind, identity, point, fits)
                    if kept is _Kept.NEW:
                        room, room_bytes = room - 1, room_bytes - size
                    left_out += kept is _Kept.LEFT_OUT
    return left_out


def _points(metric: Metric) -> tuple[Kind, list[_Point]]:
    match metric.WhichOneof("data"):
        case "sum":
            is_delta = metric.sum.aggregation_temporality == DELTA
            return "counter" if metric.sum.is_monotonic else "gauge", [
                _number(point, is_delta) for point in metric.sum.data_points
            ]
        case "gauge":
            return "gauge", [_number(point, False) for point in metric.gauge.data_points]
        case "histogram":
            is_delta = metric.histogram.aggregation_temporality == DELTA
            return "histogram", [
                _histogram(point, is_delta) for point in metric.histogram.data_points
            ]
        case (
            "exponential_histogram"
        ):  # only count and sum: buckets of two scales cannot be added exactly
            is_delta = metric.exponential_histogram.aggregation_temporality == DELTA
            return "histogram", [
                _Point(
                    _labels(point.attributes),
                    point.sum,
                    point.time_unix_nano,
                    is_delta,
                    point.count,
                    [],
                    [point.count],
                    _exemplars(point.exemplars),
                    _sent(point),
                )
                for point in metric.exponential_histogram.data_points
            ]
        case "summary":
            return "histogram", [
                _Point(
                    _labels(point.attributes),
                    point.sum,
                    point.time_unix_nano,
                    False,
                    point.count,
                    [],
                    [point.count],
                )
                for point in metric.summary.data_points
            ]
        case _:
            return "gauge", []


def _number(point: NumberDataPoint, delta: bool) -> _Point:
    value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
    return _Point(
        _labels(point.attributes),
        value,
        point.time_unix_nano,
        delta,
        exemplars=_exemplars(point.exemplars),
        sent=_sent(point),
    )


def _histogram(point: HistogramDataPoint, delta: bool) -> _Point:
    return _Point(
        _labels(point.attributes),
        point.sum,
        point.time_unix_nano,
        delta,
        point.count,
        list(point.explicit_bounds),
        list(point.bucket_counts) or [point.count],
        _exemplars(point.exemplars),
        _sent(point),
    )


def _sent(point: Message) -> bytes:
    return point.SerializeToString(deterministic=True)


# In a scrape, each bucket is a line with all labels.
_SCRAPE_BYTES = """SELECT coalesce(sum((length(attributes) + length(name) + length(service) + length(namespace) + length(instance) + 64)
    * (3 + length(bounds) - length(replace(bounds, ',', '')))), 0) FROM series"""


def _scrape_bytes(metric: Metric, identity: tuple[str, str, str], point: _Point) -> int:
    labels = sum(len(key) + len(value) + 6 for key, value in point.attributes.items())
    return (labels + len(metric.name) + sum(map(len, identity)) + 64) * (3 + len(point.bounds))


def _labels(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key[:_NAME_CHARS]: _text(plain(pair.value))[:_LABEL_CHARS] for pair in pairs}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _exemplars(found: Iterable[object]) -> list[Exemplar]:
    made: list[Exemplar] = []
    for each in cast("Iterable[Any]", found):
        value = each.as_double if each.WhichOneof("value") == "as_double" else float(each.as_int)
        if len(each.trace_id) == 16 and len(each.span_id) == 8 and value - value == 0:
            at_ns = min(LARGEST, each.time_unix_nano)
            made.append(Exemplar(value, at_ns, each.trace_id.hex(), each.span_id.hex()))
    return made


def _keep(
    connection: sqlite3.Connection,
    metric: Metric,
    kind: Kind,
    identity: tuple[str, str, str],
    point: _Point,
    room: bool,
) -> _Kept:
    attributes = json.dumps(point.attributes, sort_keys=True)
    digest = blake2b(
        "\0".join((metric.name, kind, *identity, attributes)).encode("utf-8", "replace"),
        digest_size=16,
    ).digest()
    at_ns = min(LARGEST, point.at_ns)
    row = connection.execute(
        "SELECT value, count, bounds, buckets, exemplars, at_ns FROM series WHERE digest = ?",
        (digest,),
    ).fetchone()
    if row is None:
        if not room:
            return _Kept.LEFT_OUT
        connection.execute(
            "INSERT INTO series (digest, name, kind, unit, description, service, namespace, instance, attributes, value, count, bounds, buckets, exemplars, at_ns) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                digest,
                metric.name,
                kind,
                metric.unit[:_NAME_CHARS],
                metric.description[:_LABEL_CHARS],
                *identity,
                attributes,
                point.value,
                point.count,
                json.dumps(point.bounds),
                json.dumps(point.buckets),
                json.dumps(point.exemplars[-_EXEMPLARS_KEPT:]),
                at_ns,
            ),
        )
        return _Kept.NEW
    value, count, bounds, buckets, exemplars, known_at_ns = row
    known_buckets, known_bounds = (
        cast("list[int]", json.loads(buckets)),
        cast("list[float]", json.loads(bounds)),
    )
    kept = [*cast("list[object]", json.loads(exemplars)), *point.exemplars][-_EXEMPLARS_KEPT:]
    if point.delta:
        if known_bounds == point.bounds and len(known_buckets) == len(point.buckets):
            summed = [
                before + now for before, now in zip(known_buckets, point.buckets, strict=True)
            ]
        else:  # the bounds changed: count and sum stay right, the buckets restart
            known_bounds, summed = point.bounds, list(point.buckets)
            if summed:
                summed[-1] += count
        new = (
            value + point.value,
            min(LARGEST, count + point.count),
            json.dumps(known_bounds),
            json.dumps(summed),
            json.dumps(kept),
            max(at_ns, known_at_ns),
        )
    elif at_ns >= known_at_ns:
        value = (
            max(value, point.value)
            if kind == "gauge" and metric.unit == "s" and metric.name.endswith(".timestamp")
            else point.value
        )
        new = (
            value,
            point.count,
            json.dumps(point.bounds),
            json.dumps(point.buckets),
            json.dumps(kept),
            at_ns,
        )
    else:
        return _Kept.KNOWN
    connection.execute(
        "UPDATE series SET value=?, count=?, bounds=?, buckets=?, exemplars=?, at_ns=? WHERE digest=?",
        (*new, digest),
    )
    return _Kept.KNOWN


def read(connection: sqlite3.Connection) -> Iterator[Series]:
    """Yield every series in the order of names."""
    rows = connection.execute(
        "SELECT name, kind, unit, description, service, namespace, instance, attributes, value, count, bounds, buckets, exemplars FROM series ORDER BY name, id"
    ).fetchall()
    for *identity, attributes, value, count, bounds, buckets, exemplars in rows:
        yield Series._make(
            (
                *identity,
                json.loads(attributes),
                value,
                count,
                _bounds(bounds),
                tuple(json.loads(buckets)),
                tuple(Exemplar(*each) for each in json.loads(exemplars))
                if exemplars != "[]"
                else (),
            )
        )


@lru_cache(256)
def _bounds(text: str) -> tuple[float, ...]:
    return tuple(json.loads(text))
