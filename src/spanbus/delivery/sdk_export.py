"""Delivery through the SDK's own encoders and exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spanbus.errors import DeliveryError


def encoded(signal: str, items: Sequence[Any]) -> list[bytes]:
    """OTLP export requests in protobuf bytes."""
    if signal == "traces":
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        return [encode_spans(items).SerializeToString()]
    if signal == "metrics":
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

        return [encode_metrics(item).SerializeToString() for item in items]
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    return [encode_logs(items).SerializeToString()]


def export(exporters: dict[str, Any], env: Mapping[str, str], signal: str, items: Sequence[Any]) -> None:
    """Send; raises :class:`~spanbus.errors.DeliveryError` when the exporter says that it failed."""
    if signal not in exporters:
        exporters[signal] = _exporter(env, signal)
    for batch in items if signal == "metrics" else [items]:
        result = exporters[signal].export(batch)
        if getattr(result, "name", "SUCCESS") != "SUCCESS":
            raise DeliveryError(f"the OTLP endpoint did not take {signal}")


def _exporter(env: Mapping[str, str], signal: str) -> Any:
    protocol = env.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return {"traces": OTLPSpanExporter, "metrics": OTLPMetricExporter, "logs": OTLPLogExporter}[signal]()
