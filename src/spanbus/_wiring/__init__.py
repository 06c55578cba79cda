"""Build the providers, sinks and pipeline of a runtime when its first event arrives.

They are created when the first event arrives, so that providers which the application sets up after its bus are still found.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spanbus._correlation.span_state import EventSink, SpanSink, SpanState
from spanbus._delivery.destinations import exporters
from spanbus._delivery.ephemeral import is_ephemeral
from spanbus._delivery.metric_settings import (
    exemplar_filter,
    export_interval_s,
    temporalities,
    wants_exponential_histograms,
)
from spanbus._delivery.sender_options import to_stderr
from spanbus._delivery.statistics import DeliveryStatistics, total
from spanbus._loggers import Logger
from spanbus._otlp.signals import OTLP_SIGNALS
from spanbus._semantics import names
from spanbus._settings import Settings
from spanbus._telemetry.context_only import ContextOnly
from spanbus._telemetry.journal import JournalSink
from spanbus._telemetry.limits import log_record_limits, span_limits
from spanbus._telemetry.meter import PlainMeter, PlainReader
from spanbus._telemetry.metrics import MetricSink, Numbers, observe_numbers
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.resource import (
    asks_for_detectors,
    names_a_service,
    redacted,
    resource_of_process,
    sdk_resource,
)
from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._telemetry.spans import SCOPE, DirectSpans
from spanbus._telemetry.template import Template
from spanbus._version import __version__
from spanbus._wiring.application import (
    meter_provider_of_application,
    provide,
    tracer_provider_of_application,
)
from spanbus._wiring.delivery_numbers import delivery_numbers
from spanbus._wiring.local import LocalExporter
from spanbus._wiring.own import own_meter_provider, own_sampler

if TYPE_CHECKING:
    from opentelemetry import metrics
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider as TracerProviderApi

    from spanbus._backend.announce import Announcer
    from spanbus._delivery.metric_reader import SpoolMetricReader
    from spanbus._delivery.pipeline import Local, Pipeline
    from spanbus._delivery.recovery import Leftover
    from spanbus._delivery.sdk import SdkDelivery
    from spanbus._otlp.resource import PlainResource

logger = Logger("spanbus")


class Wiring:
    """Providers, sinks and pipeline of one runtime; closed once. ``paused`` blocks measurements during a collection."""

    def __init__(
        self,
        settings: Settings,
        *,
        lifetime: Literal["run", "service"],
        command_line: bool,
        env: Mapping[str, str],
        store_path: Path,
        paused: Callable[[], AbstractContextManager[None]],
        tell: Callable[[str], None] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self._attributes, self._tell = attributes or {}, tell or to_stderr
        self._settings, self._env = settings, env
        self._lifetime: Literal["run", "service"] = lifetime
        self._store_path = store_path
        self._command_line = command_line
        self._local: LocalExporter | None = None
        self._pipeline: Pipeline | None = None
        self._sdk: SdkDelivery | None = None
        self._reader: SpoolMetricReader | PlainReader | None = None
        self._next_export_s = float("inf")
        self._journal: JournalSink | None = None
        self._announcer: Announcer | None = None
        self._loggers: LoggerProvider | None = None
        self._meter_provider: MeterProvider | None = None
        self._meter: metrics.Meter | PlainMeter | None = None
        redactor = self._redactor = Redactor(
            settings.redact, patterns=settings.redact_patterns, payload_allow=settings.payload_allow
        )
        self._limits = span_limits(env)
        self.template = Template(
            redactor,
            span_events=settings.events in ("span", "both"),
            exception_events=settings.exception_signal != "logs",
            limits=self._limits,
        )
        self.carrier_statistics: Callable[[], DeliveryStatistics] | None = None
        """Counts of the events carried to NATS."""
        self.sinks: tuple[SpanSink, ...] = ()
        self.note_sinks: tuple[EventSink, ...] = ()
        self._tracer_provider: TracerProviderApi | None = None
        if not settings.sdk_disabled:
            self._wire(paused)

    def _wire(self, paused: Callable[[], AbstractContextManager[None]]) -> None:
        settings = self._settings
        app_tracers, app_meters = tracer_provider_of_application(), meter_provider_of_application()
        writes_store = settings.local == "on" or (
            settings.local == "auto" and (self._command_line or not settings.endpoint_configured)
        )
        sinks: list[SpanSink] = []
        notes: list[EventSink] = []
        sdk: SdkDelivery | None = None
        pipeline: Pipeline | None = None
        if app_tracers is None or app_meters is None:
            remote = settings.endpoint_configured or not writes_store
            kept = self._local = self._local_exporter(writes_store)
            local = kept.keep if kept is not None else None
            if self._has_spool():
                pipeline = self._pipeline = self._open_pipeline(remote=remote, local=local)
            else:
                sdk = self._sdk = self._open_sdk(remote=remote, local=local)
        if app_tracers is not None:
            self._tracer_provider = app_tracers
            from opentelemetry import context as otel_context

            from spanbus._telemetry.tracer_spans import TracerSpans

            tracer = app_tracers.get_tracer(names.SCOPE, __version__, names.SCHEMA_URL)
            sinks.append(TracerSpans(tracer, self.template, ambient=otel_context.get_current))
        else:
            sinks.append(self._own_spans(pipeline, sdk))
        if app_meters is not None:
            meter = app_meters.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
            sinks.append(self._metrics(meter))
        else:
            meter = self._own_meter(pipeline, sdk, paused, sinks)
        self._meter = meter
        if self._delivery is not None:
            observe_numbers(meter, "spanbus.delivery.", self._delivery_numbers)
        if settings.events in ("log", "both") or settings.exception_signal is not None:
            self._wire_logs(sinks, notes)
        if pipeline is not None and app_tracers is None:
            self._journal = JournalSink(pipeline.journal, self.template)
            sinks.append(self._journal)
        if writes_store:
            from spanbus._backend.announce import Announcer

            project = (
                str(pipeline.resource.attributes.get("service.name", ""))
                if pipeline is not None
                else ""
            )
            self._announcer = Announcer(settings.state_dir, self.template, project=project)
            sinks.append(self._announcer)
            notes.append(self._announcer)
        self.sinks, self.note_sinks = tuple(sinks), tuple(notes)
        if pipeline is not None:
            pipeline.start()

    @property
    def _delivery(self) -> Pipeline | SdkDelivery | None:
        return self._pipeline or self._sdk

    def _has_spool(self) -> bool:
        """Whether to deliver through a spool; on a system without one, print a message and let the SDK deliver."""
        if self._settings.delivery == "sdk":
            return False
        try:
            import_module("spanbus._delivery.pipeline")
        except ImportError as error:
            self._tell(
                f"spanbus: this system has no spool ({error}); telemetry goes through the SDK's own processors, as with SPANBUS_DELIVERY=sdk"
            )
            return False
        return True

    def _open_pipeline(self, *, remote: bool, local: Local | None) -> Pipeline:
        from spanbus._delivery.pipeline import DeliveryOptions, Pipeline

        settings = self._settings
        pipeline = Pipeline(
            DeliveryOptions(
                state_dir=settings.state_dir,
                resource=self._resource(plain=self._is_plain()),
                env=self._env,
                lifetime=self._lifetime,
                exit_timeout_s=settings.exit_timeout_s,
                taking_timeout_s=settings.ci_exit_timeout_s if is_ephemeral(self._env) else 0.0,
                quota_bytes=settings.spool_quota_bytes,
                remote=remote,
                local=local,
                tell=self._tell,
            ),
            on_leftover=self._finish_leftover,
        )
        pipeline.introduce(SCOPE)
        return pipeline

    def _open_sdk(self, *, remote: bool, local: Local | None) -> SdkDelivery:
        from spanbus._delivery.sdk import SdkDelivery

        settings = self._settings
        return SdkDelivery(
            sdk_resource(self._resource(plain=False)),
            self._env,
            lifetime=self._lifetime,
            remote=remote,
            local=local,
            exit_timeout_s=settings.exit_timeout_s,
            taking_timeout_s=settings.ci_exit_timeout_s,
            tell=self._tell,
        )

    def _own_spans(self, pipeline: Pipeline | None, sdk: SdkDelivery | None) -> SpanSink:
        """Sink for our own spans: encoded directly for the spool, or made with the SDK, with the same ids."""
        if pipeline is not None:
            sampler = EnvironmentSampler.of(self._env)
            return DirectSpans(pipeline, self.template, sampler=sampler, resource=pipeline.resource)
        from spanbus._telemetry.tracer_spans import TracerSpans

        assert sdk is not None and self.tracer_provider is not None
        tracer = self.tracer_provider.get_tracer(names.SCOPE, __version__, names.SCHEMA_URL)
        return TracerSpans(tracer, self.template, ids=sdk.ids)

    @property
    def tracer_provider(self) -> TracerProviderApi | None:
        """TracerProvider of the spans: the application's, else our own, created lazily."""
        delivery = self._delivery
        if self._tracer_provider is None and delivery is not None:
            from opentelemetry.sdk.trace import TracerProvider

            own = TracerProvider(
                sampler=own_sampler(self._env),
                resource=sdk_resource(delivery.resource),
                id_generator=self._sdk.ids if self._sdk is not None else None,
                shutdown_on_exit=False,
                span_limits=self._limits.of_sdk(),
            )
            if self._pipeline is not None:
                own.add_span_processor(self._pipeline.span_processor)
            for processor in self._sdk.span_processors() if self._sdk is not None else ():
                own.add_span_processor(processor)
            self._tracer_provider = own
        return self._tracer_provider

    def _own_meter(
        self,
        pipeline: Pipeline | None,
        sdk: SdkDelivery | None,
        paused: Callable[[], AbstractContextManager[None]],
        sinks: list[SpanSink],
    ) -> metrics.Meter | PlainMeter:
        """Create our meter and its sink; an SDK meter if the SDK delivers, or for exponential histograms."""
        if pipeline is not None and not wants_exponential_histograms(self._env):
            temporality = temporalities(self._lifetime, self._env)
            own = PlainMeter(temporality.counters)
            sink = MetricSink(
                own,
                long_lived=self._lifetime == "service",
                exemplar_filter=exemplar_filter(self._env),
            )
            self._reader = PlainReader(
                own,
                sink,
                pipeline.put_metrics,
                pipeline.resource,
                SCOPE,
                export_interval_s(self._env),
                durations=temporality.durations,
                exclusive=paused,
                mark=pipeline.measures(),
            )
            self._next_export_s = time.monotonic() + self._reader.interval_s
            sinks.append(sink)
            return own
        if pipeline is not None:
            reader = self._reader = pipeline.metric_reader(paused)
            self._next_export_s = time.monotonic() + reader.interval_s
            self._meter_provider = own_meter_provider(
                [reader], sdk_resource(pipeline.resource), self._env
            )
        else:
            assert sdk is not None
            self._meter_provider = own_meter_provider(sdk.metric_readers(), sdk.resource, self._env)
        meter = self._meter_provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
        sinks.append(self._metrics(meter))
        return meter

    def _metrics(self, meter: metrics.Meter) -> MetricSink:
        """Sink that records all metrics, durations included, on a meter of the SDK."""
        return MetricSink(meter, long_lived=self._lifetime == "service")

    def _wire_logs(self, sinks: list[SpanSink], notes: list[EventSink]) -> None:
        from spanbus._telemetry.logs import LogSink

        provider = self._logger_provider()
        if provider is None:
            return
        log_sink = LogSink(
            provider.get_logger(names.SCOPE, __version__, names.SCHEMA_URL),
            self.template,
            events=self._settings.events in ("log", "both"),
            exceptions=self._settings.exception_signal is not None,
        )
        sinks.append(log_sink)
        notes.append(log_sink)

    def _logger_provider(self) -> LoggerProvider | None:
        """The application's LoggerProvider, else our own; None without either."""
        from opentelemetry._logs import get_logger_provider
        from opentelemetry.sdk._logs import LoggerProvider

        app_tracers = get_logger_provider()
        if isinstance(app_tracers, LoggerProvider):
            return app_tracers
        delivery = self._delivery
        if self._loggers is None and delivery is not None:
            self._loggers = LoggerProvider(
                resource=sdk_resource(delivery.resource),
                shutdown_on_exit=False,
                log_record_limits=log_record_limits(self._env),
            )
            for processor in delivery.log_processors():
                self._loggers.add_log_record_processor(processor)
        return self._loggers

    def output_logger(self) -> Callable[[SpanState, str], None] | None:
        """Function that sends a line of a command's output as a log record; None unless ``output`` is ``logs``."""
        if self._settings.output != "logs" or self._settings.sdk_disabled:
            return None
        from spanbus._telemetry.logs import send_output

        provider = self._logger_provider()
        if provider is None:
            return None
        logger = provider.get_logger(names.SCOPE, __version__, names.SCHEMA_URL)
        return lambda record, line: send_output(logger, record, line)

    def _resource(self, *, plain: bool) -> Resource | PlainResource:
        more: dict[str, str] = dict(self._attributes)
        if self._lifetime == "run":
            more[names.LIFETIME] = "run"
        known: dict[str, str | int] = {}
        if self._command_line:
            from spanbus._project import project_name, resource_attributes

            known = dict(resource_attributes(self._env))
            if not names_a_service(self._env):
                known["service.name"] = project_name()
        resource = resource_of_process(self._env, known, more, plain=plain)
        return redacted(resource, self._redactor)

    def _is_plain(self) -> bool:
        """Whether the resource can be a plain one. With the SDK's resources loaded, the application's is shared."""
        return not asks_for_detectors(self._env) and (
            self._command_line or "opentelemetry.sdk.resources" not in sys.modules
        )

    def provide(self) -> None:
        """Make our TracerProvider the global one if the application has none."""
        own = self.tracer_provider
        if self._pipeline is not None:
            provide(own, (self._pipeline.span_processor,))
        else:
            provide(own, self._sdk.span_processors() if self._sdk is not None else ())

    def _local_exporter(self, writes_store: bool) -> LocalExporter | None:
        """Exporter to the local store, and to the console if ``OTEL_<SIGNAL>_EXPORTER`` names it."""
        shown = {
            str(signal) for signal in OTLP_SIGNALS if "console" in exporters(self._env, signal)
        }
        if not writes_store and not shown:
            return None
        return LocalExporter(
            self._store_path,
            (self._settings.store_days, self._settings.store_bytes),
            writes_store=writes_store,
            shown=shown,
        )

    # --- use ----------------------------------------------------------------------------------------------------------

    def tick(self, changed: Iterable[SpanState]) -> None:
        """Update the journal; collect metrics when they are due."""
        if self._journal is not None:
            self._journal.catch_up(changed, time.time_ns())
        now_s = time.monotonic()
        if self._reader is not None and now_s >= self._next_export_s:
            self._next_export_s = now_s + self._reader.interval_s
            self._reader.export_now()

    def flush(self, timeout_s: float) -> bool:
        """Adopt dead processes, collect metrics and wait until everything is acknowledged."""
        if self._pipeline is not None:
            self._pipeline.take_over()  # first, so that the collection includes its counts
        if self._reader is not None:
            self._reader.export_now()
        return self._delivery.flush(timeout_s) if self._delivery is not None else True

    def observe(self, prefix: str, read: Numbers) -> None:
        """Export the catalogue's metrics whose names begin with ``prefix``, fed by ``read``."""
        if self._meter is not None:
            observe_numbers(self._meter, prefix, read)

    def context_only(self) -> SpanSink:
        """Sink of a bus whose telemetry an observer makes; it only propagates context."""
        return ContextOnly(self.template, EnvironmentSampler.of(self._env))

    @property
    def sampler(self) -> str:
        """Text of the sampler in the environment, for messages."""
        return str(EnvironmentSampler.of(self._env))

    def arrival(self) -> Callable[[], bool]:
        """Collect metrics; return a function that tells whether all records until now have arrived.

        It always returns True without a spool, because arrival is unknown then.
        """
        if self._reader is not None:
            self._reader.export_now()
        return self._pipeline.arrival() if self._pipeline is not None else lambda: True

    def deliver(self, timeout_s: float) -> bool:
        """Adopt dead processes and wait until everything is acknowledged, without a collection of metrics."""
        return self._delivery.flush(timeout_s) if self._delivery is not None else True

    def warm(self, timeout_s: float) -> None:
        """Wait until the imports for sending are done, so that they take no time of a short command's exit limit."""
        if self._pipeline is not None:
            self._pipeline.sender.warm(timeout_s)

    def statistics(self) -> DeliveryStatistics | None:
        return self._delivery.statistics() if self._delivery is not None else None

    def close(self, timeout_s: float | None = None) -> None:
        """Collect metrics a last time and deliver within ``timeout_s``, by default the exit limit."""
        if self._announcer is not None:
            self._announcer.close(0.05)
        if self._meter_provider is not None and self._sdk is None:
            self._meter_provider.shutdown()
        elif isinstance(self._reader, PlainReader):
            self._reader.export_now()
        delivery = self._delivery
        if delivery is not None:
            delivery.close(timeout_s)
        if self._local is not None and delivery is not None:
            self._local.close(lambda: bool(delivery.statistics().waiting))

    def forked(self) -> None:
        """In a child process: release what belongs to the parent."""
        if self._delivery is not None:
            self._delivery.forked()

    def _finish_leftover(self, leftover: Leftover) -> None:
        if self._pipeline is None:
            return
        from spanbus._wiring.leftovers import finish_leftover

        finish_leftover(leftover, self._pipeline, self.template, self._env)

    def _delivery_numbers(self) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
        found = self._delivery.collected() if self._delivery is not None else None
        if found is not None and self.carrier_statistics is not None:
            found = total(found, [self.carrier_statistics()])
        return delivery_numbers(found) if found is not None else {}
