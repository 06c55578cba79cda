"""Stop 6: a process is killed while the collector is down, and nothing is lost.

Published events are in the spool. The next process with the same state directory sends them, and ends open spans as killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from spans import attributes, by_name

import spanbus
from spanbus.testing import Receiver

PROGRAM = """
import signal, sys, spanbus
handle = spanbus.instrument(None)
handle.tell("workflow.started", workflow_id="nightly")
for phase in ("lint", "tests"):
    handle.tell("workflow.quality.started", workflow_id="nightly", step_id=phase, phase=phase)
    if phase == "lint":
        handle.tell("workflow.quality.completed", workflow_id="nightly", step_id=phase, phase=phase)
print("open", flush=True)
signal.pause()
"""


def test_the_next_process_delivers_the_spans_of_a_killed_one(
    collector: Receiver, tmp_path: Path
) -> None:
    collector.down()
    env = {**os.environ, **collector.env, "SPANBUS_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"open\n"
        killed.send_signal(signal.SIGKILL)

    collector.up()
    with spanbus.open_runtime_sync(env=env) as runtime:
        runtime.instrument(None).feed({"type": "anything"})
        collector.wait_until(lambda seen: len(seen.spans()) >= 3)
        assert runtime.flush()

    lint, tests = by_name(collector, "lint"), by_name(collector, "tests")
    assert attributes(lint)["cicd.pipeline.task.run.result"] == "success"
    assert attributes(tests)["cicd.pipeline.task.run.result"] == "error"
    assert attributes(tests)["error.type"] == "killed"
