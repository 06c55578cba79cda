"""Stop 9: replaying recorded events gives the same spans as the live run, with the same ids.

Trace and span ids are hashes of run, phase and attempt, so they can be computed again from the events.
"""

from __future__ import annotations

from typing import Any, cast

from command_line import Cli


def test_replaying_a_recorded_run_gives_the_same_trace(project: Cli) -> None:
    live = cast("dict[str, Any]", project("run", "--json", "--record", "events.jsonl").json())
    replayed = project("replay", "events.jsonl", "--dry-run", "--json").json()
    assert replayed == live
    (run,) = live["runs"]
    assert (run["result"], live["totals"]["retries"]) == ("failure", 1)
    assert len(run["trace_id"]) == 32
