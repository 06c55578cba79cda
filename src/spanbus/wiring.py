"""Providers, sinks and pipeline of one runtime in one process.

Made when the first event arrives, so that providers which the application sets up later than its bus are still found.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import TracerProvider as TracerProviderApi

from spanbus.delivery.pipeline import DeliveryOptions, Leftover, Local, Pipeline
from spanbus.delivery.sender import to_stderr
from spanbus.delivery.statistics import DeliveryStatistics
from spanbus.delivery.wire import resource_of
from spanbus.settings import Settings
from spanbus.telemetry import names
from spanbus.telemetry.journal import JournalSink
from spanbus.telemetry.limits import log_record_limits, span_limits
from spanbus.telemetry.metrics import MetricSink, observe_delivery
from spanbus.telemetry.records import NoteSink, Record, RecordSink
from spanbus.telemetry.redaction import Redactor
from spanbus.telemetry.rendering import Rendering
from spanbus.telemetry.spans import SCOPE, DirectSpans, TracerSpans
from spanbus.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

    from spanbus.delivery.metric_reader import SpoolMetricReader
    from spanbus.local.announce import Announcer
    from spanbus.local.store import Store

logger = logging.getLogger("spanbus")


class Wiring:
    """Built at once, closed once. ``paused`` keeps measurements out while metrics are collected."""

    def __init__(
        self, settings: Settings, *, lifetime: Literal["run", "service"], command_line: bool, env: Mapping[str, str], store_path: Path,
        paused: Callable[[], AbstractContextManager[None]], tell: Callable[[str], None] | None = None,
    ) -> None:
        self._tell = tell or to_stderr
        self._settings, self._env = settings, env
        self._lifetime: Literal["run", "service"] = lifetime
        self._store_path = store_path
        self._command_line = command_line
        self._store_lock = threading.Lock()
        self._store: Store | None = None
        self._pipeline: Pipeline | None = None
        self._reader: SpoolMetricReader | None = None
        self._next_export_s = float("inf")
        self._journal: JournalSink | None = None
        self._announcer: Announcer | None = None
        self._meter_provider: MeterProvider | None = None
        self._lost = 0
        redactor = Redactor(settings.redact, patterns=settings.redact_patterns, payload_allow=settings.payload_allow)
        self._limits = span_limits(env)
        self.rendering = Rendering(
            redactor, span_events=settings.events in ("span", "both"), exception_events=settings.exception_signal != "logs", limits=self._limits
        )
        self.sinks: tuple[RecordSink, ...] = ()
        self.note_sinks: tuple[NoteSink, ...] = ()
        self.tracer_provider: TracerProviderApi | None = None
        if not settings.sdk_disabled:
            self._wire(paused)

    def _wire(self, paused: Callable[[], AbstractContextManager[None]]) -> None:
        settings = self._settings
        theirs, their_meters = _application_tracer_provider(), _application_meter_provider()
        writes_store = settings.local == "on" or (settings.local == "auto" and (self._command_line or not settings.endpoint_configured))
        sinks: list[RecordSink] = []
        notes: list[NoteSink] = []
        pipeline: Pipeline | None = None
        if theirs is None or their_meters is None:
            pipeline = self._pipeline = Pipeline(
                DeliveryOptions(
                    state_dir=settings.state_dir, resource=self._resource(), env=self._env, lifetime=self._lifetime,
                    exit_timeout_s=settings.exit_timeout_s, quota_bytes=settings.spool_quota_bytes,
                    remote=settings.endpoint_configured or not writes_store, local=self._keep_locally() if writes_store else None, tell=self._tell,
                ),
                on_leftover=self._finish_leftover,
            )
            pipeline.introduce(SCOPE)
        if theirs is not None:
            self.tracer_provider = theirs
            tracer = theirs.get_tracer(names.SCOPE, __version__, names.SCHEMA_URL)
            sinks.append(TracerSpans(tracer, self.rendering, ambient=otel_context.get_current))
        else:
            assert pipeline is not None
            from opentelemetry.sdk.trace import TracerProvider

            own = TracerProvider(resource=pipeline.resource, shutdown_on_exit=False, span_limits=self._limits)
            own.add_span_processor(pipeline.span_processor)
            self.tracer_provider = own
            sinks.append(DirectSpans(pipeline, self.rendering, sampler=own.sampler, resource=pipeline.resource))
        if their_meters is not None:
            meter = their_meters.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
        else:
            assert pipeline is not None
            self._reader = pipeline.metric_reader(paused)
            self._next_export_s = time.monotonic() + self._reader.interval_s
            self._meter_provider = self._meters(self._reader, pipeline.resource)
            meter = self._meter_provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
        sinks.append(self._metrics(meter))
        if pipeline is not None:
            observe_delivery(meter, self._delivery_numbers)
        if settings.events in ("log", "both") or settings.exception_signal is not None:
            self._wire_logs(sinks, notes)
        if pipeline is not None and theirs is None:
            self._journal = JournalSink(pipeline, self.rendering)
            sinks.append(self._journal)
        if writes_store:
            from spanbus.local.announce import Announcer

            self._announcer = Announcer(settings.state_dir, self.rendering)
            sinks.append(self._announcer)
            notes.append(self._announcer)
        self.sinks, self.note_sinks = tuple(sinks), tuple(notes)
        if pipeline is not None:
            pipeline.start()

    def _meters(self, reader: SpoolMetricReader, resource: Resource) -> MeterProvider:
        from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, MeterProvider, TraceBasedExemplarFilter

        from spanbus.delivery.metric_reader import exemplar_filter

        kinds = {"always_on": AlwaysOnExemplarFilter, "always_off": AlwaysOffExemplarFilter, "trace_based": TraceBasedExemplarFilter}
        return MeterProvider([reader], resource=resource, shutdown_on_exit=False, exemplar_filter=kinds[exemplar_filter(self._env)]())

    def _metrics(self, meter: metrics.Meter) -> MetricSink:
        """What counts; durations are the SDK's where the provider is not ours, or where its histograms shall be exponential."""
        long_lived = self._lifetime == "service"
        if self._reader is None or self._pipeline is None:
            return MetricSink(meter, long_lived=long_lived)
        from opentelemetry.sdk.metrics import Histogram
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation

        from spanbus.delivery.metric_reader import aggregation, exemplar_filter

        if not isinstance(aggregation(self._env)[Histogram], ExplicitBucketHistogramAggregation):
            return MetricSink(meter, long_lived=long_lived)
        sink = MetricSink(meter, long_lived=long_lived, exemplar_filter=exemplar_filter(self._env))
        self._reader.also(self._pipeline.resource, SCOPE, sink.collect)
        return sink

    def _wire_logs(self, sinks: list[RecordSink], notes: list[NoteSink]) -> None:
        from opentelemetry._logs import get_logger_provider
        from opentelemetry.sdk._logs import LoggerProvider

        from spanbus.telemetry.logs import LogSink

        provider = get_logger_provider()
        if not isinstance(provider, LoggerProvider):
            if self._pipeline is None:
                return
            provider = LoggerProvider(resource=self._pipeline.resource, shutdown_on_exit=False, log_record_limits=log_record_limits(self._env))
            provider.add_log_record_processor(self._pipeline.log_processor())
        log_sink = LogSink(
            provider.get_logger(names.SCOPE, __version__, names.SCHEMA_URL), self.rendering,
            events=self._settings.events in ("log", "both"), exceptions=self._settings.exception_signal is not None,
        )
        sinks.append(log_sink)
        notes.append(log_sink)

    def _resource(self) -> Resource:
        try:
            resource = Resource.create()
        except RuntimeError:  # it starts threads for its detectors, and there are none to be had
            resource = OTELResourceDetector().detect()
        more: dict[str, str] = {}
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service") and self._command_line:
            more[SERVICE_NAME] = names.DEFAULT_SERVICE
        if self._lifetime == "run":
            more[names.LIFETIME] = "run"
        return resource.merge(Resource(more)) if more else resource

    # --- the local store ----------------------------------------------------------------------------------------------

    def _keep_locally(self) -> Local:
        def keep(signal: str, body: bytes) -> None:
            with self._store_lock:
                if self._store is None:
                    from spanbus.local.store import Retention, Store

                    self._store = Store.open(self._store_path, Retention.of_days(self._settings.store_days))
                self._store.ingest(signal, body)

        return keep

    # --- while it lives -----------------------------------------------------------------------------------------------

    def tick(self, open_records: Iterable[Record]) -> None:
        """Bring the journal up to date and collect metrics when it is time."""
        if self._journal is not None:
            self._journal.catch_up(open_records, time.time_ns())
        now_s = time.monotonic()
        if self._reader is not None and now_s >= self._next_export_s:
            self._next_export_s = now_s + self._reader.interval_s
            self._reader.export_now()

    def flush(self, timeout_s: float) -> bool:
        """Collect metrics and wait until everything is acknowledged."""
        if self._reader is not None:
            self._reader.export_now()
        return self._pipeline.flush(timeout_s) if self._pipeline is not None else True

    def statistics(self) -> DeliveryStatistics | None:
        return self._pipeline.statistics() if self._pipeline is not None else None

    def close(self, timeout_s: float | None = None) -> None:
        """Collect metrics a last time and deliver within ``timeout_s``, by default the exit limit."""
        if self._announcer is not None:
            self._announcer.close(0.05)
        if self._meter_provider is not None:
            self._meter_provider.shutdown()
        if self._pipeline is not None:
            self._pipeline.close(timeout_s)
        with self._store_lock:
            if self._store is not None and self._pipeline is not None and not self._pipeline.statistics().waiting:
                self._store.close()
                self._store = None

    def forked(self) -> None:
        """In a child: what was inherited belongs to the parent."""
        if self._pipeline is not None:
            self._pipeline.forked()

    # --- what dead processes left ---------------------------------------------------------------------------------------

    def _finish_leftover(self, leftover: Leftover) -> None:
        """End what a dead process left open, and count what it had measured and not exported."""
        from spanbus.telemetry.journal import Leftover as Left
        from spanbus.telemetry.journal import finished, measured

        if self._pipeline is None:
            return
        theirs = resource_of(leftover.group) or self._pipeline.resource
        spans = DirectSpans(self._pipeline, self.rendering, sampler=ALWAYS_ON, resource=theirs)
        ended = finished(Left(leftover.open, leftover.measurements))
        for record in reversed(ended):
            spans.opened(record)
        for record in ended:
            spans.closed(record)
        uncounted = [record for record in map(measured, leftover.measurements) if record is not None]
        uncounted.extend(record for record in ended if record.level in (names.Level.RUN, names.Level.PHASE))
        if not uncounted:
            return
        from spanbus.delivery.metric_reader import SpoolMetricReader

        reader = SpoolMetricReader(self._pipeline.put_metrics, "run", self._env)
        provider = self._meters(reader, theirs.merge(Resource({names.LIFETIME: "run"})))
        sink = MetricSink(provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL), long_lived=False)
        for record in uncounted:
            if record.handle is None:
                spans.opened(record)  # its context, for the exemplar
            sink.closed(record)
        provider.shutdown()

    def _delivery_numbers(self) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        """Delivery's counts as the catalogue's metrics."""
        found = self._pipeline.collected() if self._pipeline is not None else None
        if found is None:
            return {}
        signal, reason = names.DELIVERY_SIGNAL, names.DELIVERY_REASON
        age_s = max(0.0, time.time() - found.oldest_at_ns / 1e9) if found.oldest_at_ns else 0.0
        return {
            names.DELIVERY_SPOOLED: [({signal: key}, value) for key, value in found.spooled.items()],
            names.DELIVERY_DELIVERED: [({signal: key}, value) for key, value in found.delivered.items()],
            names.DELIVERY_REJECTED: [({signal: key, reason: why}, value) for (key, why), value in found.rejected.items()],
            names.DELIVERY_DROPPED_RECORDS: [({signal: key, reason: why}, value) for (key, why), value in found.dropped.items()],
            names.DELIVERY_SPOOL_SIZE: [({}, found.spool_bytes)],
            names.DELIVERY_OLDEST_AGE: [({}, age_s)],
        }


def _application_tracer_provider() -> TracerProviderApi | None:
    """The global TracerProvider where the application has set one."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else provider


def _application_meter_provider() -> metrics.MeterProvider | None:
    """The global MeterProvider where the application has set one; the API's own stand-in is a private class."""
    provider = metrics.get_meter_provider()
    if isinstance(provider, metrics.NoOpMeterProvider) or type(provider).__module__.startswith("opentelemetry.metrics"):
        return None
    return provider
