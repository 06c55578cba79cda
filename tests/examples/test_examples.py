"""Every example runs and says what it is meant to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SAYS = {
    "instrument_foreign_bus.py": ["1 run, 1 phase, 1 failure, 5 events"],
    "own_engine.py": [
        "fetch: success, 1 attempts",
        "convert: success, 2 attempts",
        "report: success, 1 attempts",
    ],
    "own_provider.py": ["query is inside lint: True; the run: True"],
}


def test_every_example_is_known_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_example(name: str, tmp_path: Path) -> None:
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "SPANBUS_"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env={**env, "SPANBUS_STATE_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == SAYS[name]
