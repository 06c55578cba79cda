"""The size bound of the store, for file and write-ahead log together. Of a larger run the first and newest spans are kept."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanbus._backend.views import Views
from spanbus._runs.documents import run_document
from spanbus._store import schema
from spanbus._store.blocks import Bodies
from spanbus._store.retention import Retention, Sweeper
from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000
BOUND = 8 * 2**20


def part(trace: int, first: int, many: int, *, filler: int = 400) -> bytes:
    """Return a request with some phases of one run, each with incompressible bytes; the first span is the run."""
    chance = random.Random(f"{trace} {first}")
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "service"
    spans = group.scope_spans.add().spans
    for number in range(first, first + many):
        span = spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=((trace << 32) + number + 1).to_bytes(8, "big"),
            parent_span_id=((trace << 32) + 1).to_bytes(8, "big") if number else b"",
            name=f"phase {number % 10}",
            start_time_unix_nano=START_NS + number,
            end_time_unix_nano=START_NS + number + 1_000,
        )
        said = {
            "spanbus.level": "phase" if number else "run",
            "cicd.pipeline.name": "large",
            "cicd.pipeline.run.id": f"run-{trace}",
            "cicd.pipeline.task.name": f"phase {number}",
            "cicd.pipeline.task.run.result": "success",
        }
        for key, text in said.items():
            span.attributes.add(key=key).value.string_value = text
        span.attributes.add(key="filler").value.bytes_value = chance.randbytes(filler)
    return request.SerializeToString()


def size_bytes(store: Store) -> int:
    """Return the size of file and write-ahead log on disk."""
    log = store.path.with_name(f"{store.path.name}-wal")
    return store.path.stat().st_size + log.stat().st_size


@pytest.mark.parametrize("has_keeper", [True, False])
def test_file_and_write_ahead_log_stay_within_110_percent_of_the_bound(
    tmp_path: Path, has_keeper: bool
) -> None:
    """Ingest twice the bound, and measure after every request."""
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=BOUND)) as store:
        largest = 0

        def fill() -> None:
            nonlocal largest
            for number in range(1, 321):
                store.ingest("traces", part(number, 0, 13, filler=2_000))
                largest = max(largest, size_bytes(store))

        if has_keeper:
            with store.kept():
                fill()
            assert "spanbus-upkeep" not in {thread.name for thread in threading.enumerate()}
        else:
            fill()
        assert BOUND * 0.8 < largest <= BOUND * 1.1
        assert store.run("run-320").workflow == "large"
        assert len(store.run_heads(limit=1_000)) < 280


def test_a_large_request_is_stored_in_several_transactions(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=BOUND)) as store:
        statements: list[str] = []
        with store.reading() as connection:
            connection.set_trace_callback(statements.append)
        store.ingest("traces", part(1, 0, 9_000, filler=1))
        commits = [at for at, each in enumerate(statements) if each == "COMMIT"]
        assert len(commits) >= 5
        assert max(b - a for a, b in zip([0, *commits], commits, strict=False)) < 3_000


def test_a_deletion_step_deletes_few_rows(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=2**30)) as store:
        for number in range(1, 41):
            store.ingest("traces", part(number, 0, 200))
    sweeper = Sweeper(tmp_path, Retention(size_bytes=2**20))
    with sqlite3.connect(store.path) as connection:

        def count() -> int:
            return int(connection.execute("SELECT count(*) FROM spans").fetchone()[0])

        before, more, steps = count(), True, 0
        while more:
            more = sweeper.step(connection)
            left = count()
            assert before - left <= 500
            before, steps = left, steps + 1
        assert steps > 5
    connection.close()


def test_the_write_ahead_log_is_truncated_after_large_writes(tmp_path: Path) -> None:
    retention = Retention(size_bytes=BOUND)
    with Store.open(tmp_path / "store.sqlite3", retention) as store:
        with sqlite3.connect(store.path) as reader:  # keeps the log from being brought in
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM spans").fetchone()
            for number in range(1, 11):
                store.ingest("traces", part(number, 0, 200))
            assert store.log_size_bytes() > retention.log_bytes
        reader.close()
        store.upkeep()
        assert store.log_size_bytes() <= retention.log_bytes


def test_a_run_larger_than_the_bound_keeps_its_first_and_newest_spans(tmp_path: Path) -> None:
    many = 4_000
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=BOUND)) as store:
        for first in range(0, many, 500):
            store.ingest("traces", part(7, first, 500, filler=2_500))
        assert size_bytes(store) <= BOUND * 1.1
        [group] = store.trace(f"{7:032x}")
        kept = [
            int.from_bytes(span.span_id, "big") - (7 << 32) - 1
            for span in group.scope_spans[0].spans
        ]
        assert kept[:100] == list(range(100))
        assert kept[-500:] == list(range(many - 500, many))
        assert store.missing_spans(f"{7:032x}") == many - len(kept) > 0
        run = store.run("run-7")
        assert run.missing_spans == many - len(kept)
        assert run_document(run)["missing_spans"] == run.missing_spans
        assert Views(store).run("run-7")["missing"] == run.missing_spans  # type: ignore[index]
        # another one comes: the large one goes like any, and with it the count
        for number in range(100, 180):
            store.ingest("traces", part(number, 0, 50, filler=3_000))
        store.upkeep()
        assert store.trace(f"{7:032x}") == []
        assert store.missing_spans(f"{7:032x}") == 0


def test_a_smaller_bound_shrinks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with Store.open(path, Retention(size_bytes=64 * 2**20)) as store:
        for number in range(1, 81):
            store.ingest("traces", part(number, 0, 200))
        before = size_bytes(store)
    with Store.open(path, Retention(size_bytes=2 * 2**20)) as store:
        for _ in range(10):
            store.upkeep()
        assert size_bytes(store) < before / 3


# --- from 0.1.0 -----------------------------------------------------------------------------------------------------------


def test_a_store_of_0_1_0_is_migrated_without_loss(tmp_path: Path) -> None:
    """A file of 0.1.0 has its tables and indexes but no lists. After the migration all data is there and is found."""
    old, new = tmp_path / "old.sqlite3", tmp_path / "store.sqlite3"
    with Store.open(old) as store:
        for number in range(1, 21):
            store.ingest("traces", part(number, 0, 10))
        before = [store.trace(f"{number:032x}") for number in range(1, 21)]
    with sqlite3.connect(new) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        for step in schema.STEPS[:3]:
            connection.executescript(step)
        connection.execute("PRAGMA user_version = 3")
        connection.execute("ATTACH ? AS old", (str(old),))
        for table in ("sources", "spans", "logs", "series", "seen"):
            told = connection.execute(f"PRAGMA main.table_info({table})").fetchall()
            columns = ", ".join(column for _, column, *_ in told)
            connection.execute(f"INSERT INTO {table} SELECT {columns} FROM old.{table}")
        bodies = Bodies(connection)  # of old.blocks; in 0.1.0 each stood in its row
        for row_id, body in connection.execute("SELECT id, body FROM old.spans").fetchall():
            whole = bodies.of(row_id, body)
            connection.execute("UPDATE main.spans SET body = ? WHERE id = ?", (whole, row_id))
        connection.commit()
        connection.execute("DETACH old")
    connection.close()
    with Store.open(new) as store:
        assert [store.trace(f"{number:032x}") for number in range(1, 21)] == before
        assert len(store.run_heads(limit=100)) == 20
        assert list(store.workflows()) == ["large"]
        assert list(store.services()) == list(store.projects()) == ["service"]
        assert len(store.operations("service")) == 10
        store.ingest("traces", part(30, 0, 10))
        store.upkeep()
        assert len(store.run_heads(limit=100)) == 21
    with sqlite3.connect(new) as connection, sqlite3.connect(old) as fresh:
        made, want = (
            {name for (name,) in each.execute("SELECT name FROM sqlite_master")}
            for each in (connection, fresh)
        )
        assert made == want
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    fresh.close()
