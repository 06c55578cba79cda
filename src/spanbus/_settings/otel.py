"""Validation of OpenTelemetry's variables, which keep their meaning in its specification."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spanbus._settings.values import InvalidValue, Parse, any_of, choice
from spanbus._suggest import did_you_mean


def _number(least: float, what: str = "a number") -> Parse:
    def parse(value: object) -> object:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise InvalidValue(f"must be {what}, at least {least:g}")
        return number

    return parse


def _limit(value: object) -> object:
    text = str(value).lower()
    if text == "unset" or (text.isascii() and text.isdigit()):
        return value
    raise InvalidValue("must be a whole number, at least 0, or unset")


def sampler_ratio(value: object) -> object:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidValue("must be a number from 0 to 1")
    return number


def _installed(group: str, *usual: str, several: bool = False) -> Parse:
    """Parser of entry point names. The API and the SDK raise or log a traceback for a name that is not installed.

    ``usual`` are names that need no lookup.
    """

    def parse(value: object) -> object:
        text = str(value)
        wanted = [part.strip() for part in text.split(",")] if several else [text]
        if {part.lower() for part in wanted} <= set(usual):
            return value
        from importlib.metadata import entry_points

        extra = {*usual, *(entry.name for entry in entry_points(group=group))}
        known = (*sorted(extra - {"none"}), *(["none"] if "none" in extra else []))
        for part in wanted:
            if part not in known:
                prefix = "a list of " if several else ""
                raise InvalidValue(
                    f"{part!r} is not installed; must be {prefix}{any_of(known)}{did_you_mean(part, known, quoted=False)}"
                )
        return value

    return parse


def _exporter(value: object) -> object:
    """Comma-separated exporter names, as in the specification; ours is OTLP, and console may be added."""
    for part in str(value).lower().split(","):
        if part.strip() not in _EXPORTERS:
            raise InvalidValue(
                f"must be {any_of(_EXPORTERS)}{did_you_mean(part.strip(), _EXPORTERS, quoted=False)}"
            )
    return value


_EXPORTERS = ("otlp", "console", "none")


OTEL: Mapping[str, Parse] = {
    "OTEL_SDK_DISABLED": choice("true", "false"),
    **{f"OTEL_{signal.upper()}_EXPORTER": _exporter for signal in ("traces", "metrics", "logs")},
    "OTEL_TRACES_SAMPLER": choice(
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ),
    "OTEL_PROPAGATORS": _installed(
        "opentelemetry_propagator", "tracecontext", "baggage", "none", several=True
    ),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _installed(
        "opentelemetry_resource_detector", "otel", "*", several=True
    ),
    "OTEL_PYTHON_CONTEXT": _installed("opentelemetry_context"),
    **{
        f"OTEL_PYTHON_{signal.upper()}_PROVIDER": _installed(f"opentelemetry_{signal}_provider")
        for signal in ("tracer", "meter", "logger")
    },
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": choice("cumulative", "delta", "lowmemory"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": choice(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": _number(1, "a number of milliseconds"),
    "OTEL_METRIC_EXPORT_TIMEOUT": _number(0, "a number of milliseconds"),
    "OTEL_METRICS_EXEMPLAR_FILTER": choice("always_on", "always_off", "trace_based"),
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": choice("logs", "logs/dup"),
    **{
        f"OTEL_{name}": _limit
        for name in (
            "ATTRIBUTE_COUNT_LIMIT",
            "ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "SPAN_ATTRIBUTE_COUNT_LIMIT",
            "SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "SPAN_EVENT_COUNT_LIMIT",
            "SPAN_LINK_COUNT_LIMIT",
            "EVENT_ATTRIBUTE_COUNT_LIMIT",
            "LINK_ATTRIBUTE_COUNT_LIMIT",
            "LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        )
    },
}
OTEL_VARIABLES = (*OTEL, "OTEL_TRACES_SAMPLER_ARG")
"""Variables validated here; :mod:`spanbus._delivery.endpoints` validates ``OTEL_EXPORTER_OTLP_*``."""
