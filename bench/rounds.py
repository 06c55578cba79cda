"""Measure two things in turns and compare their medians."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table. ``ours`` and ``yardstick`` have the same ``unit``; ``goal`` is what the ratio shall be."""

    name: str
    ours: float
    yardstick: float
    unit: str
    ratio: float
    goal: str
    met: bool


def in_turns(
    ours: Callable[[], float], yardstick: Callable[[], float], rounds: int = 15
) -> tuple[float, float]:
    """The median of what each returns, run in turns."""
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        gc.collect()
        mine.append(ours())
        gc.collect()
        theirs.append(yardstick())
    return statistics.median(mine), statistics.median(theirs)


def shortest(
    ours: Callable[[], float], yardstick: Callable[[], float], rounds: int = 7
) -> tuple[float, float]:
    """The shortest of what each returns, run in turns: what a machine takes that does nothing else."""
    ours()
    yardstick()
    pairs = [(ours(), yardstick()) for _ in range(rounds)]
    return min(mine for mine, _ in pairs), min(theirs for _, theirs in pairs)


def cpu_ms(argv: Sequence[str], env: Mapping[str, str]) -> float:
    """CPU of a process and of what it waited for, its output thrown away."""
    pid = os.posix_spawn(
        argv[0],
        tuple(argv),
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)
        ],
    )
    _, _, used = os.wait4(pid, 0)
    return (used.ru_utime + used.ru_stime) * 1e3


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def at_most(name: str, ours: float, yardstick: float, limit: float, unit: str = "µs") -> Row:
    """Cost: the ratio shall not be above ``limit``."""
    ratio = ours / yardstick
    return Row(name, ours, yardstick, unit, ratio, f"<= {limit:g}", ratio <= limit)


def at_least(name: str, ours: float, yardstick: float, limit: float, unit: str = "1/s") -> Row:
    """Throughput: the ratio shall not be below ``limit``."""
    ratio = ours / yardstick
    return Row(name, ours, yardstick, unit, ratio, f">= {limit:g}", ratio >= limit)


def measured(name: str, ours: float, yardstick: float, unit: str = "1/s") -> Row:
    """What has no goal and is told all the same."""
    return Row(name, ours, yardstick, unit, ours / yardstick, "-", True)
