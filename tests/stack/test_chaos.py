"""The collector is killed and restarted at random moments, under runs that end all the time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import cast

import pytest
from command_line import Cli
from relays import ClientRelay, CountingRelay
from servers import ROOT, Json, Stack, eventually, get

pytestmark = pytest.mark.stack

RUNS = 500
PER_SECOND = (7, 7, 6)  # one-shots of three processes; the service adds four
BETWEEN = (5, 45)  # runs from one blow to the next
OTHER = os.environ.get("SPANBUS_TEST_OTHER_COLLECTOR")
"""A collector of another version: the storm then also goes from one version to the other, up and down."""
BLOWS = [["restart"], ["kill", "restart"], *([["upgrade"]] if OTHER else [])]


@dataclass
class Load:
    """Processes whose runs end one after another; what they said."""

    endpoint: str
    folder: Path
    traces: list[str] = field(default_factory=list[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    undelivered: int = 0

    def __post_init__(self) -> None:
        self._ends: Queue[Json | None] = Queue()
        jobs = [("shots", rate, "run") for rate in PER_SECOND] + [("served", 4, "service")]
        self._processes = [self._start(number, *job) for number, job in enumerate(jobs)]
        self._readers = [Thread(target=self._read, args=(process,)) for process in self._processes]
        for reader in self._readers:
            reader.start()

    def _start(
        self, number: int, workflow: str, per_second: float, lifetime: str
    ) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("one_shots.py")
        folder = self.folder / f"host{number}"
        words = [self.endpoint, str(folder), workflow, str(per_second), lifetime]
        return subprocess.Popen(
            [sys.executable, str(script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=Cli(folder).environment(),
            text=True,
        )

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._ends.put(cast("Json", json.loads(line)))
        self._ends.put(None)

    def _take(self) -> bool:
        """One end; False when a process is through."""
        said = self._ends.get(timeout=120)
        if said is None:
            return False
        if "delivered" in said:
            self.undelivered += not said["delivered"]
        else:
            self.traces.append(str(said["trace"]))
            self.failures[str(said["workflow"])] += bool(said["failed"])
        return True

    def wait(self, runs: int) -> None:
        """Until so many runs more have ended."""
        wanted = len(self.traces) + runs
        while len(self.traces) < wanted:
            assert self._take()

    def finish(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        through = 0
        while through < len(self._processes):
            through += not self._take()
        for process, reader in zip(self._processes, self._readers, strict=True):
            reader.join()
            with process:
                assert process.wait() == 0


def counted(stack: Stack) -> Counter[str]:
    """Failures by workflow, in all lives of their series."""
    found = stack.query(
        'sum by (cicd_pipeline_name) (last_over_time(spanbus_phase_failures_total{job="chaos"}[1h]))'
    )
    return Counter({labels["cicd_pipeline_name"]: round(value) for labels, value in found})


def in_jaeger(stack: Stack) -> set[str]:
    url = f"{stack.jaeger_url}/api/traces?service=chaos&limit=5000&lookback=1h"
    document = cast("Json", get(url, timeout_s=30) or {})
    return {str(trace["traceID"]) for trace in cast("list[Json]", document.get("data") or [])}


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[CountingRelay]:
    relay = CountingRelay()
    yield relay
    relay.close()


@pytest.fixture
def watched_stack(tmp_path: Path, counting: CountingRelay) -> Iterator[Stack]:
    """The shipped collector, but that its batches come by where the test sees them."""
    folder = tmp_path / "stack"
    folder.mkdir()
    detour = folder / "detour.yaml"
    detour.write_text(
        f"exporters: {{ otlp_grpc/counting: {{ endpoint: '127.0.0.1:{counting.port}' }} }}\n"
    )
    stack = Stack(folder, (ROOT / "collector-config.yaml", detour))
    counting.target = f"127.0.0.1:{stack.ports['counting']}"
    try:
        yield stack.start()
    finally:
        stack.stop()


@pytest.fixture
def clients(watched_stack: Stack) -> Iterator[ClientRelay]:
    relay = ClientRelay(watched_stack.ports["otlp_http"])
    yield relay
    relay.close()


def storm(
    stack: Stack,
    load: Load,
    counting: CountingRelay,
    blows: Sequence[str],
) -> int:
    """Runs until all have ended, with a blow now and then; says how many failures its kills may double.

    At each kill it is one batch: the one that was on its way to the counters, else the one before, which may not have been
    taken out of its queue; none where no batch has come since the last kill. A restart that comes before the collector
    listens to signals is a kill.
    """
    dice, doubled = random.Random(len(blows)), set[int]()
    programs = [str(OTHER), stack.collector.argv[0]]
    try:
        while len(load.traces) < RUNS:
            load.wait(dice.randint(*BETWEEN))
            blow = dice.choice(blows)
            if blow == "kill":
                stack.collector.kill()
            else:
                stack.collector.stop()
            if stack.collector.was_killed:
                doubled.add(counting.wait())
            if blow == "upgrade":
                stack.collector.argv[0] = programs[0]
                programs.reverse()
            stack.collector.start()
    finally:
        load.finish()
    return sum(counting.batches[number - 1] for number in doubled if number)


@pytest.mark.parametrize("blows", BLOWS, ids=" and ".join)
def test_every_trace_and_every_failure_is_there_and_told_once(
    tmp_path: Path,
    watched_stack: Stack,
    clients: ClientRelay,
    counting: CountingRelay,
    blows: list[str],
) -> None:
    load = Load(clients.url, tmp_path)
    doubled = storm(watched_stack, load, counting, blows)
    assert load.undelivered == 0
    eventually(lambda: set(load.traces) <= in_jaeger(watched_stack))
    eventually(lambda: counted(watched_stack) >= load.failures)
    twice = counted(watched_stack) - load.failures
    assert twice["served"] == 0  # a service sends totals, which cannot count twice
    assert counting.most_at_once == 1
    # one batch at each kill; and a client that lost an answer with the collector sends again
    assert twice["shots"] <= doubled + clients.unanswered
    rule = 'sum(spanbus:phase_failures:15m{job="chaos"})'
    eventually(lambda: watched_stack.value(rule) == counted(watched_stack).total())
    for workflow in ("shots", "served"):
        eventually(
            lambda workflow=workflow: (
                watched_stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name=workflow)
                or watched_stack.webhook.named("WorkflowPhaseFailed", cicd_pipeline_name=workflow)
            )
        )
    assert watched_stack.webhook.named("WorkflowPhaseFailed", "resolved") == []
    assert len(in_jaeger(watched_stack)) == len(set(load.traces))


def test_a_kill_doubles_the_batch_between_the_queues_and_nothing_else(
    tmp_path: Path, watched_stack: Stack, counting: CountingRelay
) -> None:
    """The worst moment there is: a batch is counted, and is still in the queue that it came from."""
    cli = Cli(
        tmp_path,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": watched_stack.otlp,
            "OTEL_SERVICE_NAME": "chaos",
            "SPANBUS_EXIT_TIMEOUT_S": "20",
        },
    )

    def fail(workflow: str) -> None:
        assert cli("exec", "--workflow", workflow, "--name", "check", "--", "false").code == 1

    fail("shots")
    eventually(lambda: counted(watched_stack)["shots"] == 1)
    counting.free.clear()
    fail("shots")
    assert counting.held.wait(30)
    fail("shots")  # it waits behind the batch that is held
    fail("shots")
    assert (counting.batches[-1], counting.most_at_once) == (1, 1)
    watched_stack.collector.kill()
    counting.free.set()
    counting.wait()
    watched_stack.collector.start()
    fail("last")  # what came before it is counted before it
    eventually(lambda: counted(watched_stack)["last"] == 1)
    assert counted(watched_stack)["shots"] == 4 + 1
