"""Exposition of stored metrics to Prometheus, with the names, labels and values of the collector's exporter.

Attribute names become labels with underscores, ``service.name`` becomes ``job`` and ``service.instance.id`` ``instance``
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/). The store has accumulated the points of
one-shot processes, as ``delta_to_cumulative`` does in the collector. Exemplars exist only in OpenMetrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from spanbus._semantics import names
from spanbus._store.series import Exemplar, Kind, Series, SeriesSource

_CATALOGUE = {metric.name: metric for metric in names.METRICS}
_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_RESERVED = frozenset({"job", "instance", "le"})
_NOT_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}


class Exposition:
    """Renderer of ``/metrics``. ``own`` returns counters of the backend itself, by name without ``_total``."""

    def __init__(
        self, source: SeriesSource, own: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        self._source = source
        self._own = own

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return body and media type: OpenMetrics 1.0.0 if the scraper accepts it, else the text format 0.0.4."""
        is_open = "application/openmetrics-text" in accept
        families = _Families(is_open)
        for series in self._source.metric_series():
            families.add(series)
        own = "".join(
            _head(name, "counter", "Count since the start of this backend.", is_open)
            + f"{name}_total {number(value)}\n"
            for name, value in (self._own().items() if self._own is not None else ())
        )
        end, media_type = (
            ("# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            if is_open
            else ("", "text/plain; version=0.0.4; charset=utf-8")
        )
        return b"".join((*families.texts(), own.encode(), end.encode())), media_type


class _Families:
    """Metric families as text in either format; a name claimed by two kinds belongs to the first.

    Text is written directly: with a library, ten thousand series take seconds and hundreds of megabytes.
    """

    def __init__(self, is_open: bool) -> None:
        self._is_open = is_open
        self._texts: dict[str, tuple[Kind, list[bytes]]] = {}
        self._shown: set[tuple[str, str]] = set()

    def add(self, series: Series) -> None:
        name = metric_name(series.name, series.unit, series.kind)
        family = self._texts.get(name)
        if family is None:
            head = _head(name, series.kind, series.description, self._is_open)
            family = self._texts[name] = (series.kind, [head.encode()])
        elif family[0] != series.kind:
            return
        before, behind = _label_texts(labels(series))
        key = name, before + behind
        if key in self._shown:  # a scraper rejects duplicates
            return
        self._shown.add(key)
        lines: list[str] = []
        everything = f"{{{before}{',' if before and behind else ''}{behind}}}"
        exemplars = series.exemplars if self._is_open else ()
        if series.kind == "gauge":
            lines.append(f"{name}{everything} {number(series.value)}\n")
        elif series.kind == "counter":
            shown = _exemplar(exemplars[-1]) if exemplars else ""
            lines.append(f"{name}_total{everything} {number(series.value)}{shown}\n")
        else:
            self._histogram(name, before, behind, everything, series, exemplars, lines)
        family[1].append("".join(lines).encode())

    def _histogram(
        self,
        name: str,
        before: str,
        behind: str,
        everything: str,
        series: Series,
        exemplars: tuple[Exemplar, ...],
        lines: list[str],
    ) -> None:
        start = f'{name}_bucket{{{before}{"," if before else ""}le="'
        end = f'"{"," if behind else ""}{behind}}} '
        total, lower = 0, -math.inf
        for bound, count in zip((*series.bounds, math.inf), series.buckets, strict=False):
            total += count
            shown = ""
            if exemplars:
                within = [each for each in exemplars if lower < each.value <= bound]
                shown = _exemplar(within[-1]) if within else ""
                lower = bound
            lines.append(f"{start}{number(bound)}{end}{number(total)}{shown}\n")
        # The sum of possibly negative values is no counter, so it is left out, as is the count, which equals the last bucket
        # (https://prometheus.io/docs/specs/om/open_metrics_spec/#histogram-1).
        if series.value >= 0:
            lines.append(f"{name}_count{everything} {number(series.count)}\n")
            lines.append(f"{name}_sum{everything} {number(series.value)}\n")

    def texts(self) -> Iterator[bytes]:
        for _, texts in self._texts.values():
            yield from texts


def _head(name: str, kind: str, description: str, is_open: bool) -> str:
    shown = name if is_open or kind != "counter" else f"{name}_total"
    text = description.replace("\\", r"\\").replace("\n", r"\n")
    if is_open:
        text = text.replace('"', r"\"")
    return f"# HELP {shown} {text}\n# TYPE {shown} {kind}\n"


@lru_cache(8_192)
def number(value: float) -> str:
    """Format a number as Prometheus does, with an exponent from a million on."""
    value = float(value) + 0.0  # no negative zero
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text


def _label_texts(found: Mapping[str, str]) -> tuple[str, str]:
    """Sorted labels as text: those before ``le`` and those after it."""
    before: list[str] = []
    behind: list[str] = []
    for key in sorted(found):
        value = found[key]
        if "\\" in value or "\n" in value or '"' in value:
            value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        (before if key < "le" else behind).append(f'{key}="{value}"')
    return ",".join(before), ",".join(behind)


@lru_cache(4_096)
def metric_name(name: str, unit: str, kind: Kind) -> str:
    """Prometheus name of an OTel instrument without ``_total``: from the catalogue, else by the rules of the specification."""
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
    words = _UNITS.get(
        head, _NOT_A_LABEL.sub("_", head).strip("_") if not head.startswith("{") else ""
    )
    if slash and per:
        single = {"s": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}.get(
            per, _NOT_A_LABEL.sub("_", per).strip("_")
        )
        words = f"{words}_per_{single}" if words else f"per_{single}"
    return words


@lru_cache(4_096)
def _label(key: str) -> str:
    """Label name of an attribute."""
    name = _NOT_A_LABEL.sub("_", key) or "_"
    if name[0].isdigit():
        return f"key_{name}"
    if name.startswith("__"):
        return f"key{name}"
    return f"exported_{name}" if name in _RESERVED else name


def labels(series: Series) -> dict[str, str]:
    """Labels of a series; values of attributes with the same label name are joined with ``;``, as in the specification."""
    found: dict[str, str] = {}
    for key in sorted(series.attributes):
        name = _label(key)
        if not series.attributes[key]:  # for Prometheus the same as no label
            continue
        found[name] = (
            f"{found[name]};{series.attributes[key]}" if name in found else series.attributes[key]
        )
    found["job"] = f"{series.namespace}/{series.service}" if series.namespace else series.service
    if series.instance:
        found["instance"] = series.instance
    return found


def _exemplar(found: Exemplar) -> str:
    return f' # {{span_id="{found.span_id}",trace_id="{found.trace_id}"}} {number(found.value)} {found.at_ns / 1e9}'
