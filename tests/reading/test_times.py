"""Timestamps and durations: the formats that are read, and the report about those that are not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from streams import Stream

from spanbus._reading import dialect_file, replay
from spanbus._reading.reader import Reader
from spanbus._reading.times import duration_ns_of, time_ns_of, unit_ns_of

TEN = 1_764_324_000  # 2025-11-28 10:00:00 UTC
SECOND = 1_000_000_000


@pytest.fixture
def local_time(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    zone: str = getattr(request, "param", "Europe/Berlin")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        TEN,
        float(TEN),
        TEN * 1_000,
        TEN * 1_000_000,
        TEN * SECOND,
        str(TEN),
        f"{TEN}.0",
        f" {TEN} ",
        str(TEN * 1_000),
        str(TEN * 1_000_000),
        str(TEN * SECOND),
        "1.764324e9",
        "2025-11-28t10:00:00z",
        "2025-11-28T10:00:00Z",
        "2025-11-28T10:00:00.000000Z",
        "2025-11-28T10:00:00.000000000Z",
        "2025-11-28 10:00:00 UTC",
        "2025-11-28 10:00:00 utc",
        "2025-11-28 10:00:00 GMT",
        "2025-11-28T10:00:00 Z",
        "2025-11-28T10:00:00UTC",
        "2025-11-28T11:00:00+01:00",
        "2025-11-28T11:00:00+0100",
        "20251128T100000Z",
        "Fri, 28 Nov 2025 10:00:00 +0000",
        "Fri, 28 Nov 2025 11:00:00 +0100",
        "Fri, 28 Nov 2025 10:00:00 GMT",
        "28 Nov 2025 10:00:00 -0000",
        b"2025-11-28T10:00:00Z",
        Decimal(TEN),
        "2025-11-28T11:00:00+01:00[Europe/Berlin]",
        "2025-11-28T10:00:00Z[UTC]",
        datetime(2025, 11, 28, 10, tzinfo=UTC),
        datetime(2025, 11, 28, 15, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_times_are_read(value: object) -> None:
    assert time_ns_of(value) == TEN * SECOND


@pytest.mark.usefixtures("local_time")
@pytest.mark.parametrize(
    "value",
    ["2025-11-28T11:00:00", "2025-11-28 11:00:00", "20251128110000", datetime(2025, 11, 28, 11)],  # noqa: DTZ001 - a time without a zone is what is tested
)
def test_a_time_without_a_zone_is_local(value: object) -> None:
    assert time_ns_of(value) == TEN * SECOND


@pytest.mark.parametrize(
    "value", ["1764324000.123456", "2025-11-28T10:00:00.123456Z", "2025-11-28t10:00:00,123456 gmt"]
)
def test_fractions_are_kept(value: str) -> None:
    assert time_ns_of(value) == TEN * SECOND + 123_456_000


ODD = [
    "yesterday",
    "28/11/2025 10:00",
    "2025-13-45T10:00:00Z",
    "12",
    "0",
    "-1764324000",
    "1e40",
    "10:00:00",
    "NaN",
    "inf",
    5,
    0,
    -1.5,
    float("nan"),
    float("inf"),
    10**40,
    b"yesterday",
    Decimal(5),
    date(2025, 11, 28),
    time.gmtime(TEN),
    "2025-11-28T10:00:00[",
    datetime(1, 1, 1, tzinfo=UTC),
]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["timestamp", "time", "ts", "at", "created_at", "event_created_at"])
def test_an_unreadable_time_is_reported_once_flagged_and_counted(value: object, key: str) -> None:
    stream = Stream()
    began_ns = time.time_ns()
    for word in ("started", "completed"):
        stream.hear({"type": f"task.{word}", key: value, "payload": {"task": "a"}})
    stream.end()
    assert stream.reader.odd_times == 2
    assert len(stream.said) == 1 and str(value)[:40] in stream.said[0]
    [phase] = stream.runs[0].children
    assert "clock" in phase.flags
    assert began_ns <= phase.started_at_ns <= time.time_ns()


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_time_is_not_reported(value: object) -> None:
    stream = Stream()
    stream.hear({"type": "task.started", "timestamp": value, "payload": {"task": "a"}})
    assert (stream.said, stream.reader.odd_times) == ([], 0)


class DateTime64:
    """A timestamp class of an unknown library."""


def test_a_time_of_an_unknown_class_is_reported() -> None:
    stream = Stream()
    stream.hear({"type": "task.started", "timestamp": DateTime64(), "payload": {"task": "a"}})
    assert stream.reader.odd_times == 1
    assert len(stream.said) == 1 and "DateTime64" in stream.said[0]


def test_a_readable_time_is_preferred_to_an_unreadable_one() -> None:
    stream = Stream()
    record = stream.hear(
        {"type": "task.started", "timestamp": "soon", "created_at": TEN, "payload": {"task": "a"}}
    )
    assert record is not None and record.started_at_ns == TEN * SECOND
    assert (stream.said, set(record.flags)) == ([], set())


@pytest.mark.usefixtures("local_time")
def test_local_times_in_the_repeated_hour_of_a_dst_change_keep_their_order(tmp_path: Path) -> None:
    clock = ["02:30:00", "02:59:58", "02:00:03", "02:20:00", "02:59:59", "03:00:01"]
    types = ["pipeline.started", "task.started", "x", "task.completed", "y", "pipeline.completed"]
    path = tmp_path / "stream.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "type": kind,
                    "timestamp": f"2025-10-26T{at}",
                    "payload": {"run_id": "r", "task": "a"},
                }
            )
            for kind, at in zip(types, clock, strict=True)
        )
    )
    stream = Stream()
    facts = list(replay.facts(path, Reader(dialect_file.load("generic"))))
    assert [fact.event.name for fact in facts] == types
    times = [fact.event.at_ns for fact in facts]
    assert times == sorted(times)
    assert times[-1] - times[0] == (3_600 + 1_801) * SECOND
    for fact in facts:
        stream.correlator.apply(fact)
    stream.end()
    assert stream.runs[0].children[0].duration_s == 1_202.0


@pytest.mark.parametrize(
    "off_s", [-3_600.0, -1.5, 1.5, 3_600.0, 400 * 86_400.0, -56 * 365 * 86_400.0]
)
def test_a_live_timestamp_more_than_a_second_off_is_replaced_and_flagged(
    off_s: float,
) -> None:
    stream = Stream()
    before_ns = time.time_ns()
    fact = stream.reader.read(
        {"type": "task.started", "timestamp": time.time() + off_s, "payload": {"task": "a"}},
        live=True,
    )
    after_ns = time.time_ns()
    assert before_ns - SECOND < fact.event.at_ns < after_ns + SECOND
    assert (fact.hints.odd_time, stream.reader.moved_times) == (True, 1)
    record = stream.correlator.apply(fact)
    assert record is not None and "clock" in record.flags


def test_a_close_live_timestamp_is_kept_and_a_fed_one_always() -> None:
    stream = Stream()
    now = time.time()
    live = stream.reader.read({"type": "x", "timestamp": now - 0.25}, live=True)
    by_hand = stream.reader.read({"type": "x", "timestamp": TEN})
    assert live.event.at_ns == round((now - 0.25) * 1e9) and not live.hints.odd_time
    assert by_hand.event.at_ns == TEN * SECOND and not by_hand.hints.odd_time


# --- durations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "duration_s"),
    [
        ("duration", 1.5, 1.5),
        ("duration_s", 2, 2.0),
        ("duration_ms", 250, 0.25),
        ("duration_us", 1_000_000, 1.0),
        ("duration_ns", 5_000_000_000, 5.0),
        ("elapsed", "3.5", 3.5),
        ("elapsed_ms", 1_500.0, 1.5),
        ("runtime", 4.0, 4.0),
        ("took", timedelta(seconds=7), 7.0),
        ("took_ms", 10, 0.01),
    ],
)
def test_the_unit_of_a_duration_is_read_from_its_key(
    key: str, value: object, duration_s: float
) -> None:
    stream = Stream()
    stream.say("pipeline.started", {"run_id": "r"})
    stream.say("task.completed", {"task": "a", "run_id": "r", key: value}, after_s=100)
    stream.end()
    assert stream.runs[0].children[0].duration_s == duration_s


@pytest.mark.parametrize(
    "value", [0, 0.0, -1, True, None, "long", float("nan"), float("inf"), [], 10**30]
)
def test_an_unusable_duration_is_none(value: object) -> None:
    assert duration_ns_of(value) is None


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("duration", SECOND),
        ("latencyMs", 10**6),
        ("wall.us", 10**3),
        ("ns", SECOND),
        ("items", SECOND),
    ],
)
def test_units_of_duration_keys(key: str, unit: int) -> None:
    assert unit_ns_of(key) == unit
