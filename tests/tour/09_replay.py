"""Stop 9: a recorded stream gives the same spans as the live one, with the same ids.

Trace and span ids are hashes of run, phase and attempt, which the events carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from command_line import Cli

RECORDING = Path(__file__).parents[1] / "recordings" / "engine_fast_fails_then_ok.jsonl"


def test_replaying_twice_gives_the_same_trace(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    first, second = (
        cast("dict[str, Any]", cli("replay", str(RECORDING), "--dry-run", "--json").json())
        for _ in range(2)
    )
    assert first["runs"] == second["runs"]
    (run,) = first["runs"]
    assert (run["result"], first["totals"]["phase_failures"]) == ("success", 0)
    assert first["totals"]["retries"] == 1
