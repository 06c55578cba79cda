"""Stop 10: broken telemetry never breaks the workflow.

An unreachable collector delays the exit by at most 0.25 s by default and costs at most one line on stderr. An unreadable event
is counted, and nothing is raised into the publisher.
"""

from __future__ import annotations

from pathlib import Path

from command_line import Cli

import spanbus
from spanbus import Phase, Workflow


class Hostile:
    """An event whose every attribute raises."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


async def test_an_unreadable_event_is_counted_and_nothing_is_raised(
    runtime: spanbus.Runtime,
) -> None:
    handle = runtime.instrument(None)
    handle.feed(Hostile())
    handle.feed(None)
    handle.feed({"type": "a.started", "time": "not a time", "payload": {"x": Hostile()}})
    assert (handle.state().events_seen, handle.state().errors) == (1, 2)

    async def good(context: spanbus.PhaseContext) -> bool:
        return True

    result = await runtime.run(Workflow("w", (Phase("p", action=good),)))
    assert result.success


def test_an_unreachable_collector_costs_at_most_one_line(tmp_path: Path) -> None:
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = Cli(tmp_path, env=nowhere)("exec", "--", "sh", "-c", "exit 4")
    assert done.code == 4
    assert len(done.err.splitlines()) <= 1, done.err
