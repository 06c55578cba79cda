"""Start-up: the delay and cost of ``spanbus exec``, and the time of commands at a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path

from bench.rounds import Row, at_most, cpu_ms, in_turns

_MAIN = "import sys; sys.argv = ['spanbus', *sys.argv[1:]]; from spanbus._cli import main; main()"
_PASS = (sys.executable, "-c", "pass")
_ROUNDS = 11
_PROJECT = """
[project]
name = "shop"
version = "1"
"""
_SETTINGS = """
[tool.spanbus]
store_days = 30

[tool.spanbus.workflows.check]
phases = [{ name = "lint", run = "true" }]
"""


def _ours(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", _MAIN, *words)


def _wall_ms(argv: tuple[str, ...], env: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1e3


def _start_ms(argv: tuple[str, ...], env: Mapping[str, str]) -> float:
    """Seconds until the command runs, by its own clock."""
    began = time.time_ns()
    said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    return (int(said) - began) / 1e6


def _pair(ours: Callable[[], float], yardstick: Callable[[], float]) -> tuple[float, float]:
    ours()
    yardstick()
    return in_turns(ours, yardstick, _ROUNDS)


def measure() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        project = Path(folder, "pyproject.toml")
        project.write_text(_PROJECT)
        env = {**os.environ, "SPANBUS_STATE_DIR": str(Path(folder, "state"))}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for name in [name for name in env if name.startswith("OTEL_")]:
            del env[name]

        def row(
            what: str, measured: Callable[..., float], argv: tuple[str, ...], limit: float
        ) -> None:
            mine, theirs = _pair(lambda: measured(argv, env), lambda: _yardstick(measured, env))
            rows.append(at_most(f"{what} (python -c pass)", mine, theirs, limit, "ms"))

        row("exec: the command runs after", _start_ms, _ours("exec", "--", "date", "+%s%N"), 3)
        row("exec -- true: CPU", cpu_ms, _ours("exec", "--", "true"), 7)
        row("spanbus --version: CPU", cpu_ms, _ours("--version"), 3)
        row("spanbus --help: CPU", cpu_ms, _ours("--help"), 3)
        row("spanbus show last: CPU", cpu_ms, _ours("show", "last"), 6)
        project.write_text(_PROJECT + _SETTINGS)
        row("exec -- true, a project with settings: CPU", cpu_ms, _ours("exec", "--", "true"), 7)
        mine, theirs = _pair(
            lambda: _wall_ms(_ours("exec", "--", "sleep", "1"), env),
            lambda: _wall_ms(("sleep", "1"), env),
        )
        rows.append(at_most("exec -- sleep 1 (sleep 1)", mine, theirs, 1.08, "ms"))
    return rows


def _yardstick(measured: Callable[..., float], env: Mapping[str, str]) -> float:
    return _wall_ms(_PASS, env) if measured is _start_ms else measured(_PASS, env)
