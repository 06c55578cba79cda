"""Stored time series, as read from the store and rendered for a scraper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from spanbus._named_tuple import NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Exemplar(NamedTuple):
    """One measurement with its trace."""

    value: float
    at_ns: int
    trace_id: str
    span_id: str


class Series(NamedTuple):
    """One stored time series, accumulated. ``labels`` are OTel attributes; buckets are counts per bucket, not cumulative."""

    name: str
    kind: Kind
    unit: str
    description: str
    service: str
    namespace: str
    instance: str
    attributes: Mapping[str, str]
    value: float = 0.0
    count: int = 0  # pyright: ignore[reportIncompatibleMethodOverride] - nobody counts the fields of a tuple
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()


class SeriesSource(Protocol):
    """Source of the series: the store."""

    def metric_series(self) -> Iterable[Series]: ...
