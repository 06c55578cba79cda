"""Spans into the local store against the simplest way to store as many rows in SQLite: one executemany of their bytes."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.rounds import Row, at_most, in_turns, seconds_of
from spanbus._backend import decoding
from spanbus._backend.prometheus import Exposition, labels
from spanbus._store.query import TraceQuery
from spanbus._store.series import Series
from spanbus._store.store import Store

_SPANS = 20_000
_REQUESTS = 10
_START_NS = 1_767_225_600_000_000_000
_GOAL_PER_S = 30_000


def _requests(first_trace: int) -> list[ExportTraceServiceRequest]:
    """Requests of `spanbus run`: ten phases in a run, three events in a phase."""
    made: list[ExportTraceServiceRequest] = []
    number = 0
    for _ in range(_REQUESTS):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        for key, text in {
            "service.name": "spanbus",
            "spanbus.lifetime": "run",
            "telemetry.sdk.language": "python",
        }.items():
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
            said = {
                "cicd.pipeline.name": "bench",
                "cicd.pipeline.run.id": f"run-{first_trace}-{run}",
                "spanbus.level": "run" if at == 0 else "phase",
            }
            said |= (
                {"cicd.pipeline.result": "success"}
                if at == 0
                else {
                    "cicd.pipeline.task.name": f"phase {at}",
                    "cicd.pipeline.task.run.result": "success",
                }
            )
            for key, text in said.items():
                span.attributes.add(key=key).value.string_value = text
            for name in (
                "hooks.strategy.started",
                "hooks.execution.completed",
                "hooks.strategy.completed",
            ):
                event = span.events.add(time_unix_nano=span.start_time_unix_nano + 100, name=name)
                event.attributes.add(key="spanbus.payload.strategy").value.string_value = "fast"
            number += 1
        made.append(request)
    return made


def _spans() -> list[Row]:
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
                [
                    (span.trace_id, span.span_id, span.SerializeToString())
                    for span in request.resource_spans[0].scope_spans[0].spans
                ]
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
        store.close()
        spans = turn * _SPANS
        bytes_each = store.path.stat().st_size / spans
        plain_each = (Path(folder) / "plain.db").stat().st_size / spans
    return [
        Row(
            "spans into the local store (rows by executemany)",
            mine,
            yard,
            "1/s",
            mine / yard,
            f">= {_GOAL_PER_S:,} 1/s",
            mine >= _GOAL_PER_S,
        ),
        at_most(
            "the same, with the way in: decoded, checked and stored (decoded, rows by executemany)",
            _received(),
            1e6 / yard + _decoding_us(),
            1.0,
        ),
        at_most(
            "bytes of a stored span with its indexes (its bytes and ids)",
            bytes_each,
            plain_each,
            500 / plain_each,
            "bytes",
        ),
    ]


def _decoding_us() -> float:
    bodies = [request.SerializeToString() for request in _requests(7_000_000)]
    return (
        seconds_of(lambda: [ExportTraceServiceRequest.FromString(each) for each in bodies])
        / _SPANS
        * 1e6
    )


def _received() -> float:
    """Microseconds for a span from the request body to the store, on the receiver's path."""
    bodies = [request.SerializeToString() for request in _requests(8_000_000)]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.db") as store:

        def work() -> None:
            for body in bodies:
                checked = decoding.traces(body, False, decoding.Bounds(600_000, 50_000))
                store.ingest_decoded("traces", checked.body, checked.request)

        return seconds_of(work) / _SPANS * 1e6


def _ms(ask: Callable[[Store], object], store: Store) -> float:
    return seconds_of(partial(ask, store)) * 1e3


def _pages() -> list[Row]:
    """First pages of a store against those of one with a tenth of the spans."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [Store.open(Path(folder) / f"{many}.db") for many in (1, 10)]
        for store, many in zip(stores, (1, 10), strict=True):
            for turn in range(1, many + 1):
                for request in _requests(turn * 1_000_000):
                    store.ingest_traces(b"", request)
        small, large = stores
        questions: dict[str, Callable[[Store], object]] = {
            "runs, workflows and projects": lambda store: (
                store.run_heads(limit=100),
                store.workflows(),
                store.projects(),
            ),
            "the last 20 traces": lambda store: store.trace_ids(TraceQuery(limit=20)),
            "operations of a service": lambda store: store.operations("spanbus"),
            "the last run": lambda store: store.run("last"),
        }
        rows = [
            at_most(
                f"{name}, of 200,000 spans (of 20,000)",
                *in_turns(partial(_ms, ask, large), partial(_ms, ask, small)),
                2.0,
                "ms",
            )
            for name, ask in questions.items()
        ]
        for store in stores:
            store.close()
    return rows


def _scrape() -> list[Row]:
    """The text of 10,000 series against prometheus_client's writer of prepared samples."""
    from prometheus_client import Metric, exposition

    bounds = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
    series = [
        Series(
            "spanbus.phase.duration",
            "histogram",
            "s",
            "",
            "service",
            "",
            "",
            {"cicd.pipeline.name": f"workflow-{number % 100}", "phase": f"phase-{number}"},
            5.0,
            len(bounds) + 1,
            bounds,
            (1,) * (len(bounds) + 1),
        )
        for number in range(10_000)
    ]

    class Kept:
        def metric_series(self) -> list[Series]:
            return series

        def collect(self) -> list[Metric]:
            return [family]

    family = Metric("spanbus_phase_duration_seconds", "", "histogram")
    for each in series:
        tags = labels(each)
        for number, bound in enumerate((*map(str, bounds), "+Inf"), 1):
            family.add_sample(
                "spanbus_phase_duration_seconds_bucket", {**tags, "le": bound}, number
            )
        family.add_sample("spanbus_phase_duration_seconds_count", tags, each.count)
        family.add_sample("spanbus_phase_duration_seconds_sum", tags, each.value)
    kept = Kept()
    mine, yard = in_turns(
        lambda: seconds_of(lambda: Exposition(kept).render("")),
        lambda: seconds_of(lambda: exposition.generate_latest(kept)),  # type: ignore[arg-type]
        rounds=5,
    )
    return [at_most("/metrics of 10,000 series (prometheus_client's writer)", mine, yard, 0.5, "s")]


def measure() -> list[Row]:
    return [*_spans(), *_pages(), *_scrape()]
