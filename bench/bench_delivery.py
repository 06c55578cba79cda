"""Whole programs with a real socket: a burst, the lag of an event loop, memory, the exit with a dead collector."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench.rounds import Row
from spanbus.testing import Receiver, black_hole

_BURST = 20_000
_LAG_S = 4.0
_OPEN_RUNS = 4_000
_OPEN_S = 20.0
_QUEUED = 100_000
_REFUSING = "http://127.0.0.1:9"


def _program(url: str, *arguments: str) -> tuple[dict[str, float], float]:
    """The program's output, and the seconds that its exit took after that."""
    with tempfile.TemporaryDirectory() as state:
        env = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "SPANBUS_STATE_DIR": state,
            "SPANBUS_LOCAL": "off",
        }
        found = subprocess.run(
            [sys.executable, "-m", "bench.programs", *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        ended = time.time()
    said: dict[str, float] = json.loads(found.stdout)
    return said, ended - said.get("ended_at", ended)


def _burst() -> list[Row]:
    rates: dict[str, list[float]] = {"ours": [], "sdk": []}
    lost: dict[str, int] = {}
    for _ in range(3):
        for who, arrivals in rates.items():
            with Receiver() as receiver:
                said, _ = _program(receiver.url, who, "burst", str(_BURST))
                arrived = sum(1 for span in receiver.spans() if span.name.startswith("phase-"))
            arrivals.append(arrived / said["all_s"])
            lost[who] = _BURST - arrived
    mine, yard = statistics.median(rates["ours"]), statistics.median(rates["sdk"])
    return [
        Row(
            f"a burst of {_BURST:,} phases, delivered (SDK's batching)",
            mine,
            yard,
            "1/s",
            mine / yard,
            ">= 4",
            mine / yard >= 4,
        ),
        Row(
            "the same, lost",
            lost["ours"],
            lost["sdk"],
            "phases",
            lost["ours"] / max(1, lost["sdk"]),
            "0",
            lost["ours"] == 0,
        ),
    ]


def _lag() -> list[Row]:
    late: dict[str, list[float]] = {"nothing": [], "ours": [], "sdk": []}
    with Receiver() as receiver:
        for _ in range(3):
            for who, found in late.items():
                found.append(_program(receiver.url, who, "lag", str(_LAG_S))[0]["p99_ms"])
    idle, mine, theirs = (statistics.median(late[who]) for who in ("nothing", "ours", "sdk"))
    return [
        Row(
            "event loop at 1,000 phases/s: p99 of its lag (an idle loop)",
            mine,
            idle,
            "ms",
            mine / idle,
            "<= 2.5",
            mine / idle <= 2.5,
        ),
        Row("the same with the SDK (an idle loop)", theirs, idle, "ms", theirs / idle, "-", True),
    ]


def _memory() -> list[Row]:
    mine = _program(_REFUSING, "ours", "memory", str(_QUEUED))[0]
    return [
        Row(
            "memory of a phase that waits (none)",
            mine["bytes_each"],
            0.0,
            "B",
            float("nan"),
            "<= 500 B",
            mine["bytes_each"] <= 500,
        )
    ]


def _open_work() -> list[Row]:
    found: dict[str, list[dict[str, float]]] = {"0": [], str(_OPEN_RUNS): []}
    with Receiver() as receiver:
        for _ in range(3):
            for amount, each in found.items():
                said, _ = _program(receiver.url, "ours", "open", amount, str(_OPEN_S))
                each.append(said)
    none, many = (
        {key: statistics.median(one[key] for one in each) for key in each[0]}
        for each in found.values()
    )
    name = f"100 phases/s beside {_OPEN_RUNS:,} open runs (beside none)"
    cpu = many["cpu_us"] / none["cpu_us"]
    return [
        Row(f"{name}: CPU", many["cpu_us"], none["cpu_us"], "µs", cpu, "<= 1.1", cpu <= 1.1),
        Row(
            f"{name}: longest publish",
            many["max_ms"],
            none["max_ms"],
            "ms",
            many["max_ms"] / none["max_ms"],
            "<= 20 ms",
            many["max_ms"] <= 20,
        ),
        Row(
            f"{name}: dropped",
            many["dropped"],
            none["dropped"],
            "spans",
            float("nan"),
            "0",
            not many["dropped"],
        ),
    ]


def _exit() -> list[Row]:
    with Receiver() as receiver, black_hole() as hole:
        healthy = statistics.median(
            _program(receiver.url, "ours", "exit", "100")[1] for _ in range(5)
        )
        refused = statistics.median(_program(_REFUSING, "ours", "exit", "100")[1] for _ in range(5))
        silent = statistics.median(_program(hole, "ours", "exit", "100")[1] for _ in range(5))
    return [
        Row(
            "exit, connection refused (a healthy collector)",
            refused * 1e3,
            healthy * 1e3,
            "ms",
            refused / healthy,
            "<= + 250 ms",
            refused - healthy <= 0.25,
        ),
        Row(
            "exit, a collector that never answers (a healthy collector)",
            silent * 1e3,
            healthy * 1e3,
            "ms",
            silent / healthy,
            "<= + 250 ms",
            silent - healthy <= 0.25,
        ),
    ]


def measure() -> list[Row]:
    return [*_burst(), *_lag(), *_memory(), *_open_work(), *_exit()]
