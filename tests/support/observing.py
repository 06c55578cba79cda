"""`spanbus observe` processes, and event lines of synthetic runs for them."""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from brokers import Nats
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from servers import ROOT
from spans import attributes

from spanbus.integrations import nats_stream
from spanbus.testing import Receiver

START_NS = 1_767_225_600_000_000_000
SECOND = 1_000_000_000
Line = dict[str, object]
SMALL = nats_stream.Wanted(max_bytes=64 * 2**20)
"""A small stream for tests."""


def line_of(
    run_id: str, number: int, kind: str, phase: str | None, at_ns: int, **payload: object
) -> Line:
    """Return the ``number``-th event of a run."""
    return {
        "event_type": f"workflow.{kind}",
        "event_id": f"{run_id}-{number:02d}",
        "at_ns": at_ns,
        "run_id": run_id,
        **({"phase": phase, "attempt": 1} if phase else {}),
        "payload": payload,
    }


def run(run_id: str, *, telemetry: str | None = None, start_ns: int = START_NS) -> list[Line]:
    """Return the events of a run with two phases, of which the second fails in two attempts: five spans."""

    def line(number: int, kind: str, phase: str | None = None, **payload: object) -> Line:
        found = line_of(run_id, number, kind, phase, start_ns + number * SECOND, **payload)
        return (
            {**found, "metadata": {"telemetry": telemetry}} if telemetry and number == 1 else found
        )

    failed = {"success": False, "result": "failure", "error_type": "E", "error": "no"}
    return [
        line(1, "started", workflow="w"),
        line(2, "phase.started", "lint"),
        line(3, "phase.completed", "lint", success=True, duration=1.0),
        line(4, "phase.started", "tests"),
        line(5, "phase.retrying", "tests", next_attempt=2, **failed),
        line(6, "phase.failed", "tests", attempts=2, duration=2.0, **failed),
        line(7, "failed", workflow="w", **failed),
    ]


def mixed(runs: Sequence[Sequence[Line]]) -> list[Line]:
    """Interleave the events of several runs; each run keeps its order."""
    longest = max(map(len, runs), default=0)
    return [line for step in range(longest) for one in runs for line in one[step : step + 1]]


def publish(
    url: str, lines: Sequence[Line], *bodies: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Publish each line under the subject of its run with the stock NATS client, and wait for each acknowledgement."""
    import nats

    async def publishing() -> None:
        connection = await nats.connect(url)
        stream = connection.jetstream()
        for line in lines:
            subject = f"spanbus.v1.event.w.{str(line.get('run_id', '-'))[:64]}"
            await stream.publish(subject, json.dumps(line).encode(), headers=dict(headers or {}))
        for body in bodies:
            await stream.publish("spanbus.v1.event.w.r", body)
        await connection.close()

    asyncio.run(publishing())


class Observing:
    """A ``spanbus observe`` process with its own state directory, as on another host."""

    def __init__(
        self,
        nats: Nats,
        collector: Receiver | None,
        folder: Path,
        *words: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = [sys.executable, "-m", "spanbus", "observe", nats.url, *words]
        self.env = {
            "PYTHONFAULTHANDLER": "1",
            **os.environ,
            **(collector.env if collector is not None else {}),
            "SPANBUS_STATE_DIR": str(folder),
            "SPANBUS_LOCAL": "off",
            "SPANBUS_EXIT_TIMEOUT_S": "3",
            "PYTHONPATH": str(ROOT / "src"),
            **(env or {}),
        }
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._text = b""

    def start(self) -> Observing:
        self.process = subprocess.Popen(self.argv, env=self.env, stderr=subprocess.PIPE)
        self.wait_for("until told to stop")
        return self

    def wait_for(self, words: str, timeout_s: float = 40.0) -> str:
        """Return the next line of stderr that contains ``words``."""
        assert self.process is not None and self.process.stderr is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while True:
                while b"\n" in self._text:
                    line, _, self._text = self._text.partition(b"\n")
                    self.said.append(line.decode())
                    if words in self.said[-1]:
                        return self.said[-1]
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"{words!r} was not said within {timeout_s} s: {self.said}"
                if selector.select(left_s):
                    more = os.read(self.process.stderr.fileno(), 65_536)
                    assert more, f"{words!r} was not said: {self.said}"
                    self._text += more

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int | None = None, timeout_s: float = 40.0) -> int:
        """Send a signal if one is given, wait for the end, and return the exit code."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        try:
            _, errors = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            raise AssertionError(self.process.communicate(timeout=20)[1].decode()) from None
        self.said += (self._text + errors).decode().splitlines()
        self._text = b""
        return self.process.returncode

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=20)


Start = Callable[..., Observing]
"""A function that starts an observer: its folder, further command line words, and environment variables."""


def doubled(collector: Receiver) -> list[str]:
    """Return the names of duplicate spans, once for each superfluous copy."""
    counts = Counter((span.span_id, span.name) for span in collector.spans())
    return [name for (_, name), count in counts.items() for _ in range(count - 1)]


def unique(collector: Receiver) -> set[bytes]:
    return {span.span_id for span in collector.spans()}


def total(collector: Receiver, name: str) -> float:
    """Return the value of a counter or the count of a histogram, summed over all series.

    Cumulative series and gauges count with their last value, delta series with the sum of their values.
    """
    series: dict[object, float] = {}
    for request in collector.taken("metrics"):
        for group in ExportMetricsServiceRequest.FromString(request.body).resource_metrics:
            whose = repr(sorted(attributes(group.resource).items()))
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    if metric.name != name:
                        continue
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    for point in data.data_points:
                        key = whose, repr(sorted(attributes(point).items()))
                        if metric.HasField("histogram"):
                            value: float = point.count
                        else:
                            value = point.as_int or point.as_double
                        gauge = metric.HasField("gauge")
                        cumulative = gauge or data.aggregation_temporality == 2
                        series[key] = value if cumulative else series.get(key, 0) + value
    return sum(series.values())


EXPECTED = [
    "RUN w failure E",
    "  lint success",
    "  tests failure E",
    "    tests attempt 1 failure E",
    "    tests attempt 2 failure E",
]
"""The picture of :func:`run`."""


def once(nats: Nats, collector: Receiver, folder: Path, *words: str) -> str:
    """Run ``spanbus observe --once`` with its own state directory, and return its stderr."""
    one = Observing(nats, collector, folder, "--once", *words)
    done = subprocess.run(
        one.argv, env=one.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
