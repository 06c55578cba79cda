"""The first event of a service must not import modules or open files that could have been loaded before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PUBLISHES = """
import json, sys, threading
import spanbus

asked, me, watching = [], threading.get_ident(), False

def hook(event, given):
    if watching and threading.get_ident() == me and event in ("import", "open", "compile"):
        asked.append([event, str(given[0])])

sys.addaudithook(hook)
def publish(feed):
    global watching
    watching = True
    feed({"type": "workflow.started", "run_id": "r"})
    feed({"type": "workflow.phase.started", "run_id": "r", "phase": "tests", "payload": {"said": "text"}})
    feed({"type": "workflow.phase.completed", "run_id": "r", "phase": "tests", "payload": {"success": True}})
    feed({"type": "workflow.completed", "run_id": "r", "payload": {"success": True}})
    watching = False
    print(json.dumps(asked))

"""
WAYS = {
    "a runtime": "with spanbus.open_runtime_sync() as runtime:\n    publish(runtime.handle.feed)",
    "one line": "publish(spanbus.instrument(None).feed)",
}
LOADED = """
class Bus:
    def publish(self, event): pass

handle = spanbus.instrument(Bus())
handle.feed({"type": "workflow.started", "run_id": "r"})
print(json.dumps(sorted(sys.modules)))
"""
NOT_NEEDED = {
    "anyio",
    "asyncio",
    "google.protobuf",
    "opentelemetry.propagate",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace",
    "psutil",
}
"""By a service that has none of them; each takes up to a third of what the SDK takes to import."""


@pytest.mark.parametrize(
    "env",
    [
        {"SPANBUS_LOCAL": "on"},
        {"SPANBUS_LOCAL": "off"},
        {"SPANBUS_EVENTS": "both"},
        {"SPANBUS_DELIVERY": "sdk"},
        {"OTEL_PROPAGATORS": "tracecontext"},
        {
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"
        },
    ],
    ids=lambda env: "=".join(*env.items()),
)
@pytest.mark.parametrize("way", WAYS)
def test_the_first_event_imports_nothing_and_opens_state_files_only(
    tmp_path: Path, way: str, env: dict[str, str]
) -> None:
    unmeasured = {name: os.environ[name] for name in os.environ if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHES + WAYS[way]],
        env={
            **unmeasured,
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            **env,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    asked = json.loads(done.stdout)
    assert [name for event, name in asked if event != "open"] == []
    opened = [name for event, name in asked if event == "open"]
    assert [name for name in opened if not name.startswith((str(tmp_path), "/proc/"))] == []


def test_a_service_loads_neither_an_event_loop_nor_the_sdk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHES + LOADED],
        env={
            **os.environ,
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "SPANBUS_EXIT_TIMEOUT_S": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert NOT_NEEDED.intersection(json.loads(done.stdout)) == set()
