"""A segment file: reading, and recovery after any damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Frame, Kind, Segment
from spanbus._otlp.signals import Signal

TOKEN = b"12345678"
PATH = Path("a.seg")

records = st.lists(
    st.tuples(
        st.sampled_from(list(Signal)),
        st.integers(0, 9),
        st.binary(max_size=300),
        st.integers(1, 0xFFFF),
        st.integers(0, 2**64 - 1),
    ),
    max_size=12,
)


def written(content: list[tuple[Signal, int, bytes, int, int]]) -> bytearray:
    buffer = bytearray(16_384)
    segment = Segment.create(
        buffer, None, None, through=False, token=TOKEN, number=3, destinations=("remote", "local")
    )
    for number, (signal, group, data, count, key) in enumerate(content):
        if number % 3 == 2:
            segment.journal(Kind.OPEN, key, data)
        else:
            segment.record(signal, group, data, count, key, number)
    return buffer


def frames(buffer: bytearray) -> list[Frame]:
    return list(Segment.recover(buffer, PATH, None).frames(HEADER_BYTES))


def told(found: list[Frame]) -> list[tuple[object, ...]]:
    return [
        (
            one.kind,
            one.signal,
            one.count,
            one.at_s,
            one.offset,
            one.end,
            one.group,
            one.key,
            one.sequence,
            one.data,
        )
        for one in found
    ]


@given(records)
def test_written_records_are_read_back(content: list[tuple[Signal, int, bytes, int, int]]) -> None:
    found = frames(written(content))
    assert [frame.data for frame in found] == [data for _, _, data, _, _ in content]
    for number, (frame, (signal, group, _, count, key)) in enumerate(
        zip(found, content, strict=True)
    ):
        if number % 3 == 2:
            assert (frame.kind, frame.key) == (Kind.OPEN, key)
        else:
            assert (
                frame.kind,
                frame.signal,
                frame.group,
                frame.count,
                frame.key,
                frame.sequence,
            ) == (Kind.RECORD, signal, group, count, key, number)


@given(records, st.data())
@settings(max_examples=examples(200))
def test_any_prefix_of_a_file_gives_a_prefix_of_its_records(
    content: list[tuple[Signal, int, bytes, int, int]], data: st.DataObject
) -> None:
    whole = written(content)
    cut = data.draw(st.integers(HEADER_BYTES, len(whole)))
    for short in (bytearray(whole[:cut]), bytearray(whole[:cut]).ljust(len(whole), b"\0")):
        found = told(frames(short))
        assert found == told(frames(whole))[: len(found)]


@given(records.filter(bool), st.data())
@settings(max_examples=examples(300))
def test_a_flipped_bit_never_gives_a_wrong_record(
    content: list[tuple[Signal, int, bytes, int, int]], data: st.DataObject
) -> None:
    whole = written(content)
    expected = frames(whole)
    end = expected[-1].end
    at, bit = data.draw(st.integers(HEADER_BYTES, end - 1)), data.draw(st.integers(0, 7))
    whole[at] ^= 1 << bit
    found = frames(whole)
    assert told(found) == told(expected)[: len(found)]


@given(st.binary(min_size=HEADER_BYTES, max_size=2_000))
def test_garbage_is_refused_or_empty(garbage: bytes) -> None:
    with pytest.raises(BadSegment):
        Segment.recover(bytearray(garbage), PATH, None)
    header = written([])[:HEADER_BYTES]
    Segment.recover(bytearray(header + garbage), PATH, None)


def test_a_newer_version_is_refused_as_newer() -> None:
    whole = written([])
    whole[8] = 9
    with pytest.raises(BadSegment, match="newer") as caught:
        Segment.recover(whole, PATH, None)
    assert caught.value.newer


def test_a_cursor_beyond_the_file_is_limited_to_whole_frames() -> None:
    whole = written([(Signal.TRACES, 0, b"a" * 50, 1, 0), (Signal.TRACES, 0, b"b" * 50, 1, 0)])
    segment = Segment.recover(whole, PATH, None)
    segment.acknowledge("remote", 10**9, 0)
    again = Segment.recover(whole, PATH, None)
    assert (again.waiting("remote"), again.waiting("local")) == (0, 2)
    assert again.cursors["remote"] == again.position
