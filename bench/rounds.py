"""Measure two things in turns and compare their medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
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


def in_turns(ours: Callable[[], float], yardstick: Callable[[], float], rounds: int = 15) -> tuple[float, float]:
    """The median of what each returns, run in turns."""
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        gc.collect()
        mine.append(ours())
        gc.collect()
        theirs.append(yardstick())
    return statistics.median(mine), statistics.median(theirs)


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
