"""Elements of a body, counted before it is decoded: the count is skipped only where it could not be too high."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thorough import examples

from spanbus._otlp import bounds
from spanbus._otlp.bounds import TooMany, check_protobuf


def request(spans: int, attributes: int, text: str) -> bytes:
    made = ExportTraceServiceRequest()
    inner = made.resource_spans.add().scope_spans.add().spans
    for _ in range(spans):
        span = inner.add(name=text)
        for _ in range(attributes):
            span.attributes.add(key=text).value.string_value = text
    return made.SerializeToString()


def is_refused(body: bytes, most: int) -> bool:
    try:
        check_protobuf(body, ExportTraceServiceRequest.DESCRIPTOR, most)
    except TooMany:
        return True
    return False


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(0, 60),
    st.integers(0, 6),
    st.text(st.sampled_from("abjrz:*2BJRZ\n\x12é"), max_size=9),
    st.integers(1, 2_000),
)
def test_the_quick_look_lets_nothing_through_that_a_count_refuses(
    spans: int, attributes: int, text: str, most: int
) -> None:
    body = request(spans, attributes, text)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(bounds, "_FREE_BYTES", 0)
        quick = is_refused(body, most)
        patch.setattr(bounds, "_cannot_exceed", lambda *_: False)
        assert quick == is_refused(body, most)


@pytest.mark.parametrize(
    ("tag", "many"), [(b"\x0a\x00", 300_000), (b"\x12\x00", 700_000), (b"\x8a\x00\x00", 300_000)]
)
def test_empty_elements_are_counted_whatever_their_tag(tag: bytes, many: int) -> None:
    assert is_refused(tag * many, 600_000)
    assert not is_refused(tag * 40_000, 600_000)


def test_an_ordinary_large_body_is_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    body = request(2_400, 8, "an.attribute.of.some.length")
    assert len(body) > 1_000_000

    def walked(*_: object) -> object:
        raise AssertionError("it was walked through")

    monkeypatch.setattr(bounds, "_table", walked)
    assert not is_refused(body, 600_000)
