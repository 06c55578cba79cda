"""Queries of a store of any size: each uses an index, results are newest first, and a search has a time limit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._store.query import Partial, TraceQuery, deadline
from spanbus._store.retention import Retention
from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000


def body(first: int, many: int = 1, *, service: str = "shop", workflow: str = "night") -> bytes:
    """Return runs of two phases, each with a client and a server span of another program, one trace per run."""
    request = ExportTraceServiceRequest()
    for of in (service, f"{service}-bank"):
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = of
        spans = group.scope_spans.add().spans
        for number in range(first, first + many):
            levels = ("run", "phase", "phase", "") if of == service else ("",)
            for at, level in enumerate(levels):
                own = at if of == service else 9
                span = spans.add(
                    trace_id=number.to_bytes(16, "big"),
                    span_id=(number * 16 + own + 1).to_bytes(8, "big"),
                    parent_span_id=(number * 16 + (4 if own == 9 else 1)).to_bytes(8, "big")
                    if own
                    else b"",
                    name=f"{level or 'call'} {at}",
                    kind=Span.SPAN_KIND_SERVER if own == 9 else Span.SPAN_KIND_CLIENT,
                    start_time_unix_nano=START_NS + number * 1_000_000 + own,
                    end_time_unix_nano=START_NS + number * 1_000_000 + 500_000,
                )
                said = {"number": str(number)}
                if level:
                    said |= {
                        "spanbus.level": level,
                        "cicd.pipeline.name": workflow,
                        "cicd.pipeline.run.id": f"run-{number:06}",
                        "cicd.pipeline.result": "success",
                        "cicd.pipeline.task.name": f"phase {at}",
                    }
                for key, text in said.items():
                    span.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()


@contextmanager
def opened(folder: Path) -> Generator[Store]:
    with Store.open(folder / "store.sqlite3") as one:
        one.ingest("traces", body(1, 40))
        one.ingest("traces", body(101, 40, service="mill", workflow="day"))
        yield one


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store shared by all tests that only read."""
    with opened(tmp_path_factory.mktemp("small")) as one:
        yield one


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The same store with ten times as many runs of other services."""
    with opened(tmp_path_factory.mktemp("large")) as one:
        for first in range(1_000, 9_000, 1_000):
            one.ingest("traces", body(first, 100, workflow="other", service="other"))
        yield one


QUESTIONS: dict[str, Callable[[Store], object]] = {
    "the first page of runs": lambda store: store.run_heads(limit=5),
    "runs of a workflow": lambda store: store.run_heads(workflow="day", limit=5),
    "runs of a project": lambda store: store.run_heads(project="mill", limit=5),
    "runs that failed": lambda store: store.run_heads(result="failed", limit=5),
    "runs by a text": lambda store: store.run_heads(text="run-00010", limit=5),
    "runs since": lambda store: store.run_heads(since_ns=START_NS, limit=5),
    "the last run": lambda store: store.run_head("last"),
    "the last but three of a project": lambda store: store.run_head("last~3", project="mill"),
    "a run": lambda store: store.run_head("run-000001"),
    "a run by the beginning of its id": lambda store: store.run_head("run-00000"[:9] + "1"),
    "a run with its phases": lambda store: store.run("last"),
    "runs within a run": lambda store: store.runs_within(store.run("last")),
    "workflows": lambda store: store.workflows(),
    "projects": lambda store: store.projects(),
    "phases": lambda store: store.phase_points(since_ns=0, workflow=None, limit=5),
    "phases of a workflow": lambda store: store.phase_points(since_ns=0, workflow="day", limit=5),
    "services": lambda store: store.services(),
    "operations": lambda store: store.operations("mill"),
    "the last traces": lambda store: store.trace_ids(TraceQuery(limit=5)),
    "traces of an operation": lambda store: store.trace_ids(TraceQuery("mill", "run 0", limit=5)),
    "traces by an attribute": lambda store: store.trace_ids(
        TraceQuery(tags={"number": "7"}, limit=5)
    ),
    "traces of others": lambda store: store.trace_heads(limit=5),
    "traces of others by a text": lambda store: store.trace_heads(text="call", limit=5),
    "a trace": lambda store: store.trace(f"{7:032x}"),
    "calls between services": lambda store: store.dependencies(0, 2**63 - 1),
}
SORTED_AT_THE_END = re.compile(
    r"USE TEMP B-TREE FOR (LAST TERM|RIGHT PART|LAST \d TERMS) OF ORDER BY"
)
FEW = (
    "runs by a text",
    "a run by the beginning of its id",
    "runs within a run",
    "a trace",
    "a run with its phases",
    "a run",
)
"""Questions whose few rows are sorted after they were found."""


def asked(store: Store, question: Callable[[Store], object]) -> list[str]:
    statements: list[str] = []
    with store.reading() as connection:
        connection.set_trace_callback(statements.append)
        try:
            question(store)
        finally:
            connection.set_trace_callback(None)
    return [each for each in statements if each.lstrip().upper().startswith("SELECT")]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_query_uses_an_index(small: Store, name: str) -> None:
    statements = asked(small, QUESTIONS[name])
    assert statements
    with sqlite3.connect(small.path) as connection:
        for statement in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for step in plan:
                assert not re.match(
                    r"SCAN (spans|child|parent)(?! USING (COVERING )?INDEX)", step
                ), (statement, plan)
                if "TEMP B-TREE" in step and name not in FEW and "FROM spans" in statement:
                    assert SORTED_AT_THE_END.search(step) or "UNION ALL" in statement, (
                        statement,
                        plan,
                    )
    connection.close()


LOOK_THROUGH_ALL = {
    "calls between services",
    "traces by an attribute",
    "runs by a text",
    "runs that failed",
}
"""Questions that are bounded in time instead."""


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name not in LOOK_THROUGH_ALL])
def test_the_work_for_the_first_page_does_not_grow_with_the_store(
    small: Store, large: Store, name: str
) -> None:
    """The work is counted in SQLite instructions."""
    few = instructions(small, QUESTIONS[name])
    assert instructions(large, QUESTIONS[name]) <= few * 3 + 2_000


def instructions(store: Store, question: Callable[[Store], object]) -> int:
    count = 0

    def one() -> int:
        nonlocal count
        count += 1
        return 0

    with store.reading() as connection:
        connection.set_progress_handler(one, 10)
        try:
            question(store)
        finally:
            connection.set_progress_handler(None, 0)
    return count * 10


def test_cached_lists_equal_those_computed_from_the_spans(store: Store) -> None:
    with sqlite3.connect(store.path) as connection:

        def column(question: str) -> list[str]:
            return [row[0] for row in connection.execute(question)]

        services = column("SELECT DISTINCT service FROM spans ORDER BY 1")
        assert list(store.services()) == services == ["mill", "mill-bank", "shop", "shop-bank"]
        for service in services:
            assert (
                list(store.operations(service))
                == connection.execute(
                    "SELECT DISTINCT name, kind FROM spans WHERE service = ? ORDER BY 1, 2",
                    (service,),
                ).fetchall()
            )
        assert list(store.workflows()) == ["day", "night"]
        assert list(store.projects()) == ["mill", "shop"]
    connection.close()


def test_names_are_deleted_with_their_last_span(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with Store.open(path) as store:
        store.ingest("traces", body(1, 3, service="old", workflow="gone"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE spans SET stored_at_s = stored_at_s - 100")
        for table in ("services", "operations", "workflows"):
            connection.execute(f"UPDATE {table} SET until_s = until_s - 100")
    connection.close()
    with Store.open(path, Retention(age_s=50, every_s=0)) as store:
        store.ingest("traces", body(11, 3, service="new", workflow="here"))
        assert list(store.services()) == ["new", "new-bank"]
        assert list(store.workflows()) == ["here"]
        assert list(store.projects()) == ["new"]
        assert store.operations("old") == []


def test_a_search_that_takes_too_long_returns_a_partial_result(store: Store) -> None:
    query = TraceQuery(tags={"number": "7"})
    assert list(store.trace_ids(query)) == [f"{7:032x}"]
    store.search_s = 0.0
    found = store.trace_ids(query)
    assert isinstance(found, Partial)
    assert found == [] and "ended after" in found.why
    store.search_s = 60.0
    assert not isinstance(store.trace_ids(query), Partial)


def test_a_query_is_interrupted_after_its_time_limit(tmp_path: Path) -> None:
    now = iter(range(10**9))
    connection = sqlite3.connect(tmp_path / "one.sqlite3")
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    with deadline(connection, 5, clock=lambda: float(next(now))) as left:
        connection.execute(endless).fetchone()
        pytest.fail("it ended")
    assert left.passed
    assert connection.execute("SELECT 1").fetchone() == (1,)  # the next one has time again
    connection.close()


def test_the_newest_trace_of_any_service_comes_first(store: Store) -> None:
    store.ingest("traces", body(60, 1, service="zoo"))
    found = store.trace_ids(TraceQuery(limit=60))
    assert found[:2] == [f"{140:032x}", f"{139:032x}"]
    assert found[40] == f"{60:032x}"
    assert len(found) == len(set(found)) == 60


def test_calls_between_services_are_counted(store: Store) -> None:
    counts = {(parent, child): count for parent, child, count in store.dependencies(0, 2**63 - 1)}
    assert counts["shop", "shop-bank"] == counts["mill", "mill-bank"] == 40
    assert store.dependencies(0, 1) == []


def test_an_empty_store_answers_queries(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite3") as empty:
        assert empty.dependencies(0, 2**63 - 1) == []
        assert empty.trace_ids(TraceQuery(limit=20)) == []
