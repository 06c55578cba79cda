"""Slow clients of the backend: the memory they hold is bounded, and others are served."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import ClassVar

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from spanbus._backend.connections import HttpConnection, Unread, WebSocketConnection
from spanbus._backend.in_flight import Full, InFlight
from spanbus._backend.live import EventBusWebSocketBridge, LiveLimits

LARGE = b"x" * (8 << 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def large(request: Request) -> Response:
    del request
    return Response(LARGE)


async def swallow(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def listen(websocket: WebSocket) -> None:
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()


@contextmanager
def serving(
    connections: int = 2_000, unread: Unread | None = None, in_flight: InFlight | None = None
) -> Generator[int]:
    """Serve a test application with the connection handling of the backend."""

    class OwnHttp(HttpConnection):
        _waiting: ClassVar[OrderedDict[H11Protocol, None]] = OrderedDict()

    class OwnWebSocket(WebSocketConnection):
        pass

    OwnHttp.unread = OwnWebSocket.unread = unread or Unread()
    room = in_flight or InFlight()

    async def hold(request: Request) -> Response:
        with room.body() as held:
            try:
                body = await held.read(request, 16 << 20, 60.0)
            except Full:
                return PlainTextResponse("full", 429)
        return PlainTextResponse(str(len(body)))

    app = Starlette(
        routes=[
            Route("/large", large),
            Route("/swallow", swallow, methods=["POST"]),
            Route("/hold", hold, methods=["POST"]),
            WebSocketRoute("/listen", listen),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            http=OwnHttp,
            ws=OwnWebSocket,
            lifespan="off",
            ws_per_message_deflate=False,
            ws_max_size=65_536,
            limit_concurrency=connections,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def connected(port: int, sent: bytes) -> socket.socket:
    """Connect a client with a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    client.sendall(sent)
    return client


def asked(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def answer(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


def everything(client: socket.socket) -> int:
    """Return the number of bytes received until the end, or until the connection was aborted."""
    size = 0
    with suppress(ConnectionError):
        while piece := client.recv(1 << 20):
            size += len(piece)
            if size >= len(LARGE):
                break
    return size


def test_the_oldest_unread_answers_are_aborted() -> None:
    with serving(unread=Unread(most_bytes=20 << 20)) as port, ExitStack() as stack:
        clients = [stack.enter_context(connected(port, asked("GET", "/large"))) for _ in range(4)]
        assert answer(port, "GET", "/large") == (200, LARGE)
        read = [everything(client) for client in clients]
    assert read[0] < len(LARGE)
    assert read[-1] >= len(LARGE)


def test_an_answer_that_is_not_read_is_aborted() -> None:
    with serving(unread=Unread(time_s=0.05)) as port:
        for wait_s in (0.2, 1, 5, 25):  # a client cannot see when its answer is given up
            with connected(port, asked("GET", "/large")) as client:
                threading.Event().wait(wait_s)
                size = everything(client)
            if size < len(LARGE):
                break
        assert 0 < size < len(LARGE)


@pytest.mark.parametrize(
    "sent",
    [
        asked("POST", "/swallow", "Content-Length: 1000") + b"x",
        asked("POST", "/swallow", "Transfer-Encoding: chunked") + b"1\r\nx\r\n",
        asked("GET", "/large"),
        b"",
        b"GET / HTTP/1.1\r\n",
    ],
    ids=["body", "chunks", "reading", "idle", "head"],
)
def test_a_slow_reader_is_aborted_in_favour_of_others(sent: bytes) -> None:
    with serving(connections=12) as port, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(port, sent))
        status, text = 0, b""
        for _ in range(200):  # those that were sent away are leaving
            status, text = answer(port, "POST", "/swallow", b"abc")
            if status != 503:
                break
        assert (status, text) == (200, b"3")


def test_a_slow_body_is_aborted_in_favour_of_others() -> None:
    room = InFlight(most_bytes=1 << 20)
    with (
        serving(in_flight=room) as port,
        connected(port, asked("POST", "/hold", "Content-Length: 2000000")) as slow,
    ):
        slow.sendall(bytes(900_000))
        for _ in range(600):
            if room.size_bytes >= 900_000:
                break
            threading.Event().wait(0.05)
        seen: set[int] = set()
        status, text = 0, b""
        for _ in range(400):
            status, text = answer(port, "POST", "/hold", bytes(500_000))
            seen.add(status)
            if status == 200:
                break
            threading.Event().wait(0.05)
        assert (status, text) == (200, b"500000")
        assert seen <= {200, 429}
    assert room.size_bytes == 0


def _upgraded(port: int) -> socket.socket:
    key = base64.b64encode(os.urandom(16)).decode()
    client = connected(
        port,
        asked(
            "GET",
            "/listen",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ),
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert b" 101 " in head
    return client


def test_a_message_of_endless_empty_fragments_closes_the_connection() -> None:
    with serving() as port, _upgraded(port) as client:
        client.sendall(b"\x01\x80" + bytes(4))  # a text that goes on
        with suppress(ConnectionError):
            for _ in range(200):
                client.sendall((b"\x00\x80" + bytes(4)) * 1_000)
        with suppress(ConnectionError):
            first = client.recv(4)
            assert first[:1] == b"\x88" and int.from_bytes(first[2:4], "big") == 1009


def test_a_client_that_pings_but_never_reads_is_paused() -> None:
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    with serving() as port, _upgraded(port) as client:
        client.settimeout(3)
        sent = 0
        with suppress(TimeoutError):
            while sent < 256 << 20:
                sent += client.send(ping * 500)
        assert sent < 256 << 20


@pytest.mark.anyio
async def test_the_state_of_live_runs_is_bounded_in_bytes() -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(state_bytes=200_000))

    def message(kind: str, run: str, span: str, level: str) -> dict[str, object]:
        members: dict[str, object] = {
            "type": kind,
            "run_id": run,
            "span_id": span,
            "level": level,
            "name": "w",
            "note": "x" * 10_000,
            "started_at_us": 1,
        }
        return {**members, "result": "success"} if kind == "closed" else members

    for run in range(20):
        name = f"run{run}"
        bridge.announce("one", None, [message("opened", name, "1", "run")])
        for at in range(20):
            bridge.announce("one", None, [message("opened", name, f"p{at}", "phase")])
        assert len(json.dumps(bridge.live_runs())) < 250_000
        for at in range(20):
            bridge.announce("one", None, [message("closed", name, f"p{at}", "phase")])
        bridge.announce("one", None, [message("closed", name, "1", "run")])
        assert len(json.dumps(bridge.live_runs())) < 250_000
    assert bridge.statistics().messages == 20 * 42


@pytest.mark.anyio
async def test_the_room_of_ended_live_runs_is_reused() -> None:
    now = [0.0]
    bridge = EventBusWebSocketBridge(
        LiveLimits(state_bytes=50_000, ended_kept_s=1.0), clock=lambda: now[0]
    )
    for at in range(30):
        members = {
            "run_id": f"r{at}",
            "span_id": "1",
            "level": "run",
            "name": "w" * 4_000,
            "started_at_us": 1,
            "result": "success",
        }
        bridge.announce("one", None, [{**members, "type": "opened"}])
        (span,) = [run["span"] for run in bridge.live_runs() if run["run_id"] == f"r{at}"]
        assert span is not None
        bridge.announce("one", None, [{**members, "type": "closed"}])
        now[0] += 2.0
        bridge.check_publishers()
