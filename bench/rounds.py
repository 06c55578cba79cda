"""Measure two functions in turns and compare their medians."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table. ``ours`` and ``yardstick`` have the same ``unit``; ``goal`` is for the ratio."""

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
    """The median result of each, run in turns."""
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
    """The smallest result of each, run in turns: the time on an idle machine."""
    ours()
    yardstick()
    pairs = [(ours(), yardstick()) for _ in range(rounds)]
    return min(mine for mine, _ in pairs), min(theirs for _, theirs in pairs)


def cpu_ms(argv: Sequence[str], env: Mapping[str, str]) -> float:
    """CPU of a process and of its waited-for children; output is discarded."""
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
    """A cost: the ratio must be at most ``limit``."""
    ratio = ours / yardstick
    return Row(name, ours, yardstick, unit, ratio, f"<= {limit:g}", ratio <= limit)


def at_least(name: str, ours: float, yardstick: float, limit: float, unit: str = "1/s") -> Row:
    """A throughput: the ratio must be at least ``limit``."""
    ratio = ours / yardstick
    return Row(name, ours, yardstick, unit, ratio, f">= {limit:g}", ratio >= limit)


def measured(name: str, ours: float, yardstick: float, unit: str = "1/s") -> Row:
    """A row without a goal."""
    return Row(name, ours, yardstick, unit, ours / yardstick, "-", True)
