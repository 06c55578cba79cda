"""The collector is killed and restarted at random moments, under runs that end all the time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import cast

import pytest
from command_line import Cli
from servers import Json, Stack, eventually, get

pytestmark = pytest.mark.stack

RUNS = 500
PER_SECOND = (7, 7, 6)  # one-shots of three processes; the service adds four
COUNT_EVERY_S = 0.2  # of the stack
BETWEEN = (5, 45)  # runs from one blow to the next
OTHER = os.environ.get("SPANBUS_TEST_OTHER_COLLECTOR")
"""A collector of another version: the storm then also goes from one version to the other, up and down."""
BLOWS = [["restart"], ["kill", "restart"], *([["upgrade"]] if OTHER else [])]


@dataclass
class Load:
    """Processes whose runs end one after another; what they said."""

    stack: Stack
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
        words = [self.stack.otlp, str(folder), workflow, str(per_second), lifetime]
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


BATCH = len(PER_SECOND) + sum(PER_SECOND) * COUNT_EVERY_S + 1
"""Failures that a batch, and a request of each process that had no answer, may hold where counting keeps up."""


def storm(stack: Stack, folder: Path, blows: Sequence[str], seed: int) -> tuple[Load, float]:
    """Runs until all have ended, with a blow now and then; also says how many failures its kills may double.

    At a kill it is one batch: what had not been counted, which is more on a machine that does not keep up. A restart that
    comes before the collector listens to signals is a kill.
    """
    dice = random.Random(seed)
    load, doubled = Load(stack, folder), 0.0
    programs = [str(OTHER), stack.collector.argv[0]]
    try:
        while len(load.traces) < RUNS:
            load.wait(dice.randint(*BETWEEN))
            blow = dice.choice(blows)
            before = counted(stack)
            if blow == "kill":
                stack.collector.kill()
            else:
                stack.collector.stop()
            if stack.collector.was_killed:
                waited = load.failures - before
                doubled += max(BATCH, waited["shots"] + len(PER_SECOND))
            if blow == "upgrade":
                stack.collector.argv[0] = programs[0]
                programs.reverse()
            stack.collector.start()
    finally:
        load.finish()
    return load, doubled


@pytest.mark.parametrize("blows", BLOWS, ids=" and ".join)
def test_every_trace_and_every_failure_is_there_and_told_once(
    tmp_path: Path, own_stack: Stack, blows: list[str]
) -> None:
    load, doubled = storm(own_stack, tmp_path, blows, seed=len(blows))
    assert load.undelivered == 0
    eventually(lambda: set(load.traces) <= in_jaeger(own_stack))
    eventually(lambda: counted(own_stack) >= load.failures)
    twice = counted(own_stack) - load.failures
    assert twice["served"] == 0  # a service sends totals, which cannot count twice
    assert twice["shots"] <= doubled
    rule = 'sum(spanbus:phase_failures:15m{job="chaos"})'
    eventually(lambda: own_stack.value(rule) == counted(own_stack).total())
    for workflow in ("shots", "served"):
        eventually(
            lambda workflow=workflow: (
                own_stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name=workflow)
                or own_stack.webhook.named("WorkflowPhaseFailed", cicd_pipeline_name=workflow)
            )
        )
    assert own_stack.webhook.named("WorkflowPhaseFailed", "resolved") == []
    assert len(in_jaeger(own_stack)) == len(set(load.traces))
