"""Our SDK sampler and MeterProvider, from a validated environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spanbus._delivery.metric_settings import exemplar_filter
from spanbus._telemetry.sampling import EnvironmentSampler

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler


def own_sampler(env: Mapping[str, str]) -> Sampler:
    """Sampler of our TracerProvider, from ``OTEL_TRACES_SAMPLER``."""
    from opentelemetry.sdk.trace import sampling

    known = EnvironmentSampler.of(env)
    match known.name:
        case "always_on":
            root: Sampler = sampling.ALWAYS_ON
        case "always_off":
            root = sampling.ALWAYS_OFF
        case _:
            root = sampling.TraceIdRatioBased(known.ratio)
    return sampling.ParentBased(root) if known.by_parent else root


def own_meter_provider(
    readers: Sequence[MetricReader], resource: Resource, env: Mapping[str, str]
) -> MeterProvider:
    """MeterProvider without an ``atexit`` shutdown, with the exemplars of ``OTEL_METRICS_EXEMPLAR_FILTER``."""
    from opentelemetry.sdk.metrics import (
        AlwaysOffExemplarFilter,
        AlwaysOnExemplarFilter,
        MeterProvider,
        TraceBasedExemplarFilter,
    )

    kinds = {
        "always_on": AlwaysOnExemplarFilter,
        "always_off": AlwaysOffExemplarFilter,
        "trace_based": TraceBasedExemplarFilter,
    }
    return MeterProvider(
        readers,
        resource=resource,
        shutdown_on_exit=False,
        exemplar_filter=kinds[exemplar_filter(env)](),
    )
