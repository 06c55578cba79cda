"""Delivery by the SDK's own processors and the OTLP exporters of opentelemetry-exporter-otlp.

For users who want the stock path, and for systems without a spool. Nothing is kept on disk: records are lost when a queue is
full, when an exporter gives up, and when they are unsent at the end of the process. The exporters themselves read
``OTEL_EXPORTER_OTLP_*`` from the environment of the process, and the metric reader ``OTEL_METRIC_EXPORT_*``.
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

from spanbus._delivery.destinations import Keep, switched_off
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
"""Arguments of the batching processors, with the variable of each and the specification's default."""
_LOGS_DELAY_MS: Final = 1_000
_DIGITS: Final = 10


class RecordIds(IdGenerator):
    """Id generator: the record's ids for the spans of records, random ids for all others."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next = threading.local()

    def use(self, trace_id: int, span_id: int) -> None:
        """Set the ids of the next span that this thread starts."""
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
        """Clear the ids after that span was started."""
        self._next.ids = None


def _batching(
    env: Mapping[str, str], prefix: str, tell: Callable[[str], None], **defaults: int
) -> dict[str, Any]:
    """Arguments of a batching processor from ``OTEL_BSP_*`` or ``OTEL_BLRP_*``.

    The processor could read them itself, but logs a traceback for an invalid number and raises if the queue is smaller than a
    batch.
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
    """Delivery through the SDK: opened once, closed once. Thread-safe.

    ``remote`` sends over OTLP, ``local`` also takes each request. ``exit_timeout_s`` limits the exit, or ``taking_timeout_s``
    if that is longer and the last export was delivered.
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
        arguments = _batching(self._env, "BSP", self._tell)
        if (exporter := self._exporter(Signal.TRACES)) is not None:
            found.append(_SpanCounter(self._counts))
            found.append(
                BatchSpanProcessor(_CountingSpanExporter(exporter, self._counts), **arguments)
            )
        if self._local is not None:
            found.append(BatchSpanProcessor(_LocalSpanExporter(self._local), **arguments))
        self._register([each for each in found if not isinstance(each, _SpanCounter)])
        self._span_processors = found
        return found

    def metric_readers(self) -> list[MetricReader]:
        """Readers for a MeterProvider."""
        found: list[MetricReader] = []
        arguments: dict[str, Any] = {
            "preferred_temporality": temporality(self._lifetime, self._env),
            "preferred_aggregation": aggregation(self._env),
        }
        if (exporter := self._exporter(Signal.METRICS, **arguments)) is not None:
            found.append(
                PeriodicExportingMetricReader(
                    _CountingMetricExporter(exporter, self._counts, arguments)
                )
            )
        if self._local is not None:
            found.append(
                PeriodicExportingMetricReader(_LocalMetricExporter(self._local, arguments))
            )
        self._register(found)
        return found

    def log_processors(self) -> list[LogRecordProcessor]:
        """Processors for a LoggerProvider."""
        found: list[LogRecordProcessor] = []
        arguments = _batching(self._env, "BLRP", self._tell, schedule_delay_millis=_LOGS_DELAY_MS)
        if (exporter := self._exporter(Signal.LOGS)) is not None:
            found.append(
                BatchLogRecordProcessor(_CountingLogExporter(exporter, self._counts), **arguments)
            )
        if self._local is not None:
            found.append(BatchLogRecordProcessor(_LocalLogExporter(self._local), **arguments))
        self._register(found)
        return found

    def _register(self, found: Sequence[Any]) -> None:
        kept = 1 if self._local is not None else 0
        self._closers.extend(each.shutdown for each in found[: len(found) - kept])
        self._local_closers.extend(each.shutdown for each in found[len(found) - kept :])
        self._flushers.extend(each.force_flush for each in found)

    def _exporter(self, signal: Signal, **arguments: Any) -> Any:
        """Stock exporter for the protocol in the environment; None if this signal is not sent."""
        unwanted = not configured(self._env, signal) and configured(self._env)
        if not self._remote or unwanted or switched_off(self._env, signal):
            return None
        try:
            endpoint = endpoints(self._env, signal)
        except SettingsError as error:
            self._tell(f"spanbus: {signal} are not sent: {error}")
            return None
        try:
            if any(os.environ.get(name) != value for name, value in _otlp_variables(self._env)):
                arguments = {**arguments, **_explicit_arguments(endpoint)}
            return _stock_exporter(endpoint.protocol, signal)(**arguments)
        except Exception as error:  # a bad certificate or URL; nothing is raised into the program
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
        """Export within the exit limit; unsent records are lost and reported. May be called twice."""
        if self._closed:
            return
        self._closed = True
        limit_s = self._exit_timeout_s if timeout_s is None else timeout_s
        threads = [threading.Thread(target=close, daemon=True) for close in self._closers]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for close in (
            self._local_closers
        ):  # without a limit: writes to a local file, which must not lose records
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
        """In a child process: the SDK's processors restart by themselves; the child does not use this object."""
        self._closed = True

    def statistics(self) -> DeliveryStatistics:
        """Delivery counts, as far as the exporters report them."""
        return self._counts.statistics()

    collected = statistics


def _otlp_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in env.items() if name.startswith("OTEL_EXPORTER_OTLP_"))


def _explicit_arguments(endpoint: Endpoint) -> dict[str, Any]:
    """Arguments of an exporter for an environment other than the process's own."""
    given: dict[str, Any] = {
        "endpoint": endpoint.url,
        "headers": dict(endpoint.headers),
        "timeout": endpoint.timeout_s,
    }
    return {**given, "insecure": endpoint.insecure} if endpoint.protocol == "grpc" else given


def _stock_exporter(protocol: str, signal: Signal) -> Callable[..., Any]:
    """Class of a stock exporter; imported lazily, because requests and grpc import slowly."""
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
    """Import the stock exporters for ``env``, which is slow. Never raises; errors show when the exporters are created."""
    for signal in (Signal.TRACES, Signal.METRICS):
        with suppress(SettingsError, ImportError):
            protocol = endpoints(env, signal).protocol
            _stock_exporter(protocol, signal)
            if protocol != "grpc":
                import_module("requests")  # the HTTP exporters send with it


class _Counts:
    """Records by signal: put into the processors, delivered, failed in an exporter."""

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


class _SpanCounter(SpanProcessor):
    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._counts.put(Signal.TRACES)


class _CountingSpanExporter(SpanExporter):
    """Span exporter that counts the results of a stock one."""

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


class _CountingMetricExporter(MetricExporter):
    """Metric exporter that counts the results of a stock one; a collection is put and ended at once."""

    def __init__(
        self, exporter: MetricExporter, counts: _Counts, arguments: Mapping[str, Any]
    ) -> None:
        super().__init__(**arguments)
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


class _CountingLogExporter(LogRecordExporter):
    """Log exporter that counts the results of a stock one."""

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


class _LocalSpanExporter(SpanExporter):
    """Span exporter to the local store."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        self._keep(str(Signal.TRACES), encode_spans(spans).SerializeToString())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """The store is closed by its owner."""


class _LocalMetricExporter(MetricExporter):
    """Metric exporter to the local store."""

    def __init__(self, keep: Keep, arguments: Mapping[str, Any]) -> None:
        super().__init__(**arguments)
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


class _LocalLogExporter(LogRecordExporter):
    """Log exporter to the local store."""

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
