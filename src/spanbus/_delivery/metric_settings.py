"""Variables of the metrics SDK that spanbus reads itself, from a validated environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.metrics_data import CUMULATIVE, DELTA

_DEFAULT_INTERVAL_MS = 60_000.0


class Temporalities(NamedTuple):
    """Temporality of durations and of observable counters; all other instruments are cumulative."""

    durations: int
    counters: int


def temporalities(lifetime: Literal["run", "service"], env: Mapping[str, str]) -> Temporalities:
    """Delta for a one-shot process, which exports once; otherwise the specification's preference variable."""
    preference = (
        env.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative").strip().lower()
    )
    is_run = lifetime == "run"
    return Temporalities(
        DELTA if is_run or preference in ("delta", "lowmemory") else CUMULATIVE,
        DELTA if is_run or preference == "delta" else CUMULATIVE,
    )


def exemplar_filter(env: Mapping[str, str]) -> Literal["trace_based", "always_on", "always_off"]:
    """``OTEL_METRICS_EXEMPLAR_FILTER``; an unknown value means the default."""
    wanted = env.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower()
    if wanted == "always_on":
        return "always_on"
    return "always_off" if wanted == "always_off" else "trace_based"


def export_interval_s(env: Mapping[str, str]) -> float:
    """``OTEL_METRIC_EXPORT_INTERVAL`` in seconds; 60 if it is not a number."""
    try:
        return float(env.get("OTEL_METRIC_EXPORT_INTERVAL") or _DEFAULT_INTERVAL_MS) / 1e3
    except ValueError:
        return _DEFAULT_INTERVAL_MS / 1e3


def wants_exponential_histograms(env: Mapping[str, str]) -> bool:
    """``OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION``."""
    wanted = env.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "")
    return wanted.strip().lower() == "base2_exponential_bucket_histogram"
