"""The first event of a service: its publisher waits for nothing that could have been loaded before."""

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
    feed({"type": "workflow.phase.started", "run_id": "r", "phase": "tests", "payload": {"said": "text"}})
    feed({"type": "workflow.phase.completed", "run_id": "r", "phase": "tests", "payload": {"success": True}})
    watching = False
    print(json.dumps(asked))

"""
WAYS = {
    "a runtime": "with spanbus.open_runtime_sync() as runtime:\n    publish(runtime.handle.feed)",
    "one line": "publish(spanbus.instrument(None).feed)",
}


@pytest.mark.parametrize("local", ["on", "off"])
@pytest.mark.parametrize("way", WAYS)
def test_the_first_publisher_loads_and_reads_nothing_but_its_state(
    tmp_path: Path, way: str, local: str
) -> None:
    unmeasured = {name: os.environ[name] for name in os.environ if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHES + WAYS[way]],
        env={
            **unmeasured,
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "SPANBUS_LOCAL": local,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
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
