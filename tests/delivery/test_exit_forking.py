"""A fork waits for an import in progress in one of our threads, and for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys, threading
from spanbus._delivery.fork_guard import fork_guard

begun = threading.Event()
sys.begun = begun

def work():
    with fork_guard():
        import slow_one

threading.Thread(target=work, daemon=True).start()
assert begun.wait(10)
pid = os.fork()
if pid == 0:
    import slow_one
    with fork_guard():
        os._exit(0 if slow_one.complete else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
with fork_guard():
    pass
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_fork_waits_for_an_import_in_progress(tmp_path: Path) -> None:
    (tmp_path / "slow_one.py").write_text(
        "import sys, time\nsys.begun.set()\ntime.sleep(0.3)\ncomplete = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_gives_up_waiting_after_a_limit() -> None:
    code = """
import os, threading
from spanbus._delivery.fork_guard import fork_guard
held, release = threading.Event(), threading.Event()
def hold():
    with fork_guard():
        held.set()
        release.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    with fork_guard():
        os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
release.set()
thread.join()
with fork_guard():
    pass
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_grandchild_publishes_after_two_forks_without_an_error(tmp_path: Path) -> None:
    code = """
import os, spanbus
bus = spanbus.WorkflowEventBus()
handle = spanbus.instrument(bus)
pid = os.fork()
if pid == 0:
    if not os.fork():
        bus.publish_nowait("workflow.started", {"workflow_id": "in a grandchild"})
    else:
        os.wait()
else:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "SPANBUS_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
