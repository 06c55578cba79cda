"""`spanbus status` shows the outcome of all records, also of programs that use the library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli

from spanbus.testing import Answer, Receiver

PROGRAM = """
import spanbus
handle = spanbus.instrument(spanbus.WorkflowEventBus())
handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": "w"}})
for number in range(20):
    for word in ("started", "completed"):
        handle.feed({"event_type": f"workflow.config.{word}", "payload": {"step_id": f"p{number}", "workflow_id": "w"}})
handle.feed({"event_type": "workflow.completed", "payload": {"workflow_id": "w"}})
"""


def of_traces(cli: Cli, what: str) -> list[tuple[str, int]]:
    return [
        (row.get("reason", ""), row["records"])
        for row in json.loads(cli("status", "--json").out)[what]
        if row["signal"] == "traces"
    ]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def run(cli: Cli) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_status_counts_deliveries_of_libraries(tmp_path: Path) -> None:
    with Receiver() as receiver:
        cli = Cli(tmp_path, receiver.env)
        run(cli)
        run(cli)
        assert of_traces(cli, "delivered") == [("", 42)]


def test_status_counts_refused_records(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(400))
        cli = Cli(tmp_path, receiver.env)
        run(cli)
        assert of_traces(cli, "rejected") == [("refused", 21)]
        assert cli("flush").code == 0


def test_flush_reports_records_lost_with_the_memory_of_a_program(tmp_path: Path) -> None:
    with Receiver(listening=False) as receiver:
        cli = Cli(tmp_path, receiver.env)
        state = tmp_path / "state"
        state.mkdir()
        (state / "spool").write_text("a file is in the way")
        assert "only in memory are lost" in run(cli)
        lost = ("no_spool", 21)
        assert of_traces(cli, "dropped") == [lost]
        (state / "spool").unlink()
        receiver.up()
        assert cli("flush").code == 0
        assert of_traces(cli, "dropped") == [lost]
        assert receiver.sum_of("spanbus.delivery.dropped") >= lost[1]
        assert "nothing waits" in cli("flush").err


def test_a_count_of_one_is_singular(cli: Cli) -> None:
    stored = cli.folder / "state" / "refused"
    stored.mkdir(parents=True)
    (stored / "1.otlp").write_bytes(b"")
    said = cli("status").out
    assert "1 request\n" in said
    assert "0 programs running" in said
