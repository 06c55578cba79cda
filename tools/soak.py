"""Run a service against a backend that is killed repeatedly, and compare its work with the store.

``python tools/soak.py [SECONDS]``. Every run and phase must be in the store once, every failure in the metrics once.
Runs that never ended are abandoned when the service ends. No record may wait or be dropped, no span may stay open, and store, log
and memory must keep to their limits. Exit code: 0, or 1 with a line for each violation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PHASES_OF_A_RUN = 5
RUNS_A_SECOND = 20
FAILS_EVERY = 7
NEVER_ENDS_EVERY = 20
"""After this many runs, one more run stays open with its phase until the service ends."""
KILL_EVERY_S = 8.0
STORE_BYTES = 512 << 20
MOST_RSS_BYTES = 300 << 20
SETTLED_WITHIN_S = 120.0

SERVICE = f"""
import json, sys, threading, time
from spanbus._runtime import Runtime
from spanbus._workflow.events import Event, new_event_id

runtime = Runtime().open()
feed = runtime.handle.feed
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
runs = phases = failures = left_open = 0
first_s = longest_s = 0.0


def tell(kind, run_id, phase=None, **payload):
    global first_s, longest_s
    began = time.perf_counter()
    feed(Event(kind, new_event_id(), time.time_ns(), payload, "soak", run_id, phase, 1 if phase else None))
    taken_s = time.perf_counter() - began
    if first_s:
        longest_s = max(longest_s, taken_s)
    else:
        first_s = taken_s


due = time.monotonic()
while not stop.is_set():
    if runs % {NEVER_ENDS_EVERY} == 0:
        tell("workflow.started", f"open-{{runs}}", workflow="soak")
        tell("workflow.phase.started", f"open-{{runs}}", "waits")
        left_open += 1
    run_id = f"soak-{{runs}}"
    tell("workflow.started", run_id, workflow="soak")
    failed = False
    for number in range({PHASES_OF_A_RUN}):
        name = f"phase-{{number}}"
        tell("workflow.phase.started", run_id, name)
        fails = phases % {FAILS_EVERY} == 0
        tell("workflow.phase.failed" if fails else "workflow.phase.completed", run_id, name, success=not fails)
        failed, failures, phases = failed or fails, failures + fails, phases + 1
    tell("workflow.failed" if failed else "workflow.completed", run_id, success=not failed)
    runs += 1
    due += 1 / {RUNS_A_SECOND}
    stop.wait(max(0.0, due - time.monotonic()))
runtime.handle.detach()
runtime.flush(60)
print(json.dumps({{"runs": runs + left_open, "phases": phases + left_open, "failures": failures + left_open,
                  "left_open": left_open, "first_ms": first_s * 1e3, "longest_ms": longest_s * 1e3}}), flush=True)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(state: Path, port: int) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "SPANBUS_"))
    }
    return {
        **kept,
        "SPANBUS_STATE_DIR": str(state),
        "SPANBUS_LOCAL": "off",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_SERVICE_NAME": "soak",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        "SPANBUS_LIFETIME": "service",
    }


class Backend:
    """``spanbus up`` on one state directory, restarted after each kill."""

    def __init__(self, state: Path, port: int, more: Mapping[str, str] | None = None) -> None:
        self._state, self.port = state, port
        self._more = more or {}
        self.kills = 0
        self.most_rss_bytes = self.most_log_bytes = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**environment(self._state, self.port), **self._more}
        env.pop("OTEL_EXPORTER_OTLP_ENDPOINT")
        env["SPANBUS_LOCAL"] = "on"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "spanbus", "up", "--port", str(self.port)],
            env=env,
            cwd=self._state,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError):
                self.ask("/health")
                return
            time.sleep(0.05)
        raise SystemExit("soak: the backend does not start")

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def look(self) -> None:
        log = self._state / "store.sqlite3-wal"
        with suppress(OSError):
            self.most_log_bytes = max(self.most_log_bytes, log.stat().st_size)
        with suppress(OSError):
            assert self._process is not None
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            if found is not None:
                self.most_rss_bytes = max(self.most_rss_bytes, int(found[1]) << 10)

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)
        self.kills += how is signal.SIGKILL


@contextmanager
def service(state: Path, port: int) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVICE],
        env=environment(state, port),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def stored(path: Path) -> dict[str, int]:
    """The store's counts of runs and phases."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:

        def one(question: str) -> int:
            return int(connection.execute(question).fetchone()[0])

        return {
            "runs": one("SELECT count(DISTINCT run_id) FROM spans WHERE level = 'run'"),
            "run spans": one("SELECT count(*) FROM spans WHERE level = 'run'"),
            "phases": one(
                "SELECT count(DISTINCT run_id || phase) FROM spans WHERE level = 'phase'"
            ),
            "phase spans": one("SELECT count(*) FROM spans WHERE level = 'phase'"),
            "failures": one(
                "SELECT count(*) FROM spans WHERE level = 'phase' AND result != 'success'"
            ),
        }
    finally:
        connection.close()


def counted(text: str, name: str) -> float:
    """The sum of a counter over its series."""
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{")
    )


def soak(seconds: float) -> list[str]:
    """The violations."""
    with tempfile.TemporaryDirectory(prefix="spanbus-soak-") as folder:
        sending, keeping = Path(folder, "service"), Path(folder, "backend")
        sending.mkdir(mode=0o700)
        keeping.mkdir(mode=0o700)
        backend = Backend(keeping, free_port())
        backend.start()
        try:
            return _soaked(seconds, backend, sending, keeping)
        finally:
            with suppress(Exception):
                backend.end(signal.SIGTERM)


def _soaked(seconds: float, backend: Backend, sending: Path, keeping: Path) -> list[str]:
    port = backend.port
    with service(sending, port) as process:
        end = time.monotonic() + seconds
        next_kill = time.monotonic() + KILL_EVERY_S
        while time.monotonic() < end:
            time.sleep(0.2)
            backend.look()
            if process.poll() is not None:
                return ["the service ended by itself"]
            if time.monotonic() >= next_kill:
                backend.end(signal.SIGKILL)
                time.sleep(1.0)  # longer than a retry
                backend.start()
                next_kill = time.monotonic() + KILL_EVERY_S
        said, _ = process.communicate("stop\n", timeout=120)
    truth: dict[str, Any] = json.loads(said)
    status = _status(sending, port)
    found = stored(keeping / "store.sqlite3")
    text = backend.ask("/metrics").decode()
    live = json.loads(backend.ask("/health"))
    backend.look()
    print(f"soak: {seconds:g} s, {backend.kills} kills, truth {truth}, stored {found}")
    print(
        f"soak: backend's memory {backend.most_rss_bytes >> 20} MiB, longest log {backend.most_log_bytes >> 10} KiB, "
        f"first publish {truth['first_ms']:.1f} ms, longest behind it {truth['longest_ms']:.1f} ms"
    )
    wrong: list[str] = []

    def holds(name: str, is_so: bool, *, got: object) -> None:
        if not is_so:
            wrong.append(f"{name}: {got}")

    for name in ("runs", "phases", "failures"):
        holds(f"{name} in the store", found[name] == truth[name], got=(found[name], truth[name]))
    holds("each run once", found["run spans"] == found["runs"], got=found["run spans"])
    holds("each phase once", found["phase spans"] == found["phases"], got=found["phase spans"])
    failures = counted(text, "spanbus_phase_failures_total")
    holds(
        "failures in the metrics", failures == truth["failures"], got=(failures, truth["failures"])
    )
    phases = counted(text, "spanbus_phase_duration_seconds_count")
    holds("phases in the metrics", phases == truth["phases"], got=(phases, truth["phases"]))
    for name in ("waiting", "rejected", "dropped"):
        holds(f"nothing is {name}", not _amount(status[name]), got=status[name])
    holds("nothing is left open", status["spool"]["left_open"] == 0, got=status["spool"])
    holds("no live run is left", _running(live) == 0, got=live)
    holds("memory", backend.most_rss_bytes <= MOST_RSS_BYTES, got=backend.most_rss_bytes)
    holds("log", backend.most_log_bytes <= STORE_BYTES // 10, got=backend.most_log_bytes)
    return wrong


def _status(state: Path, port: int) -> dict[str, Any]:
    """Wait until the service's spool is empty."""
    end = time.monotonic() + SETTLED_WITHIN_S
    while True:
        for command in (["flush", "--wait", "10"], ["status", "--json"]):
            done = subprocess.run(
                [sys.executable, "-P", "-m", "spanbus", *command],
                env=environment(state, port),
                cwd=state,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        status: dict[str, Any] = json.loads(done.stdout)
        if not _amount(status["waiting"]) or time.monotonic() > end:
            return status


def _amount(rows: list[dict[str, Any]]) -> float:
    return sum(float(row["records"]) for row in rows)


def _running(health: dict[str, Any]) -> int:
    return int(health["live"].get("sources", 0))


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    wrong = soak(seconds)
    for line in wrong:
        print(f"soak: does not hold: {line}", file=sys.stderr)
    print("soak: everything holds" if not wrong else f"soak: {len(wrong)} do not hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
