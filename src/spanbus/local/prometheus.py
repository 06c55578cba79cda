"""Stored metrics for a Prometheus scraper, with the names, labels and values that the collector's exporter would give.

Attribute names become labels with underscores, ``service.name`` becomes ``job`` and ``service.instance.id`` ``instance``
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/). Points of one-shot processes were
accumulated by the store, as ``delta_to_cumulative`` does in the collector. Exemplars are given in OpenMetrics only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, cast

from prometheus_client import Metric as Family
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString  # pyright: ignore[reportUnknownVariableType] - untyped

from spanbus.local.series import Exemplar, Kind, Series, SeriesSource
from spanbus.telemetry import names

_CATALOGUE = {metric.name: metric for metric in names.METRICS}
_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_RESERVED = frozenset({"job", "instance", "le"})
_NOT_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes", "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes",
    "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams", "Cel": "celsius", "Hz": "hertz", "%": "percent",
}


class _Families(NamedTuple):
    """What prometheus_client's writers take for a registry."""

    families: list[Family]

    def collect(self) -> Iterator[Family]:
        return iter(self.families)


class Exposition:
    """Renders the text of ``/metrics``. ``own`` gives counters of the backend itself, by name without ``_total``."""

    def __init__(self, source: SeriesSource, own: Callable[[], Mapping[str, float]] | None = None) -> None:
        self._source = source
        self._own = own

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Body and media type: OpenMetrics 1.0.0 where the scraper takes it, else the text format 0.0.4."""
        registry = _Families(families(self._source.metric_series()))
        if self._own is not None:
            for name, value in self._own().items():
                family = Family(name, "Count since the start of this backend.", "counter")
                family.samples.append(Sample(f"{name}_total", {}, value))
                registry.families.append(family)
        if "application/openmetrics-text" in accept:
            body = cast("bytes", openmetrics_exposition.generate_latest(registry))  # pyright: ignore[reportUnknownMemberType] - untyped
            return body, "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return exposition.generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8"


def metric_name(name: str, unit: str, kind: Kind) -> str:
    """The Prometheus name of an OTel instrument, ``_total`` left out: the catalogue's, or by the rules of the specification."""
    known = _CATALOGUE.get(name)
    if known is not None:
        return known.prometheus.removesuffix("_total") if kind == "counter" else known.prometheus
    made = re.sub(r"_+", "_", _NOT_A_NAME.sub("_", name)).strip("_") or "_"
    if made[0].isdigit():
        made = f"_{made}"
    words = "" if unit.startswith("{") else _unit_words(unit)
    if words and not made.endswith(words):
        made = f"{made}_{words}"
    if kind == "gauge" and unit == "1" and not made.endswith("ratio"):
        made = f"{made}_ratio"
    return made.removesuffix("_total")


def _unit_words(unit: str) -> str:
    if unit in ("", "1"):
        return ""
    head, slash, per = unit.partition("/")
    words = _UNITS.get(head, _NOT_A_LABEL.sub("_", head).strip("_") if not head.startswith("{") else "")
    if slash and per:
        single = {"s": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}.get(per, _NOT_A_LABEL.sub("_", per).strip("_"))
        words = f"{words}_per_{single}" if words else f"per_{single}"
    return words


def labels(series: Series) -> dict[str, str]:
    """The labels of a series; attributes whose names fall together are joined with ``;``, as the specification says."""
    found: dict[str, str] = {}
    for key in sorted(series.attributes):
        name = _NOT_A_LABEL.sub("_", key) or "_"
        if name[0].isdigit():
            name = f"key_{name}"
        elif name.startswith("__"):
            name = f"key{name}"
        elif name in _RESERVED:
            name = f"exported_{name}"
        if not series.attributes[key]:  # to Prometheus the same as none
            continue
        found[name] = f"{found[name]};{series.attributes[key]}" if name in found else series.attributes[key]
    found["job"] = f"{series.namespace}/{series.service}" if series.namespace else series.service
    if series.instance:
        found["instance"] = series.instance
    return found


def families(all_series: Iterable[Series]) -> list[Family]:
    """The series as families, one name once; a name that two kinds claim belongs to the first."""
    made: dict[str, Family] = {}
    shown: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for series in all_series:
        name = metric_name(series.name, series.unit, series.kind)
        family = made.get(name)
        if family is None:
            family = made[name] = Family(name, series.description, series.kind)
        elif family.type != series.kind:
            continue
        tags = labels(series)
        key = (name, frozenset(tags.items()))
        if key not in shown:  # a scraper takes each series once
            shown.add(key)
            _add(family, name, tags, series)
    return list(made.values())


def _add(family: Family, name: str, tags: dict[str, str], series: Series) -> None:
    if series.kind == "gauge":
        family.samples.append(Sample(name, tags, series.value))
        return
    if series.kind == "counter":
        exemplar = _exemplar(series.exemplars[-1]) if series.exemplars else None
        family.samples.append(Sample(f"{name}_total", tags, series.value, None, exemplar))
        return
    total, lower = 0, float("-inf")
    for bound, count in zip((*series.bounds, float("inf")), series.buckets, strict=False):
        total += count
        within = [each for each in series.exemplars if lower < each.value <= bound]
        exemplar = _exemplar(within[-1]) if within else None
        family.samples.append(Sample(f"{name}_bucket", {**tags, "le": floatToGoString(bound)}, total, None, exemplar))
        lower = bound
    # What can be negative has no sum, for it would be no counter, and without it no count; the last bucket has that number
    # (https://prometheus.io/docs/specs/om/open_metrics_spec/#histogram-1).
    if series.value >= 0:
        family.samples.append(Sample(f"{name}_count", tags, series.count))
        family.samples.append(Sample(f"{name}_sum", tags, series.value))


def _exemplar(found: Exemplar) -> ClientExemplar:
    return ClientExemplar({"trace_id": found.trace_id, "span_id": found.span_id}, found.value, found.at_ns / 1e9)
