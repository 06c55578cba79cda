"""The cost of unused telemetry: importing it, and calls with telemetry off."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.rounds import Row, in_turns, seconds_of
from spanbus._runtime import Runtime
from spanbus._settings import load_settings

_PHASES = 2_000


def _import_ms(module: str) -> float:
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return (
        statistics.median(
            float(
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(9)
        )
        * 1e3
    )


_SERVICE = """
import spanbus
class Bus:
    def publish(self, event): pass
handle = spanbus.instrument(Bus())
handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": "w"}})
"""
_SDK = """
import opentelemetry.sdk.metrics.export, opentelemetry.sdk.trace.export
import opentelemetry.exporter.otlp.proto.http.metric_exporter, opentelemetry.exporter.otlp.proto.http.trace_exporter
"""


def _service_ms() -> tuple[float, float]:
    """CPU until the first event of a service is recorded, and CPU of importing the SDK and its exporters."""
    with tempfile.TemporaryDirectory() as state:
        env = {
            **os.environ,
            "SPANBUS_STATE_DIR": state,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        }

        def cpu_ms(body: str) -> float:
            code = f"import os, time\nbegan = time.process_time(){body}print(time.process_time() - began, flush=True)\nos._exit(0)"
            done = subprocess.run(
                [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True
            )
            return float(done.stdout) * 1e3

        return in_turns(lambda: cpu_ms(_SERVICE), lambda: cpu_ms(_SDK), 7)


def measure() -> list[Row]:
    ours, sdk = _import_ms("spanbus"), _import_ms("opentelemetry.sdk.trace")
    first, theirs = _service_ms()
    rows = [
        Row(
            "import spanbus (import of the SDK's traces)",
            ours,
            sdk,
            "ms",
            ours / sdk,
            "<= SDK + 10 ms",
            ours <= sdk + 10,
        ),
        Row(
            "import spanbus, instrument, first event: CPU (import of the SDK's traces, metrics, OTLP exporters)",
            first,
            theirs,
            "ms",
            first / theirs,
            "<= SDK + 30 ms",
            first <= theirs + 30,
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        env = {"SPANBUS_STATE_DIR": folder, "OTEL_SDK_DISABLED": "true"}
        with Runtime(load_settings(env=env, cwd=Path(folder)), env=env) as runtime:
            feed = runtime.handle.feed
            event: dict[str, object] = {}

            def work() -> None:
                for _ in range(_PHASES):
                    feed(event)
                    feed(event)
                    feed(event)
                    feed(event)
                    feed(event)

            spent = statistics.median(seconds_of(work) / _PHASES * 1e6 for _ in range(15))

            def nothing() -> None:
                for _ in range(_PHASES):
                    pass

            empty = statistics.median(seconds_of(nothing) / _PHASES * 1e6 for _ in range(15))
    rows.append(
        Row(
            "telemetry off: five events of a phase (an empty loop)",
            spent,
            empty,
            "µs",
            spent / empty,
            "<= 1 µs",
            spent <= 1.0,
        )
    )
    return rows
