"""Spans into the local store against the plainest way to keep as many rows in SQLite: one executemany of their bytes."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.rounds import Row, in_turns, seconds_of
from spanbus.local.store import Store

_SPANS = 20_000
_REQUESTS = 10
_START_NS = 1_767_225_600_000_000_000
_GOAL_PER_S = 30_000


def _requests(first_trace: int) -> list[ExportTraceServiceRequest]:
    """What `spanbus run` sends: ten phases to a run, three events to a phase."""
    made: list[ExportTraceServiceRequest] = []
    number = 0
    for _ in range(_REQUESTS):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        for key, text in {"service.name": "spanbus", "spanbus.lifetime": "run", "telemetry.sdk.language": "python"}.items():
            group.resource.attributes.add(key=key).value.string_value = text
        scope = group.scope_spans.add()
        scope.scope.name = "spanbus"
        for _ in range(_SPANS // _REQUESTS):
            run, at = divmod(number, 11)
            span = scope.spans.add(
                trace_id=(first_trace + run).to_bytes(16, "big"),
                span_id=((first_trace << 20) + number + 1).to_bytes(8, "big"),
                name="RUN bench" if at == 0 else f"phase {at}",
                kind=Span.SPAN_KIND_SERVER if at == 0 else Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=_START_NS + number * 1_000,
                end_time_unix_nano=_START_NS + number * 1_000 + 500_000,
            )
            said = {"cicd.pipeline.name": "bench", "cicd.pipeline.run.id": f"run-{first_trace}-{run}", "spanbus.level": "run" if at == 0 else "phase"}
            said |= (
                {"cicd.pipeline.result": "success"}
                if at == 0
                else {"cicd.pipeline.task.name": f"phase {at}", "cicd.pipeline.task.run.result": "success"}
            )
            for key, text in said.items():
                span.attributes.add(key=key).value.string_value = text
            for name in ("hooks.strategy.started", "hooks.execution.completed", "hooks.strategy.completed"):
                event = span.events.add(time_unix_nano=span.start_time_unix_nano + 100, name=name)
                event.attributes.add(key="spanbus.payload.strategy").value.string_value = "fast"
            number += 1
        made.append(request)
    return made


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.db") as store:
        plain_rows = sqlite3.connect(Path(folder) / "plain.db", isolation_level=None)
        plain_rows.execute("PRAGMA journal_mode = WAL")
        plain_rows.execute("PRAGMA synchronous = NORMAL")
        plain_rows.execute("CREATE TABLE spans (trace_id BLOB, span_id BLOB, body BLOB)")
        turn = 0

        def ours() -> float:
            nonlocal turn
            turn += 1
            bodies = [request.SerializeToString() for request in _requests(turn * 1_000_000)]

            def work() -> None:
                for body in bodies:
                    store.ingest("traces", body)

            return _SPANS / seconds_of(work)

        def plain() -> float:
            chunks = [
                [(span.trace_id, span.span_id, span.SerializeToString()) for span in request.resource_spans[0].scope_spans[0].spans]
                for request in _requests(turn * 1_000_000)
            ]

            def work() -> None:
                for rows in chunks:
                    plain_rows.execute("BEGIN IMMEDIATE")
                    plain_rows.executemany("INSERT INTO spans VALUES (?,?,?)", rows)
                    plain_rows.execute("COMMIT")

            return _SPANS / seconds_of(work)

        mine, yard = in_turns(ours, plain, rounds=7)
        plain_rows.close()
    return [Row("spans into the local store (rows by executemany)", mine, yard, "1/s", mine / yard, f">= {_GOAL_PER_S:,} 1/s", mine >= _GOAL_PER_S)]
