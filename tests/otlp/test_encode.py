"""What decodes from our bytes is what decodes from the SDK's encoder."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as sdk_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from thorough import examples

from spanbus._delivery.spool import Stored
from spanbus._otlp import encode as wire
from spanbus._otlp import encode_metrics as wire_metrics
from spanbus._otlp import values as otlp
from spanbus._otlp.signals import Signal

scalars = (
    st.text(max_size=300)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=200)
    | st.none()
)
values = (
    scalars
    | st.lists(scalars, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=10), scalars, max_size=3)
)
attributes = st.dictionaries(st.text(max_size=40), values, max_size=8)
times = st.integers(0, 2**63 - 1)
states = st.dictionaries(
    st.text(string.ascii_lowercase, min_size=1, max_size=5),
    st.text(string.ascii_lowercase, min_size=1, max_size=5),
    max_size=3,
).map(lambda entries: TraceState(list(entries.items())))
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(0), TraceFlags(1), TraceFlags(3)]),
    states,
)
scopes = st.none() | st.builds(
    InstrumentationScope,
    st.text(max_size=10),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=10),
)
resources = st.builds(
    Resource,
    attributes.map(lambda found: {key: value for key, value in found.items() if key}),
    st.none() | st.text(max_size=20),
)
spans = st.builds(
    ReadableSpan,
    name=st.text(max_size=60),
    context=contexts,
    parent=st.none() | contexts,
    resource=resources,
    attributes=attributes,
    events=st.lists(st.builds(Event, st.text(max_size=30), attributes, times), max_size=4),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=3),
    kind=st.sampled_from(list(SpanKind)),
    start_time=times,
    end_time=times,
    instrumentation_scope=scopes,
    status=st.builds(Status, st.sampled_from(list(StatusCode)))
    | st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=50)),
)


def stored(found: list[ReadableSpan]) -> list[Stored]:
    return [
        Stored(
            Signal.TRACES,
            wire.encode_group(span.resource, span.instrumentation_scope),
            wire.encode_span(span),
            1,
        )
        for span in found
    ]


def test_varints_of_every_size() -> None:
    for number in (0, 1, 127, 128, 300, 16_383, 16_384, 2**21, 2**35, 2**63 - 1):
        encoded = otlp.varint(number)
        assert (
            sum((byte & 0x7F) << (7 * position) for position, byte in enumerate(encoded)) == number
        )
    assert len(otlp.varint(-1)) == 10


@given(spans)
@settings(max_examples=examples(300), deadline=None)
def test_spans_decode_equal(span: ReadableSpan) -> None:
    expected = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]
    assert Span.FromString(wire.encode_span(span)) == expected


@given(st.lists(spans, max_size=4))
@settings(max_examples=examples(60), deadline=None)
def test_batches_decode_equal(found: list[ReadableSpan]) -> None:
    ours = ExportTraceServiceRequest.FromString(wire.join(Signal.TRACES, stored(found)))

    def flat(request: ExportTraceServiceRequest) -> list[tuple[str, str, str, str, str]]:
        return sorted(
            (str(group.resource), group.schema_url, str(scope.scope), scope.schema_url, str(span))
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        )

    assert flat(ours) == flat(encode_spans(found))


@given(
    st.builds(
        lambda span, body, severity, text, name, attributes, at, observed: ReadableLogRecord(
            LogRecord(
                timestamp=at,
                observed_timestamp=observed,
                context=set_span_in_context(NonRecordingSpan(span)),
                severity_text=text,
                severity_number=severity,
                body=body,
                attributes=attributes,
                event_name=name,
            ),
            Resource({}),
            InstrumentationScope("scope"),
        ),
        contexts,
        values,
        st.none() | st.sampled_from(list(SeverityNumber)),
        st.none() | st.text(max_size=9),
        st.none() | st.text(max_size=20),
        attributes,
        times,
        times,
    )
)
@settings(max_examples=examples(150), deadline=None)
def test_log_records_decode_equal(record: ReadableLogRecord) -> None:
    data = wire.join(
        Signal.LOGS,
        [
            Stored(
                Signal.LOGS,
                wire.encode_group(record.resource, record.instrumentation_scope),
                wire.encode_log(record),
                1,
            )
        ],
    )
    assert ExportLogsServiceRequest.FromString(data) == encode_logs([record])


@pytest.mark.parametrize("seed", range(12))
def test_collections_of_metrics_decode_equal(seed: int) -> None:
    chance = random.Random(seed)
    temporality = AggregationTemporality.DELTA if seed % 2 else AggregationTemporality.CUMULATIVE
    from opentelemetry.sdk.metrics import Counter, Histogram

    reader = InMemoryMetricReader(
        preferred_temporality={Counter: temporality, Histogram: temporality}
    )
    provider = MeterProvider(
        [reader],
        resource=Resource({"service.name": "s", "n": seed}, "https://schema"),
        shutdown_on_exit=False,
        views=[
            View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())
        ],
    )
    meter = provider.get_meter("scope", "1.0", "https://scope", {"a": "b"})
    counter, up_down, histogram = (
        meter.create_counter("counter", "1", "counts"),
        meter.create_up_down_counter("up_down"),
        meter.create_histogram("h", "s"),
    )
    exponential, gauge = meter.create_histogram("exponential"), meter.create_gauge("gauge", "s")
    meter.create_counter("never.used")
    context = set_span_in_context(
        NonRecordingSpan(
            SpanContext(chance.getrandbits(128), chance.getrandbits(64), False, TraceFlags(1))
        )
    )
    for _ in range(chance.randrange(0, 40)):
        said = {"key": chance.choice("abc"), "other": chance.choice([1, 2.5, True, "x"])}
        counter.add(chance.choice([1, 2.5, 2**40]), said, context)
        up_down.add(chance.choice([-3, 4, -0.5]), said)
        histogram.record(chance.expovariate(1), said, context if chance.random() < 0.5 else None)
        exponential.record(chance.expovariate(0.01), said, context)
        gauge.set(chance.choice([0, 1, 2.5, -7]), said)
    data = reader.get_metrics_data()
    if data is not None:
        assert ExportMetricsServiceRequest.FromString(
            wire_metrics.encode_metrics(data)
        ) == sdk_metrics(data)
        assert wire_metrics.count_points(data) > 0
    provider.shutdown()


def test_what_the_sdk_cannot_encode_is_kept_as_far_as_it_can_be() -> None:
    context = SpanContext(1, 2, False)
    span = ReadableSpan(
        "n\ud800ame",
        context,
        attributes={"big": 2**70, "half": "\udc00", "object": object(), "nan": float("nan")},  # type: ignore[dict-item]
        resource=Resource({}),
        start_time=1,
        end_time=2,
    )
    decoded = Span.FromString(wire.encode_span(span))
    said = {pair.key: pair.value for pair in decoded.attributes}
    assert decoded.name == "n?ame"
    assert said["big"].string_value == str(2**70)
    assert said["half"].string_value == "?"
    assert "object" not in said
    assert said["nan"].double_value != said["nan"].double_value
