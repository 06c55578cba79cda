"""The correlator with in-memory exporters of the SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider, export
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanSink, SpanState
from spanbus._delivery.sdk import RecordIds
from spanbus._otlp.metrics_data import (
    CUMULATIVE,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from spanbus._otlp.resource import PlainResource
from spanbus._reading import dialect_file
from spanbus._reading.reader import Reader
from spanbus._semantics import Level, Result, names
from spanbus._telemetry.logs import LogSink
from spanbus._telemetry.meter import PlainMeter, PlainReader
from spanbus._telemetry.metrics import MetricSink
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.spans import SCOPE, DirectSpans
from spanbus._telemetry.template import Template
from spanbus._telemetry.tracer_spans import TracerSpans
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Workflow
from spanbus._workflow.engine import BasicWorkflowEngine, RunOptions, RunResult
from spanbus._workflow.identity import TraceContext

START_NS = 1_790_000_000_000_000_000
SECOND = 1_000_000_000

Provider = Literal["spool", "sdk", "theirs"]
"""Path of the spans: encoded by spanbus for the spool; a tracer of spanbus with the same ids (``SPANBUS_DELIVERY=sdk``); or the
tracer of a provider that the application has set."""
PROVIDERS = get_args(Provider)
SUMS, HISTOGRAMS = (Sum, export.Sum), (Histogram, export.Histogram)
"""The classes of our own meter and of the SDK's; their attributes have the same names."""


class DecodedEvent(NamedTuple):
    """A span event with the attribute names of the SDK's ``Event``."""

    name: str
    timestamp: int
    attributes: Mapping[str, AttributeValue]
    dropped_attributes: int = 0


@dataclass(frozen=True)
class DecodedSpan:
    """A finished span with the attribute names of the SDK's ``ReadableSpan``."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    kind: SpanKind
    start_time: int
    end_time: int
    attributes: Mapping[str, AttributeValue]
    events: Sequence[DecodedEvent]
    links: Sequence[Link]
    status: Status
    resource: Resource
    dropped_attributes: int = 0
    dropped_events: int = 0

    def get_span_context(self) -> SpanContext:
        return self.context


class Exported:
    """A pipeline that hands finished spans straight to an exporter."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def put_encoded(
        self, span_id: int, span: bytes, resource: Resource, scope: InstrumentationScope
    ) -> None:
        assert scope == SCOPE
        found = decoded(span, resource)
        assert found.context.span_id == span_id
        self._exporter.export([cast("ReadableSpan", found)])

    def dropped_of(self, trace_id: int) -> int:
        del trace_id
        return 0


def decoded(span: bytes, resource: Resource) -> DecodedSpan:
    """Decode a span from its OTLP bytes with the generated protobuf classes."""
    message = Span.FromString(span)
    trace_id, flags = int.from_bytes(message.trace_id, "big"), TraceFlags(TraceFlags.SAMPLED)
    parent = (
        SpanContext(
            trace_id,
            int.from_bytes(message.parent_span_id, "big"),
            bool(message.flags & 0x200),
            flags,
        )
        if message.parent_span_id
        else None
    )
    return DecodedSpan(
        message.name,
        SpanContext(
            trace_id,
            int.from_bytes(message.span_id, "big"),
            False,
            flags,
            TraceState.from_header([message.trace_state]) if message.trace_state else None,
        ),
        parent,
        SpanKind(message.kind - 1),
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        _mapping(message.attributes),
        [
            DecodedEvent(
                event.name,
                event.time_unix_nano,
                _mapping(event.attributes),
                event.dropped_attributes_count,
            )
            for event in message.events
        ],
        [
            Link(
                SpanContext(
                    int.from_bytes(link.trace_id, "big"),
                    int.from_bytes(link.span_id, "big"),
                    True,
                    flags,
                ),
                _mapping(link.attributes),
            )
            for link in message.links
        ],
        Status(StatusCode(message.status.code), message.status.message or None),
        resource,
        message.dropped_attributes_count,
        message.dropped_events_count,
    )


def _mapping(attributes: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> AttributeValue:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(item.string_value for item in value.array_value.values)
    assert kind in ("string_value", "bool_value", "int_value", "double_value")
    return cast("AttributeValue", getattr(value, kind))


class Rendered:
    """A correlator with all sinks. ``run`` runs the real engine, ``say`` feeds single events one second apart."""

    def __init__(
        self,
        provider: Provider = "spool",
        *,
        sampler: Sampler = ALWAYS_ON,
        limits: SpanLimits | None = None,
        span_events: bool = True,
        log_events: bool = False,
        exception_events: bool = True,
        exception_logs: bool = False,
        long_lived: bool = False,
    ) -> None:
        self._exporter, self._logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        template = Template(
            Redactor(), span_events=span_events, exception_events=exception_events, limits=limits
        )
        sink: SpanSink
        if provider == "spool":
            sink = DirectSpans(
                Exported(self._exporter), template, sampler=sampler, resource=Resource({})
            )
        else:
            ids = RecordIds() if provider == "sdk" else None
            tracers = TracerProvider(
                sampler=sampler, span_limits=limits, id_generator=ids, shutdown_on_exit=False
            )
            tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
            sink = TracerSpans(tracers.get_tracer(provider), template, ids=ids)
        if provider == "spool":
            own = PlainMeter(CUMULATIVE)
            counted = MetricSink(own, long_lived=long_lived, exemplar_filter="trace_based")
            self._collect = _collecting(own, counted)
        else:
            reader = export.InMemoryMetricReader()
            meters = MeterProvider([reader], shutdown_on_exit=False)
            counted = MetricSink(meters.get_meter("test"), long_lived=long_lived)
            self._collect = reader.get_metrics_data
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        logs = LogSink(
            loggers.get_logger("test"), template, events=log_events, exceptions=exception_logs
        )
        self.errors: list[Exception] = []
        sinks: list[SpanSink] = [sink, counted, logs]
        self.correlator = Correlator(sinks, note_sinks=[logs], on_sink_error=self.errors.append)
        self._events = Reader(dialect_file.load("spanbus"))
        self.now_ns = START_NS
        self._count = 0

    async def run(self, workflow: Workflow, options: RunOptions | None = None) -> RunResult:
        """Run a workflow with the real engine on a bus that feeds the correlator."""
        bus = WorkflowEventBus()
        bus.subscribe(None, self.feed)
        return await BasicWorkflowEngine(bus).run(workflow, options)

    def feed(self, event: object) -> None:
        self.correlator.apply(self._events.read(event))

    def say(
        self,
        event_type: str,
        payload: Mapping[str, object] | None = None,
        *,
        after_s: float = 1.0,
        **identity: object,
    ) -> None:
        self.now_ns += int(after_s * SECOND)
        self._count += 1
        self.feed(
            {
                "event_type": event_type,
                "event_id": f"e{self._count}",
                "at_ns": self.now_ns,
                "payload": payload or {},
                **identity,
            }
        )

    # --- output -------------------------------------------------------------------------------------------------------

    @property
    def spans(self) -> list[ReadableSpan]:
        """Finished spans in the order of their start."""
        assert self.errors == []
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.spans if span.name == name]
        return found

    @property
    def logs(self) -> list[ReadableLogRecord]:
        assert self.errors == []
        return list(self._logs.get_finished_logs())

    def metrics(self) -> dict[str, Metric]:
        data = cast("MetricsData | None", self._collect())
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def numbers(self, name: str) -> dict[tuple[object, ...], float]:
        """Return the values of a counter or gauge by attribute values, which are in the order of the attribute names."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric is not None else ()
        return {
            tuple(value for _, value in sorted((point.attributes or {}).items())): point.value
            for point in points
            if isinstance(point, (NumberDataPoint, export.NumberDataPoint))
        }

    def histogram(self, name: str) -> list[HistogramDataPoint]:
        data = self.metrics()[name].data
        assert isinstance(data, HISTOGRAMS)
        return list(data.data_points)


def _collecting(meter: PlainMeter, counted: MetricSink) -> Callable[[], MetricsData | None]:
    """Return a function that collects our own meter, like the SDK's ``InMemoryMetricReader.get_metrics_data``."""
    put: list[MetricsData] = []
    reader = PlainReader(
        meter,
        counted,
        lambda data, _: put.append(data),
        PlainResource({}),
        SCOPE,
        60.0,
        durations=CUMULATIVE,
    )

    def collect() -> MetricsData | None:
        reader.export_now()
        return put.pop() if put else None

    return collect


def executed(correlator: Correlator, *, of_phase: str | None = None) -> SpanState:
    """Return the ended execution of a task that waited for two seconds and ran for one."""
    record = execution_begun(correlator, of_phase=of_phase)
    correlator.end(record, Result.SUCCESS, None, START_NS + SECOND, SECOND)
    return record


def execution_begun(correlator: Correlator, *, of_phase: str | None = None) -> SpanState:
    """Return the same execution while it is open."""
    record = SpanState(
        Level.EXECUTION,
        "tasks.build",
        run_id="r",
        workflow="w",
        trace_id=7,
        span_id=8,
        started_at_ns=START_NS,
        remote_parent=TraceContext(7, 9),
        task_type="celery",
    )
    record.of_phase = of_phase
    record.describe(names.QUEUE_WAIT, 2.0)
    record.describe(names.QUEUE_NAME, "celery")
    record.describe(names.WORKER, "worker@host")
    record.describe(names.TASK_ID, "1")
    record.describe(names.REDELIVERED, True)
    correlator.begin(record)
    return record
