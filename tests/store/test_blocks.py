"""Compressed blocks of span bodies: lossless, deleted with their last span, and small."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._store import blocks, schema
from spanbus._store.blocks import Block, Bodies
from spanbus._store.retention import Retention
from spanbus._store.store import Store
from spanbus.errors import StoreError

START_NS = 1_767_225_600_000_000_000


def request(trace: int, spans: int, *, first: int = 0, filler: int = 200) -> bytes:
    """Return a request with the spans of one trace, each with incompressible bytes."""
    chance = random.Random(trace * 1_000_003 + first)
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "service"
    for number in range(first, first + spans):
        span = (group.scope_spans or [group.scope_spans.add()])[0].spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=(trace * 1_000_000 + number + 1).to_bytes(8, "big"),
            name=f"work {number % 7}",
            start_time_unix_nano=START_NS + number,
            end_time_unix_nano=START_NS + number + 1_000,
        )
        span.attributes.add(key="filler").value.bytes_value = chance.randbytes(filler)
    return made.SerializeToString()


def sent(body: bytes) -> list[bytes]:
    groups = ExportTraceServiceRequest.FromString(body).resource_spans
    return [
        span.SerializeToString()
        for group in groups
        for scope in group.scope_spans
        for span in scope.spans
    ]


def read(store: Store, trace: int) -> list[bytes]:
    return [
        span.SerializeToString()
        for group in store.trace(f"{trace:032x}")
        for scope in group.scope_spans
        for span in scope.spans
    ]


def count(path: Path, question: str) -> int:
    with sqlite3.connect(path) as connection:
        found = int(connection.execute(question).fetchone()[0])
    connection.close()
    return found


SPANS_WITHOUT_A_BLOCK = (
    "SELECT count(*) FROM spans WHERE body = x'' AND NOT EXISTS "
    "(SELECT 1 FROM blocks WHERE spans.id BETWEEN blocks.id AND blocks.id + blocks.spans - 1)"
)
BLOCKS_WITHOUT_A_SPAN = (
    "SELECT count(*) FROM blocks WHERE NOT EXISTS "
    "(SELECT 1 FROM spans WHERE spans.id BETWEEN blocks.id AND blocks.id + blocks.spans - 1)"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite3") as one:
        yield one


@pytest.mark.parametrize(
    ("spans", "filler"), [(1, 0), (1, 200_000), (3, 40_000), (700, 100), (4_500, 0)]
)
def test_stored_spans_are_read_back_unchanged(store: Store, spans: int, filler: int) -> None:
    bodies = {trace: request(trace, spans, filler=filler) for trace in (1, 2)}
    for body in bodies.values():
        store.ingest("traces", body)
    for trace, body in bodies.items():
        assert read(store, trace) == sent(body)


def test_duplicate_spans_are_not_stored_again(store: Store) -> None:
    body = request(1, 300)
    for _ in range(3):
        store.ingest("traces", body)
    blocks_of_one = count(store.path, "SELECT count(*) FROM blocks")
    assert blocks_of_one == len(blocks.packed(sent(body)))
    store.ingest("traces", request(1, 50, first=280))  # thirty of them are new
    assert read(store, 1)[:300] == sent(body)
    assert read(store, 1)[300:] == sent(request(1, 50, first=280))[20:]
    assert count(store.path, "SELECT count(*) FROM spans") == 330
    for number in range(2, 12):  # what comes later lies behind the spans that were left out
        store.ingest("traces", request(number, 3))
        assert read(store, number) == sent(request(number, 3))


def test_a_block_is_deleted_with_its_last_span(tmp_path: Path) -> None:
    bound = 2 * 2**20
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=bound)) as store:
        for first in range(0, 3_000, 300):
            store.ingest(
                "traces", request(7, 300, first=first, filler=900)
            )  # larger than the bound
            store.ingest("traces", request(1_000 + first, 100, filler=900))
            store.upkeep()
            assert not count(store.path, SPANS_WITHOUT_A_BLOCK)
            assert not count(store.path, BLOCKS_WITHOUT_A_SPAN)
        assert 0 < count(store.path, "SELECT count(*) FROM spans") < 4_000
        assert sent(request(7, 60, filler=900))[0] in read(store, 7)
    with Store.open(tmp_path / "store.sqlite3", Retention(age_s=-10)) as store:
        store.upkeep()
        assert not count(store.path, "SELECT count(*) FROM spans")
        assert not count(store.path, "SELECT count(*) FROM blocks")
        store.ingest("traces", request(1, 3))


def test_a_span_deleted_between_two_queries_is_empty(store: Store) -> None:
    store.ingest("traces", request(1, 3))
    with store.reading() as connection:
        assert Bodies(connection).of(2, b"") == sent(request(1, 3))[1]
        assert Bodies(connection).of(99, b"") == b""
        connection.execute("DELETE FROM blocks")
        assert Bodies(connection).of(2, b"") == b""


def test_an_overwritten_block_is_an_error_that_names_the_file(store: Store) -> None:
    for trace, change in (
        (1, "substr(body, 1, length(body) - 1)"),
        (2, "randomblob(length(body))"),
        (3, "x''"),
        (4, "CAST('text' AS BLOB)"),
    ):
        store.ingest("traces", request(trace, 5))
        with sqlite3.connect(store.path) as connection:
            connection.execute(
                f"UPDATE blocks SET body = {change} WHERE id = (SELECT max(id) FROM blocks)"
            )
        connection.close()
        with pytest.raises(StoreError, match=str(store.path)):
            store.trace(f"{trace:032x}")


# --- from earlier versions --------------------------------------------------------------------------------------------------


def as_before(path: Path, bodies: dict[int, bytes]) -> None:
    """Make a store of version 5, where the body of a span is in its row."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        for step in schema.STEPS[:5]:
            connection.executescript(step)
        connection.execute(
            "INSERT INTO sources VALUES (1, x'01', ?, x'', '', '')",
            (
                ExportTraceServiceRequest.FromString(bodies[1])
                .resource_spans[0]
                .resource.SerializeToString(),
            ),
        )
        for body in bodies.values():
            for raw in sent(body):
                span = Span.FromString(raw)
                connection.execute(
                    "INSERT INTO spans (trace_id, span_id, source, service, name, kind, start_ns, end_ns, stored_at_s, body) "
                    "VALUES (?, ?, 1, 'service', ?, 0, ?, ?, 1767225600, ?)",
                    (
                        span.trace_id,
                        span.span_id,
                        span.name,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        raw,
                    ),
                )
        connection.execute("PRAGMA user_version = 5")
        connection.commit()
    connection.close()


def test_spans_of_store_version_5_are_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    bodies = {trace: request(trace, 40) for trace in (1, 2)}
    as_before(path, bodies)
    rows = "SELECT count(*) FROM spans WHERE length(body) > 0"
    with Store.open(path, Retention(age_s=10**9)) as store:
        assert count(path, "PRAGMA user_version") == schema.VERSION >= 6
        for trace, body in bodies.items():
            assert read(store, trace) == sent(body)
        assert count(path, rows) == 80
        store.ingest("traces", request(2, 60))  # forty are there
        store.ingest("traces", request(3, 10))
        assert count(path, rows) == 80
        assert read(store, 2) == sent(request(2, 60, filler=200))[:40] + sent(request(2, 60))[40:]
        assert read(store, 3) == sent(request(3, 10))
    with Store.open(path, Retention(age_s=1_000)) as store:  # what came in years ago goes
        store.upkeep()
        assert read(store, 1) == []
        assert read(store, 3) == sent(request(3, 10))
        assert not count(path, SPANS_WITHOUT_A_BLOCK)


def test_the_compression_dictionary_of_blocks_is_unchanged() -> None:
    """With another dictionary, blocks stored before could not be read."""
    assert hashlib.sha256(blocks.DICTIONARY).hexdigest()[:16] == "ad5775aa5311039f"
    assert blocks.unpacked(
        Block(2, bytes.fromhex("783ff4b9af78e36560604801621493c0c6d09800008fc72f08"))
    ) == [b"spanbus.level", b"phase" * 20]


# --- size -------------------------------------------------------------------------------------------------------------------


def test_a_span_takes_at_most_500_bytes_with_its_indexes(tmp_path: Path) -> None:
    """Phases with three events as ``spanbus run`` sends them, with random ids, sent by a service a hundred at a time."""
    chance = random.Random(17)
    own = 0
    with Store.open(tmp_path / "store.sqlite3") as store:
        for _ in range(30):
            made = ExportTraceServiceRequest()
            group = made.resource_spans.add()
            group.resource.attributes.add(key="service.name").value.string_value = "spanbus"
            spans = group.scope_spans.add().spans
            for number in range(100):
                trace_id = chance.randbytes(16) if number % 10 == 0 else spans[-1].trace_id
                begin = START_NS + chance.randrange(10**15)
                span = spans.add(
                    trace_id=trace_id,
                    span_id=chance.randbytes(8),
                    parent_span_id=chance.randbytes(8),
                    name=f"phase {number % 10}",
                    kind=Span.SPAN_KIND_INTERNAL,
                    start_time_unix_nano=begin,
                    end_time_unix_nano=begin + chance.randrange(10**9),
                )
                for key, text in {
                    "cicd.pipeline.name": "night",
                    "cicd.pipeline.run.id": trace_id.hex()[:13],
                    "spanbus.level": "phase",
                    "cicd.pipeline.task.name": f"phase {number % 10}",
                    "cicd.pipeline.task.run.result": "success",
                }.items():
                    span.attributes.add(key=key).value.string_value = text
                for name in (
                    "hooks.strategy.started",
                    "hooks.execution.completed",
                    "hooks.strategy.completed",
                ):
                    event = span.events.add(
                        time_unix_nano=begin + chance.randrange(10**9), name=name
                    )
                    event.attributes.add(key="spanbus.payload.strategy").value.string_value = "fast"
                own += span.ByteSize()
            store.ingest("traces", made.SerializeToString())
        store.close()
        size = os.path.getsize(store.path)
    assert own / 3_000 > 450
    assert size / 3_000 <= 500
