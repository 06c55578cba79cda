"""A whole service at 100 phases a second: CPU of the process without the harness, and the wait of publishers."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from bench.rounds import Row, at_most
from spanbus._correlation import correlator
from spanbus.testing import Receiver

_SECONDS = 20
_ROUNDS = 3


def _service(who: str, url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as state:
        env = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_METRIC_EXPORT_INTERVAL": "5000",
            "SPANBUS_STATE_DIR": state,
            "SPANBUS_LOCAL": "off",
        }
        found = subprocess.run(
            [sys.executable, "-m", "bench.programs", who, "service", str(_SECONDS)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    return json.loads(found.stdout)


def measure() -> list[Row]:
    compiled = not (correlator.__file__ or "").endswith(".py")
    found: dict[str, list[dict[str, float]]] = {"nothing": [], "ours": [], "sdk": []}
    for _ in range(_ROUNDS):
        for who, rounds in found.items():
            with Receiver() as receiver:
                rounds.append(_service(who, receiver.url))

    def median(who: str, what: str) -> float:
        return statistics.median(one[what] for one in found[who])

    harness = median("nothing", "cpu_us")
    waits_ms = median("ours", "p99_9_ms")
    return [
        at_most(
            "a service at 100 phases/s: all CPU for each phase, harness subtracted (hand-written)",
            median("ours", "cpu_us") - harness,
            median("sdk", "cpu_us") - harness,
            0.6 if compiled else 1.0,
        ),
        Row(
            "the same: a phase's three events published, p99.9 (hand-written)",
            waits_ms,
            median("sdk", "p99_9_ms"),
            "ms",
            waits_ms / median("sdk", "p99_9_ms"),
            "<= 5 ms",
            waits_ms <= 5,
        ),
    ]
