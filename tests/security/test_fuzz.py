"""Fuzzing of parsers of foreign data with arbitrary and mutated input: only the documented errors are raised.

It is short in a test run; ``make fuzz`` runs many more examples.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thorough import examples

from spanbus import dialects
from spanbus._backend import decoding
from spanbus._backend.address import FILE_NAME, read_address
from spanbus._backend.decoding import Bounds, Checked
from spanbus._delivery import answers
from spanbus._delivery.segment import BadSegment, Segment
from spanbus._otlp.bounds import check_json, check_protobuf
from spanbus._reading.reader import Reader
from spanbus._sanitize import block, one_line
from spanbus._store.store import Store
from spanbus._telemetry.redaction import Redactor
from spanbus.errors import DialectError, StoreError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", examples(60)))
Decode = Callable[[bytes, bool, Bounds], Checked]
fuzz = settings(max_examples=EXAMPLES, deadline=None)
BOUNDS = Bounds(10_000, 1_000)


def a_trace() -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    span = group.scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="GET")
    span.attributes.add(key="a").value.array_value.values.add(int_value=3)
    span.events.add(name="e").attributes.add(key="b").value.bytes_value = b"x"
    return request.SerializeToString()


def a_metric() -> bytes:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    point = scope.metrics.add(name="m").histogram.data_points.add(count=1, sum=1.0)
    point.explicit_bounds.append(1.0)
    point.bucket_counts.extend([1, 0])
    scope.metrics.add(name="n").sum.data_points.add(as_int=1)
    return request.SerializeToString()


def a_log() -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1)
    record.body.kvlist_value.values.add(key="k").value.double_value = math.pi
    return request.SerializeToString()


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Generate a valid body with some bytes replaced, inserted, removed or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at:at] = draw(st.binary(max_size=12))
            case 2:
                del data[at : at + draw(st.integers(1, 12))]
            case _:
                data[at:at] = data[at : at + 20] * draw(st.integers(1, 5))
    return bytes(data)


bodies = st.one_of(st.binary(max_size=400), mutated([a_trace(), a_metric(), a_log()]))
plain_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.just("failed"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=12),
                st.sampled_from(
                    "resourceSpans scopeSpans spans traceId spanId attributes key value event_type type payload phase timestamp"
                    " workflow_id run_id error duration result attempt".split()
                ),
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=20,
)


@fuzz
@given(bodies, st.sampled_from([decoding.traces, decoding.metrics, decoding.logs]))
def test_the_receiver_decodes_or_refuses_any_bytes(body: bytes, decode: Decode) -> None:
    with suppress(ValueError):
        checked = decode(body, False, BOUNDS)
        assert 0 <= checked.records <= BOUNDS.records


@fuzz
@given(plain_json, st.sampled_from([decoding.traces, decoding.metrics, decoding.logs]))
def test_the_receiver_decodes_or_refuses_any_json(document: object, decode: Decode) -> None:
    with suppress(ValueError):
        decode(json.dumps(document).encode(), True, BOUNDS)


@fuzz
@given(st.binary(max_size=600), st.integers(0, 20_000), st.integers(1, 100))
def test_compressed_bodies_stay_within_their_bound(body: bytes, limit: int, ratio: int) -> None:
    with suppress(ValueError):
        assert len(decoding.unpacked(body, limit, ratio, 64)) <= limit


@fuzz
@given(bodies, st.integers(0, 50))
def test_elements_of_any_bytes_are_counted(body: bytes, most: int) -> None:
    for message in (
        ExportTraceServiceRequest,
        ExportMetricsServiceRequest,
        ExportLogsServiceRequest,
    ):
        with suppress(ValueError):
            check_protobuf(body, message.DESCRIPTOR, most)  # pyright: ignore[reportArgumentType]
    with suppress(ValueError):
        check_json(body, most)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("fuzz") / "store.sqlite3")


@fuzz
@given(bodies, st.sampled_from(["traces", "metrics", "logs"]))
def test_the_store_ingests_any_decoded_request(store: Store, body: bytes, signal: str) -> None:
    decode = {"traces": decoding.traces, "metrics": decoding.metrics, "logs": decoding.logs}[signal]
    try:
        checked = decode(body, False, BOUNDS)
    except ValueError:
        return
    with suppress(StoreError):
        store.ingest(signal, checked.body)


@fuzz
@given(
    st.one_of(plain_json, st.binary(max_size=30)),
    st.sampled_from(["spanbus", "generic", "crackerjack"]),
)
def test_a_dialect_reads_or_refuses_any_event(event: object, name: str) -> None:
    with suppress(ValueError, DialectError):
        Reader(dialects.load(name), warn=lambda _: None).read(event)


@fuzz
@given(st.binary(min_size=120, max_size=120), st.binary(max_size=300), st.booleans())
def test_a_segment_of_any_bytes_is_recovered_or_refused(
    header: bytes, rest: bytes, ours: bool
) -> None:
    magic = b"SPANBUS\x01\x01\x00" if ours else b""
    content = bytearray((magic + header)[:128] + rest)
    try:
        segment = Segment.recover(content, Path("1.seg"), None)
    except BadSegment:
        return
    for frame in segment.frames(128):
        assert 128 <= frame.offset < frame.end <= len(content)


@fuzz
@given(
    bodies,
    st.sampled_from(
        ["application/json", "application/x-protobuf", "text/plain", "text/html", "", "x"]
    ),
)
def test_any_answer_of_a_collector_is_read(body: bytes, kind: str) -> None:
    said = answers.error_message(body, kind) + answers.partial_success(body, kind).message
    assert said.isprintable()
    assert (answers.retry_delay_s(body) or 0.0) >= 0.0
    assert (answers.retry_after_s(body.decode("latin-1"), 0.0) or 0.0) >= 0.0


@fuzz
@given(plain_json)
def test_any_json_answer_of_a_collector_is_read(document: object) -> None:
    for wrapped in (
        document,
        {"message": document},
        {"partialSuccess": document},
        {"partialSuccess": {"errorMessage": document, "rejectedSpans": document}},
    ):
        body = json.dumps(wrapped).encode()
        told = answers.partial_success(body, "application/json")
        assert told.rejected >= 0
        assert (told.message + answers.error_message(body, "application/json")).isprintable()


@fuzz
@given(st.text(max_size=200), st.integers(1, 300))
def test_any_text_is_sanitized_for_display(text: str, limit: int) -> None:
    assert len(one_line(text, limit)) <= limit
    assert not any(unicodedata.category(letter) == "Cc" for letter in one_line(text, limit))
    assert "\x1b" not in block(text) and "\r" not in block(text)
    Redactor().text(text, limit).encode()


@fuzz
@given(st.one_of(plain_json.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200)))
def test_an_address_file_of_any_bytes_is_read_or_ignored(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder: Path = tmp_path_factory.mktemp("address")
    (folder / FILE_NAME).write_bytes(content)
    (folder / FILE_NAME).chmod(0o600)
    assert read_address(folder) is None


def test_the_inputs_of_mutation_are_valid() -> None:
    for decode, body in (
        (decoding.traces, a_trace()),
        (decoding.metrics, a_metric()),
        (decoding.logs, a_log()),
    ):
        assert decode(body, False, BOUNDS).records >= 1
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(b"\xff")
