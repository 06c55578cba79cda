"""Small instrumented programs that run one after another on one state directory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import prepared

from spanbus.testing import Receiver

TIMED = """
import atexit, time

def slept_s():
    with open("/proc/self/schedstat") as file:
        ran_ns, waited_ns, _ = map(int, file.read().split())
    return time.monotonic() - (ran_ns + waited_ns) / 1e9

def print_sleep():
    if started:
        print(slept_s() - started[0], flush=True)

started = []
atexit.register(print_sleep)  # registered first, therefore called last

def ready():
    # the sleep of the main thread is measured from here to the very end
    print("ready", flush=True)
    started.append(slept_s())
"""

HEAD = """
import json, os, signal, sys, threading, time
import spanbus
from spanbus._workflow.bus import WorkflowEventBus

handle = spanbus.instrument(WorkflowEventBus())

def begin(run="r"):
    handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": "w", "run_id": run}})

def phases(count, name="p", run="r", every=lambda number: None):
    for number in range(count):
        step = f"{name}{number}"
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": step, "run_id": run}})
        end = "failed" if number % 10 == 9 else "completed"
        handle.feed({"event_type": f"workflow.config.{end}", "payload": {"step_id": step, "run_id": run, "success": end == "completed"}})
        every(number)

def end(run="r"):
    handle.feed({"event_type": "workflow.completed", "payload": {"workflow_id": "w", "run_id": run, "success": True}})

def say(number):
    if number % 100 == 0:
        print(number, flush=True)

def counts():
    from spanbus._runtime import current_runtime
    runtime = current_runtime()
    runtime.close()
    found = runtime.statistics()
    print(json.dumps({"waiting": found.waiting, "dropped": sum(found.dropped.values()), "reasons": sorted({reason for _, reason in found.dropped})}), flush=True)
"""

NEXT = """
import spanbus, sys
with spanbus.open_runtime_sync() as runtime:
    runtime.wiring()
    sys.exit(0 if runtime.flush(60) else 3)
"""


class Programs:
    """Small programs on one state directory, each exporting to an endpoint.

    They are forked from a process that has imported spanbus (:mod:`prepared`), except for those whose exit is timed.
    """

    def __init__(self, state: Path) -> None:
        self.state = state

    def start(self, url: str, body: str, **more: str) -> subprocess.Popen[str]:
        code = HEAD + textwrap.dedent(body)
        return prepared.start([], folder=Path.cwd(), env=self.env(url, **more), code=code)

    def start_timed(self, url: str, body: str, **more: str) -> subprocess.Popen[str]:
        """Start a program that calls ``ready()`` and prints at its very end for how long it has slept since, in seconds."""
        return subprocess.Popen(
            [sys.executable, "-c", TIMED + HEAD + textwrap.dedent(body)],
            env=self.env(url, **more),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    def run(self, url: str, body: str, **more: str) -> tuple[int, str, str]:
        """Run a program, and return exit code, stdout and stderr."""
        process = self.start(url, body, **more)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors

    def run_well(self, url: str, body: str, **more: str) -> tuple[str, str]:
        """Run a program that must exit with 0, and return stdout and stderr."""
        code, output, errors = self.run(url, body, **more)
        assert code == 0, errors
        return output, errors

    def run_file(self, url: str, file: Path, body: str) -> str:
        """Run a program from a file, as ``multiprocessing`` needs it; it must exit with 0. Return stderr."""
        file.write_text(HEAD + textwrap.dedent(body))
        done = subprocess.run(
            [sys.executable, str(file)],
            env=self.env(url),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def env(self, url: str, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "SPANBUS_", "TRACE"))
        }
        return {
            **kept,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "SPANBUS_STATE_DIR": str(self.state),
            "SPANBUS_LIFETIME": "run",
            "SPANBUS_LOCAL": "off",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **more,
        }

    def next_one(self, url: str) -> None:
        """Run another program, which delivers the records that wait in the spool."""
        done = prepared.run(
            [], folder=Path.cwd(), env=self.env(url), stdin=None, timeout_s=120, code=NEXT
        )
        assert done.returncode == 0, done.stderr


def arrived(receiver: Receiver) -> Counter[str]:
    """Count the phase spans that the receiver accepted, by name."""
    return Counter(span.name for span in receiver.spans() if not span.name.startswith("RUN "))


def all_of(count: int, *names: str) -> Counter[str]:
    """Return the counts that :func:`arrived` gives if each of ``count`` phases of each name arrived once."""
    return Counter(f"{name}{number}" for name in names or ("p",) for number in range(count))
