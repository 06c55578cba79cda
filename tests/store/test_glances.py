"""Lists of runs and phases from the store: branch, strip of phases, first error, attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from spanbus._store.blocks import Bodies
from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000
PHASES = [
    ("lint", "success", 1, ""),
    ("tests", "failure", 2, "\npytest ended with exit code 1\nand more"),
    ("types", "failure", 1, "pyright failed"),
    ("publish", "skip", 1, ""),
]


def body(
    run_id: str, trace: int, *, phases: list[tuple[str, str, int, str]], project: str = "shop"
) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in (
        ("service.name", project),
        ("vcs.ref.head.name", "main"),
        ("vcs.ref.head.revision", "0123456789abcdef"),
    ):
        group.resource.attributes.add(key=key).value.string_value = value
    spans = group.scope_spans.add().spans
    failed = any(result == "failure" for _, result, _, _ in phases)

    def add(
        number: int, level: str, result: str, length_ms: int, message: str, **said: str
    ) -> Span:
        span = spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=(trace * 1_000_000 + number).to_bytes(8, "big"),
            parent_span_id=(trace * 1_000_000 + 1).to_bytes(8, "big") if number > 1 else b"",
            start_time_unix_nano=START_NS + number,
            end_time_unix_nano=START_NS + length_ms * 10**6,
        )
        if result == "failure":
            span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=message))
        for key, value in {
            "spanbus.level": level,
            "cicd.pipeline.name": "ci",
            "cicd.pipeline.run.id": run_id,
            **said,
        }.items():
            span.attributes.add(key=key).value.string_value = value
        return span

    result = "failure" if failed else "success"
    add(1, "run", result, 5_000, "the run failed", **{"cicd.pipeline.result": result})
    for number, (name, result, attempts, message) in enumerate(phases, 2):
        span = add(
            number,
            "phase",
            result,
            number * 100,
            message,
            **{"cicd.pipeline.task.name": name, "cicd.pipeline.task.run.result": result},
        )
        span.attributes.add(key="spanbus.phase.attempts").value.int_value = attempts
    return request.SerializeToString()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite3") as one:
        yield one


def test_a_glance_has_the_columns_of_the_list(store: Store) -> None:
    store.ingest("traces", body("r", 1, phases=PHASES))
    [glance] = store.glances(store.run_heads())
    assert (glance.branch, glance.commit) == ("main", "0123456789abcdef")
    assert [(mark.name, mark.result) for mark in glance.phases] == [
        (name, result) for name, result, _, _ in PHASES
    ]
    assert glance.phases_total == 4
    assert (glance.failed_phase, glance.error) == ("tests", "pytest ended with exit code 1")


def test_a_glance_has_the_last_line_of_the_command_that_made_the_first_failure(
    store: Store,
) -> None:
    request = ExportTraceServiceRequest.FromString(body("r", 1, phases=[]))
    spans = request.resource_spans[0].scope_spans[0].spans

    def add(
        number: int, parent: int, level: str, start: int, end: int, tail: str = "", phase: str = ""
    ) -> None:
        said = {
            "spanbus.level": level,
            "cicd.pipeline.name": "ci",
            "cicd.pipeline.run.id": "r",
            "spanbus.output.tail": tail,
        }
        if phase:
            said |= {"cicd.pipeline.task.name": phase, "cicd.pipeline.task.run.result": "failure"}
        else:
            said["spanbus.hook.result"] = "failure"
        span = spans.add(
            trace_id=(1).to_bytes(16, "big"),
            span_id=(1_000_000 + number).to_bytes(8, "big"),
            parent_span_id=(1_000_000 + parent).to_bytes(8, "big"),
            start_time_unix_nano=START_NS + start,
            end_time_unix_nano=START_NS + end,
        )
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="sh ended with 1"))
        for key, value in said.items():
            if value:
                span.attributes.add(key=key).value.string_value = value

    for pair in spans[0].attributes:
        if pair.key == "cicd.pipeline.result":
            pair.value.string_value = "failure"
    add(10, 1, "phase", 0, 1_000, phase="tests")
    add(11, 10, "attempt", 0, 400, phase="tests")
    add(12, 11, "command", 0, 390, "a network error\n")
    add(13, 10, "attempt", 500, 990, phase="tests")
    add(14, 13, "strategy", 500, 980)
    add(15, 14, "hook", 500, 900, "1 of 2\nassert 3 == 4\n\n")
    add(16, 14, "hook", 500, 950, "later\n")
    add(20, 1, "phase", 0, 2_000, phase="late")
    add(21, 20, "hook", 600, 700, "of another phase\n")
    store.ingest("traces", request.SerializeToString())
    [glance] = store.glances(store.run_heads())
    assert (glance.failed_phase, glance.output) == ("tests", "assert 3 == 4")


def test_a_run_that_succeeded_has_no_error(store: Store) -> None:
    store.ingest("traces", body("r", 1, phases=PHASES[:1]))
    [glance] = store.glances(store.run_heads())
    assert (glance.failed_phase, glance.error) == ("", "")


def test_of_many_phases_some_are_shown_and_all_counted(store: Store) -> None:
    phases = [(f"phase {number}", "success", 1, "") for number in range(70)]
    store.ingest("traces", body("r", 1, phases=phases))
    [glance] = store.glances(store.run_heads())
    assert (len(glance.phases), glance.phases_total) == (40, 70)


def test_glances_are_in_the_order_of_their_runs(store: Store) -> None:
    for number in range(1, 6):
        store.ingest(
            "traces", body(f"r{number}", number, phases=[(f"p{number}", "success", 1, "")])
        )
    heads = store.run_heads()
    assert [glance.phases[0].name for glance in store.glances(heads)] == [
        f"p{head.run_id[1:]}" for head in heads
    ]


def test_points_can_be_filtered_by_project_and_phase(store: Store) -> None:
    store.ingest("traces", body("a", 1, phases=PHASES, project="shop"))
    store.ingest("traces", body("b", 2, phases=PHASES, project="billing"))
    everything = store.phase_points(since_ns=0, workflow=None, limit=100)
    assert len(everything) == 8
    [one] = store.phase_points(
        since_ns=0, workflow="ci", limit=100, project="billing", phase="tests"
    )
    assert (one.run_id, one.project, one.attempts, one.result) == ("b", "billing", 2, "failure")
    with store.reading() as connection:  # as an earlier version left them
        bodies = Bodies(connection)
        for row_id, packed in connection.execute("SELECT id, body FROM spans").fetchall():
            connection.execute(
                "UPDATE spans SET attempts = NULL, body = ? WHERE id = ?",
                (bodies.of(row_id, packed), row_id),
            )
        connection.execute("DELETE FROM blocks")
    assert store.phase_points(since_ns=0, workflow=None, limit=100) == everything


def test_the_phases_of_a_run_are_read_by_an_index(store: Store) -> None:
    store.ingest("traces", body("r", 1, phases=PHASES))
    with store.reading() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT phase FROM spans WHERE trace_id = ? AND level = 'phase' AND run_id = ? ORDER BY start_ns, id",
            (b"", ""),
        ).fetchall()
    assert "phases_by_trace" in str(plan)
