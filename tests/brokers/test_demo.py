"""``make demo-distributed``: one run over two hosts, an observer killed in the middle, one trace, exact counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from brokers import library, program
from servers import ROOT

LIMIT_S = 150.0
"""A minute on a machine that has nothing else to do."""


def test_the_demo(tmp_path: Path) -> None:
    for name in ("nats", "celery", "redis"):
        library(name)
    for name in ("nats-server", "redis-server"):
        program(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    env = {
        **os.environ,
        "COLUMNS": "120",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "SPANBUS_STATE_DIR": str(tmp_path / "mine"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONPATH": str(ROOT / "src"),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "distributed" / "demo.py")],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), said + done.stderr
    [host] = re.findall(r"kill -9 of observer \d+ on host (\w+), which has this run", said)
    assert re.search(r"observer \d+ goes on there", said)
    for teller in ("worker east", "worker west", f"observer {host} 1", f"observer {host} 2"):
        assert f" {teller} " in said, "each told a part of the trace"
    counts = dict(re.findall(r"^  (\S.*?)  +(\d+ +\d+) +✓", said, re.MULTILINE))
    assert {what: tuple(map(int, found.split())) for what, found in counts.items()} == {
        "phases": (8, 8),
        "tasks executed by the workers": (9, 9),
        "spans": (20, 20),
        "spans that came twice": (0, 0),
        "spans whose parent is missing": (0, 0),
        "traces": (1, 1),
        "phases in spanbus.phase.duration": (8, 8),
        "retries in spanbus.phase.retries": (1, 1),
        "failures in spanbus.phase.failures": (0, 0),
        "observers that ended in good order": (2, 2),
    }
    assert list((tmp_path / "home").iterdir()) == list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "mine").exists(), "nothing of the user's is touched"
