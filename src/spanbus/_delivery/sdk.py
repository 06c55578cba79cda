"""Delivery by the SDK's own processors and the OTLP exporters of opentelemetry-exporter-otlp.

For people who want the stock path and for systems without a spool. Nothing is kept on disk: what its queues cannot hold, what
the exporters give up and what has not left when the process ends is lost. The exporters read ``OTEL_EXPORTER_OTLP_*`` and the
reader of metrics ``OTEL_METRIC_EXPORT_*`` from the environment of the process by themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from spanbus._delivery.destinations import switched_off
from spanbus._delivery.endpoints import Endpoint, configured, endpoints
from spanbus._delivery.metric_reader import aggregation, temporality
from spanbus._delivery.sender_options import to_stderr
from spanbus._delivery.statistics import DeliveryStatistics
from spanbus._otlp import encode_metrics
from spanbus._otlp.signals import Signal
from spanbus._pluralize import pluralize
from spanbus.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord

NOT_DELIVERED: Final = "not_delivered"
_AT_ONCE_S: Final = 0.02

_BATCHING: Final = {
    "max_queue_size": ("MAX_QUEUE_SIZE", 2_048),
    "schedule_delay_millis": ("SCHEDULE_DELAY", 5_000),
    "max_export_batch_size": ("MAX_EXPORT_BATCH_SIZE", 512),
    "export_timeout_millis": ("EXPORT_TIMEOUT", 30_000),
}
"""Arguments of the batching processors, with the variable of each and its default in the specification."""
_LOGS_DELAY_MS: Final = 1_000
_DIGITS: Final = 10

Keep = Callable[[str, bytes], None]
"""Takes a signal and an OTLP export request in protobuf bytes; raises what went wrong."""


class RecordIds(IdGenerator):
    """The ids that a record has; random ones for every other span."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next = threading.local()

    def use(self, trace_id: int, span_id: int) -> None:
        """The ids of the span that this thread starts next."""
        self._next.ids = trace_id, span_id

    def generate_trace_id(self) -> int:
        ids: tuple[int, int] | None = getattr(self._next, "ids", None)
        return ids[0] if ids is not None else self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        ids: tuple[int, int] | None = getattr(self._next, "ids", None)
        if ids is None:
            return self._random.generate_span_id()
        return ids[1]

    def done(self) -> None:
        """Clear the ids: that span was started."""
        self._next.ids = None


def _batching(
    env: Mapping[str, str], prefix: str, tell: Callable[[str], None], **defaults: int
) -> dict[str, Any]:
    """Arguments of a batching processor from ``OTEL_BSP_*`` or ``OTEL_BLRP_*``: reading them itself, it logs a traceback for
    what is no number, and raises for a queue that is smaller than a batch.
    """
    found: dict[str, Any] = {}
    for argument, (name, usual) in _BATCHING.items():
        found[argument] = default = defaults.get(argument, usual)
        text = env.get(f"OTEL_{prefix}_{name}", "").strip()
        if text.isascii() and text.isdecimal() and len(text) < _DIGITS and int(text) > 0:
            found[argument] = int(text)
        elif text:
            tell(
                f"spanbus: OTEL_{prefix}_{name}={text[:40]!r}: must be a whole number, at least 1; {default} is used"
            )
    found["max_export_batch_size"] = min(found["max_export_batch_size"], found["max_queue_size"])
    return found


class SdkDelivery:
    """Delivery through the SDK: opened once, closed once. All methods may be called from any thread.

    ``remote`` sends over OTLP, ``local`` takes each request too; ``exit_timeout_s`` limits the exit, ``taking_timeout_s``
    where the exporters have delivered something before.
    """

    def __init__(
        self,
        resource: Resource,
        env: Mapping[str, str],
        *,
        lifetime: Literal["run", "service"],
        remote: bool,
        local: Keep | None,
        exit_timeout_s: float,
        taking_timeout_s: float,
        tell: Callable[[str], None] = to_stderr,
    ) -> None:
        self.resource = resource
        self.ids = RecordIds()
        self._env = env
        self._lifetime: Literal["run", "service"] = lifetime
        self._remote, self._local, self._tell = remote, local, tell
        self._exit_timeout_s, self._taking_timeout_s = exit_timeout_s, taking_timeout_s
        self._counts = _Counts()
        self._span_processors: list[SpanProcessor] | None = None
        self._closers: list[Callable[[], object]] = []
        self._local_closers: list[Callable[[], object]] = []
        self._flushers: list[Callable[[int], bool]] = []
        self._closed = False

    def span_processors(self) -> list[SpanProcessor]:
        """Processors for a TracerProvider, the same ones for each."""
        if self._span_processors is not None:
            return self._span_processors
        found: list[SpanProcessor] = []
        how = _batching(self._env, "BSP", self._tell)
        if (exporter := self._exporter(Signal.TRACES)) is not None:
            found.append(_CountedSpans(self._counts))
            found.append(BatchSpanProcessor(_Spans(exporter, self._counts), **how))
        if self._local is not None:
            found.append(BatchSpanProcessor(_KeptSpans(self._local), **how))
        self._closes([each for each in found if not isinstance(each, _CountedSpans)])
        self._span_processors = found
        return found

    def metric_readers(self) -> list[MetricReader]:
        """Readers for a MeterProvider."""
        found: list[MetricReader] = []
        how: dict[str, Any] = {
            "preferred_temporality": temporality(self._lifetime, self._env),
            "preferred_aggregation": aggregation(self._env),
        }
        if (exporter := self._exporter(Signal.METRICS, **how)) is not None:
            found.append(PeriodicExportingMetricReader(_Metrics(exporter, self._counts, how)))
        if self._local is not None:
            found.append(PeriodicExportingMetricReader(_KeptMetrics(self._local, how)))
        self._closes(found)
        return found

    def log_processors(self) -> list[LogRecordProcessor]:
        """Processors for a LoggerProvider."""
        found: list[LogRecordProcessor] = []
        how = _batching(self._env, "BLRP", self._tell, schedule_delay_millis=_LOGS_DELAY_MS)
        if (exporter := self._exporter(Signal.LOGS)) is not None:
            found.append(BatchLogRecordProcessor(_Logs(exporter, self._counts), **how))
        if self._local is not None:
            found.append(BatchLogRecordProcessor(_KeptLogs(self._local), **how))
        self._closes(found)
        return found

    def _closes(self, found: Sequence[Any]) -> None:
        kept = 1 if self._local is not None else 0
        self._closers.extend(each.shutdown for each in found[: len(found) - kept])
        self._local_closers.extend(each.shutdown for each in found[len(found) - kept :])
        self._flushers.extend(each.force_flush for each in found)

    def _exporter(self, signal: Signal, **how: Any) -> Any:
        """The stock exporter of the protocol that the environment names; None where this signal is not sent."""
        unwanted = not configured(self._env, signal) and configured(self._env)
        if not self._remote or unwanted or switched_off(self._env, signal):
            return None
        try:
            endpoint = endpoints(self._env, signal)
        except SettingsError as error:
            self._tell(f"spanbus: {signal} are not sent: {error}")
            return None
        try:
            if any(os.environ.get(name) != value for name, value in _of_otel(self._env)):
                how = {**how, **_given(endpoint)}
            return _stock_exporter(endpoint.protocol, signal)(**how)
        except Exception as error:  # nothing is raised into the program: certificates, URLs
            self._tell(f"spanbus: {signal} are not sent: {type(error).__name__}: {error}")
            return None

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Export now; False when something could not be delivered or took longer."""
        before = self._counts.failures
        deadline = time.monotonic() + timeout_s
        done = all(
            [flush(max(1, int((deadline - time.monotonic()) * 1e3))) for flush in self._flushers]
        )
        return done and self._counts.failures == before

    def close(self, timeout_s: float | None = None) -> None:
        """Export what waits within the exit limit; what has not left then is lost and told. May be called twice."""
        if self._closed:
            return
        self._closed = True
        limit_s = self._exit_timeout_s if timeout_s is None else timeout_s
        threads = [threading.Thread(target=close, daemon=True) for close in self._closers]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for close in self._local_closers:  # a local file, and unwritten records are lost
            close()
        while any(thread.is_alive() for thread in threads):
            taking = self._counts.delivered_any and not self._counts.failing
            longest_s = max(limit_s, self._taking_timeout_s if taking else 0.0)
            if time.monotonic() - began >= longest_s:
                break
            next(thread for thread in threads if thread.is_alive()).join(_AT_ONCE_S)
        found = self.statistics()
        lost = found.waiting + sum(found.dropped.values())
        if lost:
            records = pluralize(lost, "record was", "records were")
            self._tell(
                f"spanbus: {records} not delivered within the exit limit and lost; SPANBUS_DELIVERY=spool keeps them"
            )

    def forked(self) -> None:
        """In a child: the SDK's processors begin anew by themselves; this one is not used there again."""
        self._closed = True

    def statistics(self) -> DeliveryStatistics:
        """Fates of the records, as far as the exporters report them."""
        return self._counts.statistics()

    collected = statistics


def _of_otel(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in env.items() if name.startswith("OTEL_EXPORTER_OTLP_"))


def _given(endpoint: Endpoint) -> dict[str, Any]:
    """Arguments of an exporter for an environment other than the process's own."""
    given: dict[str, Any] = {
        "endpoint": endpoint.url,
        "headers": dict(endpoint.headers),
        "timeout": endpoint.timeout_s,
    }
    return {**given, "insecure": endpoint.insecure} if endpoint.protocol == "grpc" else given


def _stock_exporter(protocol: str, signal: Signal) -> Callable[..., Any]:
    """Imported only when it was chosen: requests and grpc take their time."""
    if protocol == "grpc":
        match signal:
            case Signal.TRACES:
                from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

                return OTLPSpanExporter
            case Signal.METRICS:
                from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                    OTLPMetricExporter,
                )

                return OTLPMetricExporter
            case _:
                from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

                return OTLPLogExporter
    match signal:
        case Signal.TRACES:
            from opentelemetry.exporter.otlp.proto.http import trace_exporter

            return trace_exporter.OTLPSpanExporter
        case Signal.METRICS:
            from opentelemetry.exporter.otlp.proto.http import metric_exporter

            return metric_exporter.OTLPMetricExporter
        case _:
            from opentelemetry.exporter.otlp.proto.http import _log_exporter

            return _log_exporter.OTLPLogExporter


def load_exporters(env: Mapping[str, str]) -> None:
    """Import the stock exporters that ``env`` names, which takes a while; raises nothing, for that shows when they are made."""
    for signal in (Signal.TRACES, Signal.METRICS):
        with suppress(SettingsError, ImportError):
            protocol = endpoints(env, signal).protocol
            _stock_exporter(protocol, signal)
            if protocol != "grpc":
                import_module("requests")  # with which they send


class _Counts:
    """Records by signal: given to the processors, delivered, given up by an exporter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put: dict[str, int] = {}
        self._delivered: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self.failures = 0
        self.failing = False

    @property
    def delivered_any(self) -> bool:
        return bool(self._delivered)

    def put(self, signal: Signal, count: int = 1) -> None:
        with self._lock:
            self._put[str(signal)] = self._put.get(str(signal), 0) + count

    def ended(self, signal: Signal, count: int, *, delivered: bool) -> None:
        with self._lock:
            counts = self._delivered if delivered else self._failed
            counts[str(signal)] = counts.get(str(signal), 0) + count
            self.failing = not delivered
            self.failures += not delivered

    def statistics(self) -> DeliveryStatistics:
        with self._lock:
            settled = sum(self._delivered.values()) + sum(self._failed.values())
            return DeliveryStatistics(
                dict(self._put),
                dict(self._delivered),
                {},
                {(signal, NOT_DELIVERED): count for signal, count in self._failed.items()},
                waiting=max(0, sum(self._put.values()) - settled),
                outage=NOT_DELIVERED if self.failing else None,
            )


class _CountedSpans(SpanProcessor):
    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._counts.put(Signal.TRACES)


class _Spans(SpanExporter):
    """Count the results of the stock exporter."""

    def __init__(self, exporter: SpanExporter, counts: _Counts) -> None:
        self._exporter, self._counts = exporter, counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._counts.ended(Signal.TRACES, len(spans), delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Metrics(MetricExporter):
    """The same for metrics; a collection is put and ended at once."""

    def __init__(self, exporter: MetricExporter, counts: _Counts, how: Mapping[str, Any]) -> None:
        super().__init__(**how)
        self._exporter, self._counts = exporter, counts

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object
    ) -> MetricExportResult:
        del options
        points = encode_metrics.count_points(metrics_data)
        self._counts.put(Signal.METRICS, points)
        result = self._exporter.export(metrics_data, timeout_millis)  # pyright: ignore[reportUnknownMemberType]
        self._counts.ended(Signal.METRICS, points, delivered=result is MetricExportResult.SUCCESS)
        return result

    def shutdown(self, timeout_millis: float = 30_000, **options: object) -> None:
        del options
        self._exporter.shutdown(timeout_millis)  # pyright: ignore[reportUnknownMemberType]

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Logs(LogRecordExporter):
    """The same for log records."""

    def __init__(self, exporter: LogRecordExporter, counts: _Counts) -> None:
        self._exporter, self._counts = exporter, counts

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self._counts.put(Signal.LOGS, len(batch))
        result = self._exporter.export(batch)
        self._counts.ended(
            Signal.LOGS, len(batch), delivered=result is LogRecordExportResult.SUCCESS
        )
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _KeptSpans(SpanExporter):
    """Exporter to the local store."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        self._keep(str(Signal.TRACES), encode_spans(spans).SerializeToString())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """The store is closed by its owner."""


class _KeptMetrics(MetricExporter):
    """The same for metrics."""

    def __init__(self, keep: Keep, how: Mapping[str, Any]) -> None:
        super().__init__(**how)
        self._keep = keep

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object
    ) -> MetricExportResult:
        del timeout_millis, options
        self._keep(str(Signal.METRICS), encode_metrics.encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **options: object) -> None:
        del timeout_millis, options

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        del timeout_millis
        return True


class _KeptLogs(LogRecordExporter):
    """The same for log records."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

        self._keep(str(Signal.LOGS), encode_logs(batch).SerializeToString())
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """The store is closed by its owner."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        del timeout_millis
        return True
