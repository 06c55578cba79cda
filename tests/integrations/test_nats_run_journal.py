"""Spans that a dead publisher left open: the observer ends them, not before their last event."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spanbus._delivery.spool import Spool
from spanbus.integrations._nats_run_journal import ends_of

DIES = """
import os, sys
from pathlib import Path
from spanbus._delivery.spool import Spool
from spanbus._workflow.events import Event
from spanbus.integrations._nats_run_journal import RunJournal
spool = Spool(Path(sys.argv[1]), destinations=("nats",)).open()
journal = RunJournal(spool)
for number, (kind, phase) in enumerate((
    ("workflow.started", None),
    ("workflow.phase.started", "a"),
    ("workflow.phase.completed", "a"),
    ("workflow.phase.started", "b"),
    ("hooks.execution.started", "b"),
)):
    event = Event(kind, str(number), 100 + number, {}, run_id="r", phase=phase)
    journal.record_end(event)
    journal.record_start(event, "nightly")
journal.record_start(Event("app.event", "x", 900, {}, run_id="another"), None)
os._exit(9)
"""


def test_abandoned_spans_do_not_end_before_their_last_event(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], timeout=60, check=False)
    spool = Spool(tmp_path, destinations=("nats",)).open()
    try:
        ends = [each for leftover in spool.adopt() for each in ends_of(leftover)]
    finally:
        spool.close()
    assert [(each.event_type, each.phase, each.at_ns, name) for each, name in ends] == [
        ("workflow.phase.failed", "b", 104, "nightly"),
        ("workflow.failed", None, 104, "nightly"),
    ]
