"""Global providers: those of the application, and our TracerProvider if it has none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from spanbus._loggers import Logger

if TYPE_CHECKING:
    from weakref import WeakSet

    from opentelemetry import metrics
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import TracerProvider as TracerProviderApi

logger = Logger("spanbus")

_TRACER_PROVIDER, _METER_PROVIDER = "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER"


@cache
def _provided() -> WeakSet[TracerProviderApi]:
    """Our providers that became the global one."""
    from weakref import WeakSet

    return WeakSet()


def tracer_provider_of_application() -> TracerProviderApi | None:
    """The global TracerProvider if the application has set one."""
    if "opentelemetry.trace" not in sys.modules and not os.environ.get(_TRACER_PROVIDER):
        return None  # the application cannot have set one
    from opentelemetry import trace

    try:
        provider = trace.get_tracer_provider()
    except Exception as error:  # OTEL_PYTHON_TRACER_PROVIDER names one that cannot be loaded
        logger.warning("the application's TracerProvider cannot be had (%r); ours is used", error)
        return None
    return (
        None
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        or provider in _provided()
        else provider
    )


def meter_provider_of_application() -> metrics.MeterProvider | None:
    """The global MeterProvider if the application has set one; the API's proxy is a private class."""
    if "opentelemetry.metrics" not in sys.modules and not os.environ.get(_METER_PROVIDER):
        return None  # the application cannot have set one
    from opentelemetry import metrics

    try:
        provider = metrics.get_meter_provider()
    except Exception as error:  # OTEL_PYTHON_METER_PROVIDER names one that cannot be loaded
        logger.warning("the application's MeterProvider cannot be had (%r); ours is used", error)
        return None
    if isinstance(provider, metrics.NoOpMeterProvider) or type(provider).__module__.startswith(
        "opentelemetry.metrics"
    ):
        return None
    return provider


def provide(ours: TracerProviderApi | None, processors: Iterable[SpanProcessor]) -> None:
    """Make ``ours`` the global provider if the application has none; if an earlier runtime did, add ``processors`` to its."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    try:
        there = trace.get_tracer_provider()
    except Exception:  # logged by tracer_provider_of_application
        return
    if there in _provided() and isinstance(there, TracerProvider):
        for processor in processors if there is not ours else ():
            there.add_span_processor(processor)
    elif ours is not None and tracer_provider_of_application() is None:
        _provided().add(ours)
        trace.set_tracer_provider(ours)
