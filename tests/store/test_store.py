"""The local store: ingestion, reading, retention, schema migrations and concurrent processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bodies
import prepared
import pytest
from bodies import CUMULATIVE, DELTA, SECOND_NS, START_NS, metrics_body, run_body
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanbus._backend.api import TraceQuery
from spanbus._store.metrics import SERIES_LIMIT
from spanbus._store.series import Series
from spanbus._store.store import Retention, Store
from spanbus.errors import RunNotFound, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state" / "store.sqlite3") as one:
        yield one


def by_name(store: Store, name: str) -> list[Series]:
    return [series for series in store.metric_series() if series.name == name]


# --- spans ------------------------------------------------------------------------------------------------------------------


def test_a_trace_is_read_as_the_spans_that_were_sent(store: Store) -> None:
    body = run_body()
    store.ingest("traces", body)
    [group] = store.trace(f"{1:032x}")
    [sent] = ExportTraceServiceRequest.FromString(body).resource_spans
    assert group == sent


def test_of_a_duplicate_span_the_first_is_stored(store: Store) -> None:
    store.ingest("traces", run_body(result="success"))
    store.ingest("traces", run_body(result="failure"))
    [group] = store.trace(f"{1:032x}")
    assert len(group.scope_spans[0].spans) == 3
    assert store.run("run-1").result == "success"


def test_a_run_has_its_phases_in_the_order_of_their_start(store: Store) -> None:
    store.ingest("traces", run_body(phases=("lint", "build", "tests")))
    run = store.run("last")
    assert [phase.name for phase in run.phases] == ["lint", "build", "tests"]
    assert (run.workflow, run.result, run.duration_s) == ("standard", "success", 3.0)


def test_runs_are_found_by_workflow_result_text_and_time(store: Store) -> None:
    for number, (workflow, result) in enumerate(
        [("alpha", "success"), ("alpha", "failure"), ("beta", "success")], 1
    ):
        store.ingest("traces", run_body(number, workflow=workflow, result=result, at_s=number))

    def found(**wanted: object) -> list[str]:
        return [head.run_id for head in store.run_heads(**wanted)]  # type: ignore[arg-type]

    assert found() == ["run-3", "run-2", "run-1"]
    assert found(workflow="alpha") == ["run-2", "run-1"]
    assert found(result="failure") == ["run-2"]
    assert found(result="failed") == ["run-2"]
    assert found(result="success, failure") == ["run-3", "run-2", "run-1"]
    assert found(result="skip,nonsense") == found(result=",") == []
    assert found(text="ALPH") == ["run-2", "run-1"]
    assert found(text="run-3") == ["run-3"]
    assert found(since_ns=START_NS + 2 * SECOND_NS) == ["run-3", "run-2"]
    assert found(limit=1, offset=1) == ["run-2"]
    assert list(store.workflows()) == ["alpha", "beta"]


def test_a_run_is_found_by_a_unique_prefix_of_its_id(store: Store) -> None:
    for number in (1, 12, 13):
        store.ingest("traces", run_body(number))
    assert store.run_head("run-1").run_id == "run-1"
    assert store.run_head("run-12").run_id == "run-12"
    with pytest.raises(RunNotFound, match="several runs"):
        store.run_head("run")
    with pytest.raises(RunNotFound, match="no stored run"):
        store.run_head("other")


@pytest.mark.parametrize("text", ["%", "_", "run_1", "'; DROP TABLE spans; --", "\x00", "", "*"])
def test_a_run_id_is_not_a_pattern(store: Store, text: str) -> None:
    store.ingest("traces", run_body())
    with pytest.raises(RunNotFound):
        store.run_head(text)
    assert store.run_head("last").run_id == "run-1"


def test_a_run_with_a_future_start_is_ordered_by_its_arrival(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    now_s = time.time() - START_NS / SECOND_NS
    with Store.open(path) as store:
        for number, at_s in ((1, now_s - 7_200), (2, now_s + 365 * 86_400), (3, now_s - 60)):
            store.ingest_traces(run_body(number, at_s=at_s))
        assert [head.run_id for head in store.run_heads(limit=1)] == ["run-2"]
        with sqlite3.connect(path) as connection:
            connection.execute(
                "UPDATE spans SET stored_at_s = stored_at_s - 3600 WHERE run_id = 'run-2'"
            )
        connection.close()
        assert [head.run_id for head in store.run_heads()] == ["run-3", "run-2", "run-1"]
        assert [head.run_id for head in store.run_heads(limit=1, offset=1)] == ["run-2"]
        assert store.run_head("last").run_id == "run-3"


def test_an_empty_store_says_how_to_make_a_run(store: Store) -> None:
    with pytest.raises(RunNotFound, match="spanbus run"):
        store.run("last")


def test_a_nested_run_is_a_run_in_the_same_trace(store: Store) -> None:
    outer = ExportTraceServiceRequest.FromString(run_body(1, workflow="outer"))
    inner = ExportTraceServiceRequest.FromString(run_body(2, workflow="inner", phases=("deep",)))
    for span in inner.resource_spans[0].scope_spans[0].spans:
        span.trace_id = (1).to_bytes(16, "big")
    inner.resource_spans[0].scope_spans[0].spans[0].parent_span_id = (1_001).to_bytes(8, "big")
    store.ingest("traces", inner.SerializeToString())
    store.ingest("traces", outer.SerializeToString())
    assert [phase.name for phase in store.run("run-2").phases] == ["deep"]
    assert [phase.name for phase in store.run("run-1").phases] == ["build", "tests"]


def test_times_beyond_a_signed_integer_are_stored(store: Store) -> None:
    request = ExportTraceServiceRequest.FromString(run_body())
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.start_time_unix_nano = span.end_time_unix_nano = 2**64 - 1
    store.ingest("traces", request.SerializeToString())
    assert len(store.trace(f"{1:032x}")[0].scope_spans[0].spans) == 3
    assert store.run_heads()[0].run_id == "run-1"


# --- searching --------------------------------------------------------------------------------------------------------------


def test_traces_are_found_by_properties_of_their_spans(store: Store) -> None:
    for number in range(1, 6):
        store.ingest(
            "traces",
            run_body(number, at_s=number * 10, result="failure" if number == 3 else "success"),
        )

    def found(**wanted: object) -> list[int]:
        return [int(each, 16) for each in store.trace_ids(TraceQuery("spanbus", **wanted))]  # type: ignore[arg-type]

    assert found() == [5, 4, 3, 2, 1]
    assert found(limit=2) == [5, 4]
    assert found(operation="tests", start_ns=START_NS + 40 * SECOND_NS) == [5, 4]
    assert found(end_ns=START_NS + 20 * SECOND_NS) == [2, 1]
    assert found(tags={"error.type": "unsuccessful"}) == [3]
    assert found(tags={"cicd.pipeline.name": "standard"}, limit=2) == [5, 4]
    assert found(min_ns=2 * SECOND_NS) == [5, 4, 3, 2, 1]
    assert found(min_ns=2 * SECOND_NS + 1) == []
    assert found(max_ns=SECOND_NS - 1) == []
    assert list(store.trace_ids(TraceQuery("nobody"))) == []


def test_operations_of_a_service_are_listed_with_their_kinds(store: Store) -> None:
    store.ingest("traces", run_body())
    assert list(store.services()) == ["spanbus"]
    assert list(store.operations("spanbus")) == [("RUN standard", 2), ("build", 1), ("tests", 1)]
    assert list(store.operations("nobody")) == []


# --- metrics and logs -------------------------------------------------------------------------------------------------------


def test_deltas_of_many_processes_are_summed_in_one_series(store: Store) -> None:
    for number in range(37):
        store.ingest(
            "metrics", metrics_body(1, instance=f"process-{number}", at_s=(number * 7) % 11)
        )
    [counter] = by_name(store, "spanbus.phase.failures")
    assert (counter.value, counter.instance) == (37, "")
    [histogram] = by_name(store, "spanbus.phase.duration")
    assert (histogram.count, histogram.value, histogram.buckets) == (74, 37, (37, 37, 0))


def test_a_cumulative_point_is_replaced_only_by_a_newer_one(store: Store) -> None:
    for value, at_s in ((5, 2.0), (3, 1.0)):
        store.ingest(
            "metrics", metrics_body(value, temporality=CUMULATIVE, lifetime="service", at_s=at_s)
        )
    [counter] = by_name(store, "spanbus.phase.failures")
    assert (counter.value, counter.instance) == (5, "one")


def test_a_service_has_a_series_for_each_instance(store: Store) -> None:
    for instance in ("one", "two"):
        store.ingest(
            "metrics",
            metrics_body(4, temporality=CUMULATIVE, lifetime="service", instance=instance),
        )
    assert sorted(
        (series.instance, series.value) for series in by_name(store, "spanbus.phase.failures")
    ) == [("one", 4), ("two", 4)]


def test_with_different_buckets_count_and_sum_stay_right(store: Store) -> None:
    store.ingest("metrics", metrics_body(3, instance="two"))
    request = ExportMetricsServiceRequest.FromString(metrics_body(4))
    point = request.resource_metrics[0].scope_metrics[0].metrics[1].histogram.data_points[0]
    del point.explicit_bounds[:]
    point.explicit_bounds.extend([5.0])
    del point.bucket_counts[:]
    point.bucket_counts.extend([2, 0])
    store.ingest("metrics", request.SerializeToString())
    [histogram] = by_name(store, "spanbus.phase.duration")
    assert (histogram.count, histogram.value, sum(histogram.buckets)) == (4, 7, 4)


def test_a_duplicate_delta_is_added_once(store: Store) -> None:
    for _ in range(3):
        store.ingest("metrics", metrics_body(2, instance="one"))
    store.ingest("metrics", metrics_body(2, instance="two"))
    assert by_name(store, "spanbus.phase.failures")[0].value == 4
    assert by_name(store, "spanbus.phase.duration")[0].count == 4


def test_equal_deltas_of_clients_without_an_instance_are_both_counted(store: Store) -> None:
    for _ in range(2):
        store.ingest("metrics", metrics_body(2, instance="", lifetime="service"))
    assert by_name(store, "spanbus.phase.failures")[0].value == 4


def test_a_file_of_the_first_schema_is_migrated_with_its_data(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.sqlite3"
    with Store.open(path) as store:
        store.ingest("traces", run_body())
        store.ingest("metrics", metrics_body(2, instance="one"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE seen")
        connection.execute("DROP INDEX entries_by_start")
        connection.execute("ALTER TABLE spans DROP COLUMN attempts")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with Store.open(path) as store:
        store.ingest("metrics", metrics_body(3, instance="two"))
        assert store.run("last").run_id == "run-1"
        assert by_name(store, "spanbus.phase.failures")[0].value == 5


def test_log_records_are_stored(store: Store) -> None:
    request = ExportLogsServiceRequest()
    record = (
        request.resource_logs.add()
        .scope_logs.add()
        .log_records.add(time_unix_nano=START_NS, trace_id=(1).to_bytes(16, "big"))
    )
    record.body.string_value = "hello"
    store.ingest("logs", request.SerializeToString())
    with sqlite3.connect(store.path) as connection:
        [(body,)] = connection.execute("SELECT body FROM logs").fetchall()
    connection.close()
    assert b"hello" in body


# --- the file ---------------------------------------------------------------------------------------------------------------


def test_file_and_folder_are_accessible_to_the_user_only(store: Store) -> None:
    store.ingest("traces", run_body())
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()} == {0o600}


def test_a_newer_schema_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"schema 999.*update spanbus"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    path.write_bytes(b"no database at all\n" * 500)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=str(path)):
        Store.open(path)
    assert path.read_bytes() == before


def test_overwritten_pages_are_an_error_that_names_the_file(store: Store) -> None:
    for number in range(1, 200):
        store.ingest("traces", run_body(number))
    store.close()
    data = bytearray(store.path.read_bytes())
    page = 4_096
    for at in range(page * 2, len(data) - page, page):
        data[at : at + 200] = b"\xff" * 200
    store.path.write_bytes(bytes(data))
    with Store.open(store.path) as again, pytest.raises(StoreError, match=str(store.path)):  # noqa: PT012 (whichever meets a broken page)
        again.run_heads()
        again.run("run-100")
        again.services()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="SPANBUS_STATE_DIR"):
        Store.open(tmp_path / "file" / "store.sqlite3")


def test_a_closed_store_raises_an_error(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.services()


def test_stored_data_is_there_after_reopening(store: Store) -> None:
    store.ingest("traces", run_body())
    store.ingest("metrics", metrics_body(2))
    store.close()
    with Store.open(store.path) as again:
        again.ingest("metrics", metrics_body(3, instance="two"))
        assert again.run("last").run_id == "run-1"
        assert by_name(again, "spanbus.phase.failures")[0].value == 5


# --- retention --------------------------------------------------------------------------------------------------------------


def test_data_older_than_the_retention_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with Store.open(path) as store:
        store.ingest("traces", run_body(1))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE spans SET stored_at_s = stored_at_s - 100")
    connection.close()
    with Store.open(path, Retention(age_s=50, every_s=0)) as store:
        store.ingest("traces", run_body(2))
        assert [head.run_id for head in store.run_heads()] == ["run-2"]


def test_the_oldest_data_is_deleted_when_the_file_is_too_large(tmp_path: Path) -> None:
    size = 2**19
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=size, every_s=0)) as store:
        for number in range(1, 901):
            store.ingest("traces", run_body(number, phases=("build", "tests", "publish")))
        heads = store.run_heads(limit=10_000)
        assert "run-900" in {head.run_id for head in heads}
        assert "run-1" not in {head.run_id for head in heads}
        with sqlite3.connect(store.path) as connection:
            pages, free = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count")
            )
        connection.close()
        assert (pages - free) * 4_096 <= size + 2**17


def test_unused_resources_are_deleted(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite3", Retention(size_bytes=2**19, every_s=0)) as store:
        for number in range(1, 751):
            request = ExportTraceServiceRequest.FromString(run_body(number, phases=()))
            request.resource_spans[0].resource.attributes.add(
                key="process.pid"
            ).value.string_value = f"{number:0500}"
            store.ingest("traces", request.SerializeToString())
        with sqlite3.connect(store.path) as connection:
            [(sources,)] = connection.execute("SELECT count(*) FROM sources").fetchall()
            [(spans,)] = connection.execute("SELECT count(*) FROM spans").fetchall()
            [(dangling,)] = connection.execute(
                "SELECT count(*) FROM spans WHERE source NOT IN (SELECT id FROM sources)"
            ).fetchall()
        connection.close()
        assert spans > 100
        assert sources <= spans + 1
        assert dangling == 0


def test_a_resource_deleted_by_another_process_is_stored_again(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with Store.open(path) as one:
        one.ingest("traces", run_body(1))
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM spans")
            connection.execute("DELETE FROM sources")
        connection.close()
        one.ingest("traces", run_body(2))
        assert one.trace(f"{2:032x}")[0].resource.attributes[0].value.string_value == "spanbus"


@pytest.fixture(params=[2_000, pytest.param(SERIES_LIMIT, marks=pytest.mark.slow)])
def series_limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("spanbus._store.metrics.SERIES_LIMIT", request.param)
    return int(request.param)


def test_series_above_the_limit_are_dropped_and_counted(store: Store, series_limit: int) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="orders")
    metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, DELTA
    for number in range(series_limit + 50):
        metric.sum.data_points.add(as_int=1, time_unix_nano=1).attributes.add(
            key="order"
        ).value.int_value = number
    body = request.SerializeToString()
    assert store.ingest_metrics(body) == 50
    assert store.ingest_metrics(body) == 50
    series = by_name(store, "orders")
    assert len(series) == series_limit
    assert {each.value for each in series} == {2}


def test_series_of_ended_processes_make_room_for_new_ones(store: Store, series_limit: int) -> None:
    for instance, at_ns, many in (("old", 1, series_limit), ("new", 2, 10)):
        request = ExportMetricsServiceRequest()
        group = request.resource_metrics.add()
        group.resource.attributes.add(key="service.instance.id").value.string_value = instance
        metric = group.scope_metrics.add().metrics.add(name="orders")
        for number in range(many):
            metric.gauge.data_points.add(as_int=1, time_unix_nano=at_ns).attributes.add(
                key="order"
            ).value.int_value = number
        assert store.ingest_metrics(request.SerializeToString()) == 0
    assert len([series for series in by_name(store, "orders") if series.instance == "new"]) == 10


def test_a_store_with_only_logs_deletes_old_data(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=START_NS)
    with Store.open(path, Retention(age_s=50, every_s=0)) as store:
        store.ingest("logs", request.SerializeToString())
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE logs SET stored_at_s = stored_at_s - 100")
            connection.commit()
            store.ingest("logs", request.SerializeToString())
            assert connection.execute("SELECT count(*) FROM logs").fetchone() == (1,)
        connection.close()


# --- many at once -----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from spanbus._store.store import Store
path, first = Path(sys.argv[1]), int(sys.argv[2])
sys.path.insert(0, sys.argv[3])
from bodies import run_body, metrics_body
with Store.open(path) as store:
    for number in range(first, first + 40):
        store.ingest("traces", run_body(number))
        store.ingest("metrics", metrics_body(1, instance=str(number)))
"""


def test_concurrent_processes_lose_no_data(tmp_path: Path) -> None:
    path = tmp_path / "state" / "store.sqlite3"
    here = str(Path(bodies.__file__).parent)
    writers = [
        prepared.start(
            [str(path), str(1 + 1_000 * at), here], folder=tmp_path, env=os.environ, code=WRITER
        )
        for at in range(4)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said
    with Store.open(path) as store:
        assert len(store.run_heads(limit=1_000)) == 160
        assert by_name(store, "spanbus.phase.failures")[0].value == 160


def test_threads_can_read_while_one_writes(store: Store) -> None:
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                for head in store.run_heads(limit=5):
                    assert len(store.run(head.run_id).phases) == 2
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 151):
        store.ingest("traces", run_body(number))
    done.set()
    for reader in readers:
        reader.join(20)
    assert problems == []
    assert len(store.run_heads(limit=1_000)) == 150


def test_a_store_opens_after_its_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    endless = WRITER.replace("first + 40", "first + 10**9")
    writer = subprocess.Popen(
        [sys.executable, "-c", endless, str(path), "1", str(Path(bodies.__file__).parent)]
    )
    deadline = time.monotonic() + 30
    seen = 0
    while seen < 20:
        assert time.monotonic() < deadline
        if path.exists():
            with Store.open(path) as store:
                seen = len(store.run_heads(limit=100))
    writer.kill()
    writer.wait()
    with Store.open(path) as store:
        heads = store.run_heads(limit=100_000)
        assert len(heads) >= seen
        assert all(len(store.run(head.run_id).phases) == 2 for head in heads[:50])


OPENS_AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from spanbus._store.store import Store
from bodies import run_body
path = Path(sys.argv[1])
with Store.open(path) as store:
    store.ingest("traces", run_body(1))
    with Store.open(path):
        pass
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(2, 50):
        store.ingest("traces", run_body(number))
"""


def test_opening_a_store_twice_in_one_process_keeps_its_locks(tmp_path: Path) -> None:
    """Closing any descriptor of a file releases the process's POSIX locks on it, SQLite's too; then others delete the log."""
    path = tmp_path / "store.sqlite3"
    holder = subprocess.Popen(
        [sys.executable, "-c", OPENS_AGAIN, str(path), str(Path(bodies.__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    log = path.with_name("store.sqlite3-wal")
    before = log.stat().st_ino
    with Store.open(path) as other:
        other.ingest("traces", run_body(100))
    assert log.stat().st_ino == before
    _, said = holder.communicate("\n", timeout=30)
    assert holder.returncode == 0, said
    with Store.open(path) as store:
        assert len(store.run_heads(limit=1_000)) == 50


FORKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from spanbus._store.store import Store
from bodies import run_body
with Store.open(Path(sys.argv[1])) as store:
    store.ingest("traces", run_body(1))
    children = []
    for child in range(1, 4):
        pid = os.fork()
        if pid == 0:
            for number in range(child * 100, child * 100 + 30):
                store.ingest("traces", run_body(number))
            store.close()
            os._exit(0)
        children.append(pid)
    for number in range(2, 40):
        store.ingest("traces", run_body(number))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""


def test_forked_children_and_their_parent_write_to_the_same_store(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(path), str(Path(bodies.__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Store.open(path) as store:
        assert len(store.run_heads(limit=1_000)) == 39 + 3 * 30
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("content", ["newer", "garbage"])
def test_a_refused_store_is_closed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "store.sqlite3"
    if content == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
    else:
        path.write_bytes(b"no database at all\n" * 500)
    with pytest.raises(StoreError) as refused:  # which keeps everything alive that it passed
        Store.open(path)
    held = [
        os.readlink(entry)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and entry.exists()
    ]
    assert str(path) not in held
    del refused
