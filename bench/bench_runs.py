"""Commands that show a run of 5,000 phases with three events each: CPU of the whole command for each phase."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.rounds import Row, cpu_ms, shortest
from spanbus._store.store import Store

PHASES = 5_000
_START_NS = 1_767_225_600_000_000_000
_MAIN = "import sys; sys.argv = ['spanbus', *sys.argv[1:]]; from spanbus._cli import main; main()"
_READ = """
import sqlite3, sys
from opentelemetry.proto.trace.v1.trace_pb2 import Span
found = sqlite3.connect(sys.argv[1]).execute("SELECT body FROM spans WHERE trace_id = ?", (bytes.fromhex(sys.argv[2]),))
spans = [Span.FromString(body) for body, in found]
"""
"""The yardstick: the spans read and decoded."""
_GOALS = {"show": 40.0, "show --json": 60.0, "diff": 60.0, "report": 100.0}
"""Microseconds for a phase: 2, 3, 3 and 5 seconds for 50,000."""


def request(trace: int, phases: int = PHASES) -> bytes:
    """One run as an export request."""
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "bench"
    scope = group.scope_spans.add()
    scope.scope.name = "spanbus"
    root = (trace << 32) + 1
    for number in range(phases + 1):
        began = _START_NS + number * 1_000_000
        span = scope.spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=(root + number).to_bytes(8, "big"),
            parent_span_id=root.to_bytes(8, "big") if number else b"",
            name=f"EXECUTE phase-{number}" if number else "RUN bench",
            start_time_unix_nano=began,
            end_time_unix_nano=began + (800_000 if number else phases * 1_000_000),
        )
        said = {
            "spanbus.level": "phase" if number else "run",
            "cicd.pipeline.name": "bench",
            "cicd.pipeline.run.id": f"run-{trace}",
        }
        if number:
            said |= {
                "cicd.pipeline.task.name": f"phase-{number:05}",
                "cicd.pipeline.task.type": "fast_hooks",
                "cicd.pipeline.task.run.result": "success",
            }
            span.attributes.add(key="spanbus.phase.attempts").value.int_value = 1
            span.attributes.add(key="spanbus.events.total").value.int_value = 3
        else:
            said["cicd.pipeline.result"] = "success"
        for key, text in said.items():
            span.attributes.add(key=key).value.string_value = text
        for name in ("workflow.phase.started", "config.checked", "workflow.phase.completed"):
            event = span.events.add(name=name, time_unix_nano=began + 100)
            for key in ("spanbus.event.id", "spanbus.event.source", "spanbus.payload.strategy"):
                event.attributes.add(key=key).value.string_value = f"{key}-{number}"
            event.attributes.add(key="spanbus.payload.duration").value.double_value = 0.25
    return made.SerializeToString()


def measure() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        env = _environment(folder)
        path = Path(folder) / "store.sqlite3"
        with Store.open(path) as store:
            for trace in (1, 2):
                store.ingest("traces", request(trace))
        lines = {
            "show": ("show", "run-1", "--all"),
            "show --json": ("show", "run-1", "--all", "--json"),
            "diff": ("diff", "run-1", "run-2", "--all"),
            "report": ("report", "run-1", "--all", "-o", str(Path(folder) / "run.html")),
        }
        for name, words in lines.items():
            runs = 2 if name == "diff" else 1
            mine, theirs = shortest(
                lambda words=words: cpu_ms((sys.executable, "-c", _MAIN, *words), env),
                lambda: cpu_ms((sys.executable, "-c", _READ, str(path), f"{1:032x}"), env),
            )
            ours, yard, goal = mine / PHASES * 1e3, runs * theirs / PHASES * 1e3, _GOALS[name]
            rows.append(
                Row(
                    f"{name}: CPU for a phase of 5,000 (their spans read and decoded)",
                    ours,
                    yard,
                    "µs",
                    ours / yard,
                    f"<= {goal:g} µs",
                    ours <= goal,
                )
            )
    return rows


def _environment(folder: str) -> Mapping[str, str]:
    env = {**os.environ, "SPANBUS_STATE_DIR": folder}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return {name: value for name, value in env.items() if not name.startswith("OTEL_")}
