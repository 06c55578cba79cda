"""Imports for the first event of a service, done when a bus is instrumented; otherwise its publisher would wait for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

from spanbus._delivery.metric_settings import wants_exponential_histograms
from spanbus._settings import Settings
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.resource import asks_for_detectors

_ALWAYS = (
    "opentelemetry.baggage.propagation",  # the caller's context
    "opentelemetry.propagators.composite",
    "opentelemetry.sdk.version",
    "opentelemetry.trace.propagation.tracecontext",
    "spanbus._telemetry.context",
    "spanbus._wiring",
)
_RESOURCE = (
    "concurrent.futures.thread",  # the SDK runs its detectors in one
    "opentelemetry.sdk.resources",
)
_LOGS = (
    *_RESOURCE,
    "opentelemetry.sdk._logs",
    "spanbus._delivery.log_processor",
    "spanbus._telemetry.logs",
)


def prepare(settings: Settings, env: Mapping[str, str]) -> None:
    """Do the imports and open nothing: providers are looked up when the first event arrives."""
    if settings.sdk_disabled:
        return
    for module in _wanted(settings, env):
        import_module(module)
    if settings.delivery == "sdk":
        from spanbus._delivery.sdk import load_exporters

        load_exporters(env)
    # The first text reads the secret patterns from a file and compiles them.
    Redactor(settings.redact, patterns=settings.redact_patterns).text("first=text")


def _wanted(settings: Settings, env: Mapping[str, str]) -> Iterator[str]:
    yield from _ALWAYS
    spools = settings.delivery != "sdk"
    if spools:
        yield "spanbus._delivery.pipeline"
    by_sdk = not spools or wants_exponential_histograms(env)
    if by_sdk:
        yield "spanbus._delivery.metric_reader"
    if by_sdk or asks_for_detectors(env) or "opentelemetry.sdk.resources" in sys.modules:
        yield from _RESOURCE
    if not spools or "opentelemetry.trace" in sys.modules:  # the application may set a provider
        yield "spanbus._telemetry.tracer_spans"
    if env.get("OTEL_PROPAGATORS"):
        yield "opentelemetry.propagate"
    if spools and settings.endpoint_configured:  # half of the imports of the sending thread
        yield from ("http.client", "spanbus._delivery.transport")
    if settings.events in ("log", "both") or settings.exception_signal is not None:
        yield from _LOGS
    if settings.local == "on" or (settings.local == "auto" and not settings.endpoint_configured):
        yield from ("spanbus._backend.announce", "spanbus._store.store")
