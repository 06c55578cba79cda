"""Live announcements of runs to a backend: from another process, when stopped or killed, without a backend, with a hung one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest
import uvicorn
from sleeping import slept_s
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from websockets.sync.client import connect

from spanbus._backend.address import (
    FILE_NAME,
    Address,
    ProcessId,
    read_address,
    remove_address,
    write_address,
)
from spanbus._backend.announce import Announcer, plan_of
from spanbus._backend.live import EventBusWebSocketBridge
from spanbus._backend.publish import Publishing
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._semantics import Failure, Level, Result


class Plain:
    """Wording without redaction, for tests."""

    description = "it said no"

    def event(self, note: SpanEvent) -> Mapping[str, object]:
        return dict(note.payload)

    def status(self, record: SpanState) -> Plain:
        return self


class Served:
    def __init__(self, port: int, bridge: EventBusWebSocketBridge) -> None:
        self.port, self.bridge = port, bridge
        self.address = Address(f"http://127.0.0.1:{port}", "token", ProcessId.own())


@contextmanager
def serving() -> Generator[Served]:
    bridge = EventBusWebSocketBridge()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.run)
            yield
            bridge.close()
            group.cancel_scope.cancel()

    app = Starlette(
        routes=[
            WebSocketRoute("/live", bridge.serve),
            Route("/live/publish", Publishing(bridge).endpoint, methods=["POST"]),
        ],
        lifespan=lifespan,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Served(listener.getsockname()[1], bridge)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


def until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def record(
    level: Level, name: str, span_id: int, parent: SpanState | None = None, run_id: str = "r"
) -> SpanState:
    return SpanState(
        level,
        name,
        run_id=run_id,
        workflow="standard",
        trace_id=1,
        span_id=span_id,
        started_at_ns=time.time_ns(),
        parent=parent,
    )


def live_run(served: Served, run_id: str) -> dict[str, object]:
    return next((run for run in served.bridge.live_runs() if run["run_id"] == run_id), {})


def test_a_run_is_shown_with_its_phases_events_and_failure(served: Served, tmp_path: Path) -> None:
    write_address(tmp_path, served.address)
    announcer = Announcer(tmp_path, Plain())
    with connect(f"ws://127.0.0.1:{served.port}/live", compression=None) as client:
        client.recv(timeout=10)
        run = record(Level.RUN, "standard", 1, run_id="shown")
        announcer.opened(run)
        until(lambda: announcer.statistics().connected)
        phase = record(Level.PHASE, "tests", 2, run, run_id="shown")
        announcer.opened(phase)
        announcer.noted(
            phase,
            SpanEvent(
                "quality.started",
                5_000_000,
                "e1",
                "me",
                {"n": 1, "x": float("inf"), "s": "\ud800", "l": ("a", 2)},
            ),
        )
        phase.ended_at_ns, phase.result, phase.failure = (
            phase.started_at_ns + 1_000_000,
            Result.FAILURE,
            Failure("unsuccessful", "it said no"),
        )
        announcer.closed(phase)
        run.ended_at_ns, run.result = phase.ended_at_ns, Result.FAILURE
        announcer.closed(run)
        announcer.close(5.0)
        got: list[dict[str, object]] = []
        while not any(message["type"] == "closed" and message["level"] == "run" for message in got):
            got += json.loads(client.recv(timeout=10))["messages"]
    kinds = {(message["type"], message.get("level")) for message in got}
    assert kinds == {
        ("opened", "run"),
        ("opened", "phase"),
        ("event", None),
        ("closed", "phase"),
        ("closed", "run"),
    }
    (event,) = (message for message in got if message["type"] == "event")
    assert event["attributes"] == {"n": 1, "x": "inf", "s": "?", "l": ["a", 2]}
    (closed,) = (
        message for message in got if message["type"] == "closed" and message["level"] == "phase"
    )
    assert (closed["result"], closed["error_type"], closed["error"]) == (
        "failure",
        "unsuccessful",
        "it said no",
    )
    assert live_run(served, "shown")["state"] == "ended"


def test_a_backend_started_later_gets_the_open_spans(served: Served, tmp_path: Path) -> None:
    announcer = Announcer(tmp_path, Plain())
    run = record(Level.RUN, "standard", 1, run_id="later")
    announcer.opened(run)
    announcer.opened(record(Level.PHASE, "tests", 2, run, run_id="later"))
    write_address(tmp_path, served.address)
    until(lambda: live_run(served, "later").get("open"))
    announcer.close(5.0)


def test_without_a_backend_no_messages_are_queued(tmp_path: Path) -> None:
    announcer = Announcer(tmp_path, Plain())
    run = record(Level.RUN, "standard", 1)
    announcer.opened(run)
    for number in range(100_000):
        announcer.noted(run, SpanEvent("tick", number, "e", "me", {}))
    announcer.close(5.0)
    assert announcer.statistics() == (False, 0, 0, 0)


def test_a_hanging_backend_delays_neither_the_run_nor_its_exit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_address(
            tmp_path,
            Address(f"http://127.0.0.1:{silent.getsockname()[1]}", "token", ProcessId.own()),
        )
        announcer = Announcer(tmp_path, Plain(), queue=100)
        run = record(Level.RUN, "standard", 1)
        announcer.opened(run)
        until(lambda: announcer.statistics().connected)
        began = slept_s()
        for number in range(10_000):
            announcer.noted(run, SpanEvent("tick", number, "e", "me", {}))
        announcer.close(0.1)
        assert slept_s() - began < 2.0
        assert announcer.statistics().dropped >= 9_900


def test_a_backend_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refusing.settimeout(10)
        write_address(
            tmp_path,
            Address(f"http://127.0.0.1:{refusing.getsockname()[1]}", "wrong", ProcessId.own()),
        )
        announcer = Announcer(tmp_path, Plain())
        run = record(Level.RUN, "standard", 1, run_id="refused")
        announcer.opened(run)
        client, _ = refusing.accept()
        with client:
            client.recv(65_536)
            client.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            until(lambda: announcer.statistics().errors == 1)
        announcer.noted(run, SpanEvent("tick", 1, "e", "me", {}))
        announcer.close(5.0)
        refusing.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has asked again
            refusing.accept()


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from spanbus._backend.announce import Announcer
from spanbus._semantics import Level
from spanbus._correlation.span_state import SpanState
class Plain:
    description = None
    def event(self, note): return {{}}
    def status(self, record): return self
announcer = Announcer(Path({state!r}), Plain())
run = SpanState(Level.RUN, "standard", run_id="process", workflow="standard", trace_id=1, span_id=1, started_at_ns=time.time_ns())
announcer.opened(run)
announcer.opened(SpanState(Level.PHASE, "tests", run_id="process", workflow="standard", trace_id=1, span_id=2, started_at_ns=time.time_ns(), parent=run))
sys.stdin.read()
"""


def test_a_process_is_shown_then_stalled_then_running_then_killed(
    served: Served, tmp_path: Path
) -> None:
    write_address(tmp_path, served.address)
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(state=str(tmp_path), tests="src")],
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: live_run(served, "process").get("open"), 30)
        assert live_run(served, "process")["state"] == "running"
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: live_run(served, "process")["state"] == "stalled", 30)
        os.kill(child.pid, signal.SIGCONT)
        until(lambda: live_run(served, "process")["state"] == "running", 30)
        os.kill(child.pid, signal.SIGKILL)
        states: list[object] = []

        def killed() -> bool:
            states.append(live_run(served, "process")["state"])
            return states[-1] == "killed"

        until(killed, 30)
        assert "stalled" in states
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"v": 2}',
        b'{"v": 1, "source": 5, "messages": []}',
        b'{"v": 1, "source": "", "messages": []}',
        b'{"v": 1, "source": "s", "messages": [{}]}',
        b'{"v": 1, "source": "s", "messages": 5}',
        b"x" * (5 << 20),
    ],
)
def test_an_invalid_message_is_a_400(served: Served, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request("POST", "/live/publish", body)
        assert connection.getresponse().status == 400
    finally:
        connection.close()


# --- backend.json ---------------------------------------------------------------------------------------------------------


def test_the_address_file_is_private_and_deleted_at_exit(tmp_path: Path) -> None:
    address = Address("http://127.0.0.1:1", "secret", ProcessId.own())
    path = write_address(tmp_path, address)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_address(tmp_path) == address
    remove_address(tmp_path, "another")
    assert path.exists()
    remove_address(tmp_path, "secret")
    assert not path.exists()


def test_the_address_of_a_dead_backend_is_ignored(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    write_address(
        tmp_path,
        Address("http://127.0.0.1:1", "t", ProcessId(child.pid, "1", ProcessId.own().host)),
    )
    assert read_address(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", '{"url": 5}', '{"url": "x", "token": "y", "pid": "z"}', "\xff"]
)
def test_an_invalid_address_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    assert read_address(tmp_path) is None


def span_of(served: Served, run_id: str) -> Mapping[str, object]:
    """Return the span of the run that new clients get."""
    return cast("Mapping[str, object]", live_run(served, run_id).get("span") or {})


def test_a_late_client_gets_the_plan_of_the_run(served: Served, tmp_path: Path) -> None:
    write_address(tmp_path, served.address)
    announcer = Announcer(tmp_path, Plain(), project="shop")
    run = record(Level.RUN, "standard", 1, run_id="planned")
    announcer.opened(run)
    until(lambda: announcer.statistics().connected)
    payload: dict[str, object] = {
        "phases": ["a", "b"],
        "needs": {"b": ["a", None], "c": 1},
    }
    started = SpanEvent("workflow.started", 5, "e", "me", payload)
    run.events.append(started)
    announcer.noted(run, started)
    plan = [{"name": "a", "needs": []}, {"name": "b", "needs": ["a"]}]
    until(lambda: span_of(served, "planned").get("plan") == plan)
    assert span_of(served, "planned")["project"] == "shop"
    announcer.close(5.0)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"phases": "abc"},
        {"phases": 3},
        {"phases": [1, 2]},
        {"phases": ["a", object()]},
        {"phases": [], "needs": 3},
    ],
)
def test_invalid_phases_are_no_plan(payload: dict[str, object]) -> None:
    assert plan_of([SpanEvent("workflow.started", 5, "e", "me", payload)]) == []


def test_the_plan_of_many_phases_fits_into_a_message() -> None:
    names = [f"phase {number} {'x' * 100}" for number in range(5_000)]
    needs = dict.fromkeys(names, names[:3])
    event = SpanEvent("workflow.started", 5, "e", "me", {"phases": names, "needs": needs})
    assert 0 < len(json.dumps(plan_of([event]))) < 60_000
