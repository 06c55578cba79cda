"""The live bridge: many WebSocket clients, some of them slow or gone, and the state of live runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from spanbus._backend.address import ProcessId
from spanbus._backend.frames import Frames
from spanbus._backend.live import BadMessage, EventBusWebSocketBridge, LiveLimits
from spanbus._workflow.events import Event, new_event_id


class Served:
    def __init__(self, port: int, bridge: EventBusWebSocketBridge, server: uvicorn.Server) -> None:
        self.port, self.bridge, self.server = port, bridge, server

    def url(self, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/live{query}"

    def open(self, query: str = "") -> ClientConnection:
        return connect(self.url(query), max_size=None, compression=None)

    def say(self, count: int, first: int = 0, size: int = 1) -> None:
        for number in range(first, first + count):
            self.bridge.observer(
                Event(
                    "tick",
                    new_event_id(),
                    1_000_000 * number,
                    {"number": number, "message": "x" * size},
                )
            )


@contextmanager
def serving(
    limits: LiveLimits | None = None, bridge: EventBusWebSocketBridge | None = None
) -> Generator[Served]:
    bridge = bridge or EventBusWebSocketBridge(limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.run)
            yield
            bridge.close()
            group.cancel_scope.cancel()

    app = Starlette(routes=[WebSocketRoute("/live", bridge.serve)], lifespan=lifespan)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        app,
        log_config=None,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Served(listener.getsockname()[1], bridge, server)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def read(client: ClientConnection) -> dict[str, Any]:
    frame = json.loads(client.recv(timeout=20))
    assert frame["v"] == 1
    return frame


def numbers(client: ClientConnection, until: int) -> tuple[list[int], int]:
    """Read messages until the number ``until``; return the payload numbers and the number of messages reported as missed."""
    got: list[int] = []
    missed = 0
    while not got or got[-1] < until:
        frame = read(client)
        if frame["type"] == "missed":
            missed += frame["count"]
        else:
            got += [
                message["attributes"]["spanbus.payload.number"]
                for message in frame["messages"]
                if message["type"] == "event"
            ]
    return got, missed


def test_events_reach_a_client_in_order() -> None:
    with serving() as served, served.open() as client:
        assert read(client)["type"] == "hello"
        served.say(100)
        assert numbers(client, 99) == (list(range(100)), 0)


def test_a_client_resumes_after_its_last_message() -> None:
    with serving() as served:
        with served.open() as client:
            epoch = read(client)["epoch"]
            served.say(10)
            numbers(client, 9)
        served.say(10, first=10)
        with (
            served.open() as other
        ):  # proves that the second ten are in before the client comes back
            read(other)
            served.say(1, first=20)
            numbers(other, 20)
        with served.open(f"?after=10&epoch={epoch}") as client:
            assert read(client)["resumed"] is True
            assert numbers(client, 20) == (list(range(10, 21)), 0)


@pytest.mark.parametrize(
    "query",
    ["?after=5&epoch=other", "?after=-1", "?after=99999999999999999999999", "?after=%00&epoch=%00"],
)
def test_a_client_of_an_earlier_backend_process_does_not_resume(query: str) -> None:
    with serving() as served, served.open(query) as client:
        hello = read(client)
        assert (hello["type"], hello["resumed"]) == ("hello", False)


def test_a_client_that_resumes_too_late_gets_the_number_of_missed_messages() -> None:
    with serving(LiveLimits(ring_messages=50)) as served:
        with served.open() as client:
            epoch = read(client)["epoch"]
        with served.open() as other:
            read(other)
            served.say(200)
            got, missed = numbers(other, 199)
            assert len(got) + missed == 200
        with served.open(f"?after=0&epoch={epoch}") as client:
            read(client)
            got, missed = numbers(client, 199)
        assert (got, missed) == (list(range(150, 200)), 150)


def test_a_slow_client_gets_the_number_of_missed_messages_and_others_get_all() -> None:
    limits = LiveLimits(
        ring_messages=4_000, client_lag_messages=200, frame_bytes=1 << 20, inbox=100_000
    )
    with serving(limits) as served, served.open() as quick:
        read(quick)
        with socket.socket() as raw:
            raw.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096
            )  # a client whose buffer is small and that does not read
            raw.connect(("127.0.0.1", served.port))
            with connect(
                served.url(), sock=raw, max_size=None, compression=None, max_queue=1
            ) as slow:
                read(slow)
                for at in range(60):
                    served.say(50, first=at * 50, size=900)
                    assert numbers(quick, at * 50 + 49) == (list(range(at * 50, at * 50 + 50)), 0)
                served.say(1, first=3_000)
                got, missed = numbers(slow, 3_000)
    assert missed > 0
    assert len(got) + missed == 3_001
    assert got == sorted(set(got))


def test_a_frame_is_encoded_once_for_all_clients_at_its_position() -> None:
    ring = deque(f'{{"id":{identity},"text":"é"}}' for identity in range(101, 121))
    frames = Frames(ring, 1 << 20)
    for _ in range(3):  # clients at two places take turns
        for position in (100, 112):
            last, frame = frames.after(position, 120)
            assert last == 120
            assert frame is frames.after(position, 120)[1]
            assert frame.encode() is frame.encode()
            assert json.loads(frame.encode()) == json.loads(str(frame))
    ring.append('{"id":121}')
    last, frame = frames.after(112, 121)
    assert [each["id"] for each in json.loads(frame)["messages"]] == list(range(113, last + 1))
    assert Frames(ring, 1).after(112, 121)[0] == 113  # one message at least, however small a frame


def test_messages_dropped_at_a_full_inbox_are_counted_and_reported() -> None:
    limits = LiveLimits(inbox=10)
    bridge = EventBusWebSocketBridge(limits)
    for number in range(25):  # nobody reads the inbox before the bridge runs
        assert bridge.observer(Event("tick", new_event_id(), number))
    with serving(bridge=bridge) as served, served.open(f"?after=0&epoch={bridge.epoch}") as client:
        read(client)
        messages: list[dict[str, Any]] = []
        while len(messages) < 11:
            messages += read(client)["messages"]
    assert messages[-1] == {"type": "dropped", "count": 15, "id": 11}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the client library knows asyncio only
@pytest.mark.parametrize("clients", [50, pytest.param(500, marks=pytest.mark.slow)])
async def test_hundreds_of_clients_get_every_event(clients: int) -> None:
    with serving() as served:
        done: list[int] = []
        ready = anyio.Event()
        waiting = clients

        async def client() -> None:
            nonlocal waiting
            async with connect_async(
                served.url(), max_size=None, compression=None, open_timeout=60
            ) as socket_:
                await socket_.recv()
                waiting -= 1
                if not waiting:
                    ready.set()
                count = 0
                while count < 200:
                    count += len(json.loads(await socket_.recv())["messages"])
                done.append(count)

        with anyio.fail_after(90):
            async with anyio.create_task_group() as group:
                for _ in range(clients):
                    group.start_soon(client)
                await ready.wait()
                assert served.bridge.statistics().clients == clients
                served.say(200)
        assert done == [200] * clients
        assert served.bridge.statistics().missed == 0


def test_too_many_clients_are_refused() -> None:
    with serving(LiveLimits(clients=1)) as served, served.open() as client:
        read(client)
        with pytest.raises(Exception, match=r"1013|rejected|403"), served.open() as second:
            read(second)


def test_clients_are_closed_with_1012_when_the_backend_stops() -> None:
    with serving() as served, served.open() as client:
        read(client)
        served.server.should_exit = True
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


# --- publishers -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def span(kind: str, level: str, name: str, identity: str, **more: object) -> dict[str, object]:
    return {
        "type": kind,
        "run_id": "r1",
        "workflow": "standard",
        "level": level,
        "name": name,
        "span_id": identity,
        "parent_span_id": None,
        "trace_id": "0" * 32,
        "attempt": 1,
        "attempts": 1,
        "started_at_us": 1,
        **more,
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bridge(clock: Clock) -> EventBusWebSocketBridge:
    return EventBusWebSocketBridge(clock=clock)


RUN, PHASE = span("opened", "run", "standard", "01"), span("opened", "phase", "tests", "02")


def test_announced_runs_are_live_with_their_open_spans(bridge: EventBusWebSocketBridge) -> None:
    bridge.announce("p", None, [RUN, PHASE])
    (run,) = bridge.live_runs()
    assert (run["run_id"], run["state"], run["open"]) == ("r1", "running", [PHASE])


def test_an_ended_run_has_no_open_spans(bridge: EventBusWebSocketBridge) -> None:
    bridge.announce(
        "p",
        None,
        [
            RUN,
            PHASE,
            span("closed", "phase", "tests", "02", result="success"),
            span("closed", "run", "standard", "01", result="success"),
        ],
    )
    (run,) = bridge.live_runs()
    assert (run["state"], run["open"]) == ("ended", [])


def test_a_silent_publisher_is_stalled_until_its_next_message(
    bridge: EventBusWebSocketBridge, clock: Clock
) -> None:
    bridge.announce("p", ProcessId.own(), [RUN, PHASE])
    clock.now += 2.5
    bridge.check_publishers()
    assert bridge.live_runs()[0]["state"] == "stalled"
    clock.now += 10  # the process is there, so it is not called killed
    bridge.check_publishers()
    assert bridge.live_runs()[0]["state"] == "stalled"
    bridge.announce("p", ProcessId.own(), [])
    assert bridge.live_runs()[0]["state"] == "running"


def test_a_publisher_without_a_process_id_is_stalled_later_and_removed(
    bridge: EventBusWebSocketBridge, clock: Clock
) -> None:
    def state() -> object:
        bridge.check_publishers()
        return bridge.live_runs()[0]["state"]

    bridge.announce("p", None, [RUN, PHASE])
    clock.now += 25
    assert state() == "running"
    clock.now += 6
    assert state() == "stalled"
    bridge.announce("p", None, [])
    assert state() == "running"
    clock.now += 31
    assert state() == "stalled"
    clock.now += 3_600
    assert state() == "ended"
    assert bridge.statistics().sources == 0
    clock.now += 61
    bridge.check_publishers()
    assert bridge.live_runs() == []


def test_runs_of_a_publisher_whose_process_is_gone_are_killed(
    bridge: EventBusWebSocketBridge, clock: Clock
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    bridge.announce("p", ProcessId(child.pid, "1", ProcessId.own().host), [RUN, PHASE])
    clock.now += 2.5
    bridge.check_publishers()
    assert bridge.live_runs()[0]["state"] == "stalled"
    clock.now += 2.0
    bridge.check_publishers()
    assert bridge.live_runs()[0]["state"] == "killed"


def test_another_process_with_the_same_pid_is_not_the_publisher() -> None:
    assert ProcessId.own().gone() is False
    assert ProcessId(os.getpid(), "1", ProcessId.own().host).gone() is True
    assert ProcessId(os.getpid(), "1", "elsewhere.example").gone() is False


def test_a_zombie_process_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from spanbus._backend.address import process_started

    identity = ProcessId(child.pid, process_started(child.pid) or "", ProcessId.own().host)
    assert identity.gone() is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.gone() is True
    child.communicate()


def test_a_publisher_that_leaves_ends_its_runs(bridge: EventBusWebSocketBridge) -> None:
    bridge.announce("p", None, [RUN])
    bridge.announce("p", None, [], leaving=True)
    assert bridge.live_runs()[0]["state"] == "ended"
    assert bridge.statistics().sources == 0


def test_ended_runs_are_removed_after_a_minute(
    bridge: EventBusWebSocketBridge, clock: Clock
) -> None:
    bridge.announce("p", None, [RUN, span("closed", "run", "standard", "01", result="success")])
    clock.now += 61
    bridge.check_publishers()
    assert bridge.live_runs() == []


def test_the_number_of_live_runs_is_bounded(clock: Clock) -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(runs=5), clock=clock)
    for number in range(20):
        bridge.announce("p", None, [{**RUN, "run_id": f"r{number}"}])
    assert len(bridge.live_runs()) == 5


def test_removed_live_runs_are_reported_as_one_count(clock: Clock) -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(runs=5), clock=clock)
    told: list[Mapping[str, object]] = []
    bridge.on_message(told.append)
    bridge.announce("p", None, [{**RUN, "run_id": f"r{number}"} for number in range(12)])
    bridge.check_publishers()
    bridge.check_publishers()
    assert [message for message in told if message["type"] == "forgotten"] == [
        {"type": "forgotten", "count": 7}
    ]


def test_an_ended_run_makes_room_without_a_message(clock: Clock) -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(runs=1), clock=clock)
    told: list[Mapping[str, object]] = []
    bridge.on_message(told.append)
    bridge.announce(
        "p",
        None,
        [RUN, span("closed", "run", "standard", "01", result="success"), {**RUN, "run_id": "r2"}],
    )
    bridge.check_publishers()
    assert [message["type"] for message in told] == ["opened", "closed", "opened"]


def test_the_number_of_open_spans_is_bounded(clock: Clock) -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(open_spans=3), clock=clock)
    bridge.announce(
        "p", None, [RUN, *(span("opened", "hook", "h", f"{n:x}") for n in range(10, 20))]
    )
    assert len(bridge.live_runs()[0]["open"]) == 3  # type: ignore[arg-type]
    bridge.announce(
        "p",
        None,
        [
            span("closed", "run", "standard", "01", result="success"),
            {**RUN, "run_id": "r2"},
            {**PHASE, "run_id": "r2"},
        ],
    )
    assert [run["open"] for run in bridge.live_runs() if run["run_id"] == "r2"] == [
        [{**PHASE, "run_id": "r2"}]
    ]


@pytest.mark.parametrize(
    "message",
    [
        None,
        5,
        "text",
        [],
        {},
        {"type": "event"},
        {"type": "opened", "run_id": "r"},
        {**RUN, "run_id": 5},
        {**RUN, "started_at_us": "now"},
        {**RUN, "started_at_us": True},
        {**RUN, "started_at_us": 10**400},
        {**RUN, "name": "x" * 5_000},
        {**RUN, "type": "closed"},
        {**RUN, "type": "other"},
        {"type": "event", "run_id": "r", "name": "n", "attributes": {"x": float("nan")}},
    ],
)
def test_an_invalid_message_is_refused(bridge: EventBusWebSocketBridge, message: object) -> None:
    with pytest.raises(BadMessage):
        bridge.announce("p", None, [message])


def test_a_message_that_is_too_large_is_dropped_and_counted(
    bridge: EventBusWebSocketBridge,
) -> None:
    bridge.announce(
        "p",
        None,
        [{"type": "event", "run_id": "r", "name": "n", "attributes": {"x": "y" * 100_000}}],
    )
    assert (bridge.statistics().messages, bridge.statistics().missed) == (0, 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "run_id", "span_id", "name", "level", "started_at_us", "result"]
                ),
                inner | st.sampled_from(["opened", "closed", "event", "run"]),
            )
        ),
        max_leaves=20,
    )
)
def test_any_message_is_accepted_or_refused(message: object) -> None:
    bridge = EventBusWebSocketBridge()
    try:
        bridge.announce("p", None, [message])
    except BadMessage:
        pass
    json.dumps(bridge.live_runs())
