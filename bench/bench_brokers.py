"""Carrying events to NATS against the bus alone; a Celery task against opentelemetry-instrumentation-celery.

Rows whose server or library is missing are left out.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from bench.rounds import Row, at_least, at_most, measured
from spanbus._workflow.bus import WorkflowEventBus

_ROOT = Path(__file__).parents[1]
_EVENTS = 4_000
_ROUNDS = 5
_PAUSE_S = 0.000_2
_TASKS = 2_000
_MESSAGES, _AT_ONCE = 20_000, 10
"""Ten at once, like a host with ten runs; with more at once the server reads more with one call."""


def measure() -> list[Row]:
    rows: list[Row] = []
    server = _ROOT / ".stack" / "bin" / "nats-server"
    if server.exists() and find_spec("nats") is not None:
        rows += _carrying(server)
        rows.append(_observing(server))
        rows.append(_backlog(server))
    if find_spec("celery") is not None and find_spec("opentelemetry.instrumentation.celery"):
        rows.append(_tasks())
    return rows


def _carrying(server: Path) -> list[Row]:
    from spanbus.integrations import nats_stream
    from spanbus.integrations.nats import carry

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["SPANBUS_STATE_DIR"] = f"{folder}/state"
        port = _free_port()
        url = f"nats://127.0.0.1:{port}"
        argv = [str(server), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", f"{folder}/js"]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            _listens(port)
            nats_stream.set_up(url, nats_stream.Wanted(max_bytes=2**28))
            bare, carried = WorkflowEventBus(), WorkflowEventBus()
            carrier = carry(carried, url)
            rows += _publishing("up", bare, carried)
            carrier.flush(30.0)
            rows.append(_packing(url, process.pid))
            process.kill()
            process.wait()
            rows += _publishing("killed", bare, carried)
            carrier.close(0.0)
        finally:
            process.kill()
            process.wait()
    return rows


def _packing(url: str, server: int) -> Row:
    """CPU of the server for an event: ten in a message, and one alone."""
    from spanbus.integrations._nats_client import Client
    from spanbus.integrations._nats_wire import Message, subject

    client, line = (
        Client([url], None),
        json.dumps({"event_type": "e", "payload": "x" * 250}).encode(),
    )
    numbers = iter(range(10**9))

    def cpu_us(lines: int) -> float:
        before = _cpu_s(server)
        for _ in range(_MESSAGES // _AT_ONCE):
            found = [
                Message(
                    subject("w", f"r{n % 50}"),
                    f"m{next(numbers)}",
                    b"\n".join([line] * lines),
                    lines,
                )
                for n in range(_AT_ONCE)
            ]
            client.run(client.store(found, "bench"), 30.0)
        return (_cpu_s(server) - before) / (_MESSAGES * lines) * 1e6

    try:
        cpu_us(1)
        rounds = [(cpu_us(1), cpu_us(10)) for _ in range(3)]
    finally:
        client.close()
    single, packed = (statistics.median(each) for each in zip(*rounds, strict=True))
    return at_least(
        "CPU of the server for an event, alone in its message (ten in one)", single, packed, 5, "µs"
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _publishing(server: str, bare: WorkflowEventBus, carried: WorkflowEventBus) -> list[Row]:
    """Medians and 99th percentiles of one call, in turns; with pauses, because no workflow publishes at full speed."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        ours.append(_latencies(carried))
        theirs.append(_latencies(bare))
    p50 = statistics.median(one[0] for one in ours), statistics.median(one[0] for one in theirs)
    p99 = statistics.median(one[1] for one in ours), statistics.median(one[1] for one in theirs)
    return [
        measured(f"publishing with carry, NATS {server}: p50 (the bus alone)", *p50, unit="µs"),
        at_most(f"carry adds to that p50, NATS {server} (15 µs)", p50[0] - p50[1], 15.0, 1),
        at_most(f"publishing with carry, NATS {server}: p99 (the bus alone)", *p99, 5),
    ]


def _latencies(bus: WorkflowEventBus) -> tuple[float, float]:
    payload = {"type": "command", "needs": ["lint"], "attempt": 1}
    taken: list[int] = []
    for number in range(_EVENTS):
        began = time.perf_counter_ns()
        bus.publish_nowait("workflow.phase.started", payload, run_id="r", phase="p")
        taken.append(time.perf_counter_ns() - began)
        if not number % 10:
            time.sleep(_PAUSE_S)
    taken.sort()
    return taken[len(taken) // 2] / 1e3, taken[len(taken) * 99 // 100] / 1e3


_OBSERVED_RUNS = 500
_OBSERVER = """
import json, os, sys, time
from pathlib import Path
from spanbus._runtime import Runtime
from spanbus._settings import load_settings
bodies = [line.encode() for line in Path(sys.argv[2]).read_text().split(chr(30))]
runtime = Runtime(load_settings(env=os.environ), lifetime="service", command_line=True).open()
if sys.argv[1] == "observe":
    from spanbus.integrations.nats_observer import Observer
    import nats
    began = time.process_time()
    with Observer(sys.argv[3], runtime, group=f"g{os.getpid()}", durable="spool") as observer:
        observer.once()
    taken = time.process_time() - began
    count = observer.state().counts.fed
else:
    lines = [json.loads(line) for body in bodies for line in body.split(b"\\n")]
    handle = runtime.replaying(lambda record: None)
    began = time.process_time()
    for line in lines:
        handle.feed(line)
    taken = time.process_time() - began
    count = len(lines)
print(json.dumps([count, taken]), flush=True)
os._exit(0)
"""


def _observing(server: Path) -> Row:
    """CPU of all threads of a process for the same events: read from the stream by an observer, or fed from memory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = _free_port()
        url = f"nats://127.0.0.1:{port}"
        argv = [str(server), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", f"{folder}/js"]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            _listens(port)
            bodies = _stream_of_runs(url)
            (Path(folder) / "bodies").write_text(chr(30).join(bodies))
            observed: list[float] = []
            fed: list[float] = []
            for number in range(3):
                for which, taken in (("observe", observed), ("feed", fed)):
                    state = f"{folder}/{which}{number}"
                    taken.append(_observer(which, state, f"{folder}/bodies", url))
        finally:
            process.kill()
            process.wait()
    return at_most(
        "an event observed in the stream, CPU of the process (the same fed in one process)",
        statistics.median(observed),
        statistics.median(fed),
        1.5,
    )


def _observer(which: str, state: str, bodies: str, url: str) -> float:
    """Microseconds of CPU for an event."""
    env = {**os.environ, "SPANBUS_STATE_DIR": state, "SPANBUS_LOCAL": "off"}
    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-c", _OBSERVER, which, bodies, url],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    count, taken_s = json.loads(done.stdout.strip().splitlines()[-1])
    assert count == _OBSERVED_RUNS * 22, count
    return float(taken_s) / int(count) * 1e6


_BACKLOG_RUNS = 13_636
_RESIDENT = """
import os, sys, threading
from pathlib import Path
from spanbus._runtime import Runtime
from spanbus._settings import load_settings
from spanbus.integrations.nats_observer import Observer
def resident():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024
runtime = Runtime(load_settings(env=os.environ), lifetime="service", command_line=True).open()
found, ended = [], threading.Event()
with Observer(sys.argv[1], runtime, durable="spool") as observer:
    def watch():
        for third in (100_000, 200_000):
            while observer.state().counts.fed < third:
                if ended.wait(0.1):
                    return
            found.append(resident())
    watching = threading.Thread(target=watch)
    watching.start()
    observer.once()
    found.append(resident())
    ended.set()
    watching.join()
assert observer.state().counts.fed == int(sys.argv[2])
print(*found, flush=True)
os._exit(0)
"""


def _backlog(server: Path) -> Row:
    """Resident memory of an observer with a backlog of 300,000 events and no collector: after a third, and at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = _free_port()
        url = f"nats://127.0.0.1:{port}"
        argv = [str(server), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", f"{folder}/js"]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            _listens(port)
            _stream_of_runs(url, _BACKLOG_RUNS)
            env = {**os.environ, "SPANBUS_STATE_DIR": f"{folder}/state", "SPANBUS_LOCAL": "off"}
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
            done = subprocess.run(
                [sys.executable, "-c", _RESIDENT, url, str(_BACKLOG_RUNS * 22)],
                env=env,
                capture_output=True,
                text=True,
                timeout=900,
                check=True,
            )
        finally:
            process.kill()
            process.wait()
    third, _, end = map(float, done.stdout.strip().splitlines()[-1].split())
    return at_most(
        "resident memory of an observer at the end of 300,000 events (after the first 100,000), collector away",
        end,
        third,
        1.5,
        unit="MiB",
    )


def _stream_of_runs(url: str, runs: int = _OBSERVED_RUNS) -> list[str]:
    """Message bodies: runs of ten phases, 22 events each, in messages of eleven, as the outbox packs them on a busy host."""
    import asyncio

    import nats

    from spanbus.integrations import nats_stream

    nats_stream.set_up(url, nats_stream.Wanted(max_bytes=2**28))

    def line(run: int, number: int, kind: str, phase: str | None, **payload: object) -> str:
        found: dict[str, object] = {
            "event_type": f"workflow.{kind}",
            "event_id": f"0198f0aabbcc-1a2b3c4d-{run * 22 + number:010x}",
            "at_ns": 1_767_225_600_000_000_000 + number * 1_000_000,
            "run_id": f"nightly-{run}",
            "payload": payload,
        }
        return json.dumps({**found, "phase": phase, "attempt": 1} if phase else found)

    def lines(run: int) -> list[str]:
        found = [line(run, 0, "started", None, workflow="nightly")]
        for phase in range(10):
            name = f"phase-{phase}"
            found.append(line(run, 1 + 2 * phase, "phase.started", name, type="command"))
            found.append(line(run, 2 + 2 * phase, "phase.completed", name, success=True))
        return [*found, line(run, 21, "completed", None, workflow="nightly", success=True)]

    async def publish() -> list[str]:
        connection = await nats.connect(url)
        stream = connection.jetstream()
        bodies: list[str] = []
        for run in range(runs):
            found = lines(run)
            for part in (found[:11], found[11:]):
                bodies.append("\n".join(part))
                await stream.publish(f"spanbus.v1.event.nightly.n-{run}", bodies[-1].encode())
        await connection.close()
        return bodies

    return asyncio.run(publish())


_PROGRAM = f"""
import json, os, sys, time
from celery import Celery
app = Celery("bench", broker="memory://", backend="cache+memory://")
@app.task
def work(number):
    return number
if sys.argv[1] == "ours":
    import spanbus
    spanbus.instrument(app)
else:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
from celery.app.trace import build_tracer
tracer = build_tracer(work.name, work, app=app)
def one(number):
    work.apply_async((number,), ignore_result=True)
    request = {{"id": str(number), "delivery_info": {{"routing_key": "celery"}}, "hostname": "w@h", "headers": {{}}}}
    tracer(str(number), (number,), {{}}, request)
for number in range(200):
    one(number)
taken = []
for number in range({_TASKS}):
    began = time.thread_time_ns()
    one(number)
    taken.append(time.thread_time_ns() - began)
taken.sort()
print(json.dumps(taken[len(taken) // 2] / 1e3), flush=True)
os._exit(0)
"""


def _tasks() -> Row:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(3):
        ours.append(_program("ours"))
        theirs.append(_program("theirs"))
    mine, yardstick = statistics.median(ours), statistics.median(theirs)
    return at_most(
        "a Celery task published and executed, CPU of the calling thread (opentelemetry-instrumentation-celery)",
        mine,
        yardstick,
        1.2,
    )


def _program(which: str) -> float:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        env = {**os.environ, "SPANBUS_STATE_DIR": folder, "SPANBUS_LOCAL": "off"}
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
        argv = [sys.executable, "-c", _PROGRAM, which]
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=120, check=True
        )
        return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> None:
    until: Callable[[], float] = time.monotonic
    deadline = until() + 30
    while until() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("nats-server does not come up")
