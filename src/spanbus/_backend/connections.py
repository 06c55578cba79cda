"""Connections of the backend: a client must come to the point, and one that makes the server wait makes place for another."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, ClassVar, Final, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

REQUEST_HEAD_S = 10.0
"""From the first byte to the last of a request's head, and from connecting to the first request."""
UNREAD_BYTES: Final = 48 << 20
"""Bytes of answers that all clients together have not read; above it the client that waits longest loses its answer."""
UNREAD_S: Final = 60.0
"""Seconds in which a client reads at least a little of an answer that waits for it."""
_A_LITTLE_BYTES: Final = 64 << 10
_MOST_FRAGMENTS: Final = 1_000
"""Frames of one WebSocket message."""

_Wait = Literal["request", "body", "reading"]


class Unread:
    """Answers that were written and not read yet, the oldest first, bounded in bytes and time.

    Not thread-safe: of one event loop.
    """

    def __init__(self, most_bytes: int = UNREAD_BYTES, time_s: float = UNREAD_S) -> None:
        self._most_bytes, self._time_s = most_bytes, time_s
        self._waiting: OrderedDict[asyncio.Transport, asyncio.TimerHandle] = OrderedDict()

    def began(self, transport: asyncio.Transport) -> None:
        """A transport holds more than it likes to; the oldest go until all hold what they may."""
        if transport not in self._waiting:
            self._look_later(transport)
        sizes = {each: each.get_write_buffer_size() for each in self._waiting}
        total = sum(sizes.values())
        while total > self._most_bytes and len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            total -= sizes[oldest]
            self.ended(oldest)
            oldest.abort()

    def ended(self, transport: asyncio.Transport) -> None:
        """Told when bytes that a transport held are read, or its connection is lost."""
        timer = self._waiting.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def _look_later(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        size = transport.get_write_buffer_size()
        self._waiting[transport] = loop.call_later(self._time_s, self._look, transport, size)

    def _look(self, transport: asyncio.Transport, size_before: int) -> None:
        if size_before - transport.get_write_buffer_size() < _A_LITTLE_BYTES:
            self._waiting.pop(transport, None)
            transport.abort()
        else:
            self._look_later(transport)


_UNREAD = Unread()


class HttpConnection(H11Protocol):
    """HTTP/1.1 in which a client must come to the point: connections that never finish asking are closed."""

    unread: ClassVar[Unread] = _UNREAD
    """Answers of all connections that their clients have not read."""

    _asking: asyncio.TimerHandle | None = None
    _waits_for: _Wait | None = None
    """The next thing for the client to do; None where it is the server's turn."""
    _waiting: ClassVar[OrderedDict[H11Protocol, None]] = OrderedDict()
    """Connections whose clients have something to do, the longest wait first: they make place for others."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most = (self.limit_concurrency or 2_000) * 3 // 4
        while len(self.connections) > most and self._waiting:
            oldest, _ = self._waiting.popitem(last=False)
            oldest.connections.discard(oldest)
            if oldest.transport.get_write_buffer_size():
                oldest.transport.abort()
            else:
                oldest.transport.close()
        self._look()
        self._asking = self.loop.call_later(REQUEST_HEAD_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._asking is None and self._between_requests():
            self._asking = self.loop.call_later(REQUEST_HEAD_S, self._too_slow)
        super().data_received(data)
        if not self._between_requests():
            self._asked()
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread.began(self.transport)
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread.ended(self.transport)
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._asked()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._asked()
        self.unread.ended(self.transport)
        super().connection_lost(exc)
        self._waiting.pop(self, None)

    def _look(self) -> None:
        """Take a place at the end of those that wait when the client has something else to do than before."""
        wait: _Wait | None = None
        if self not in self.connections:  # lost, or a WebSocket now
            wait = None
        elif self.flow.write_paused:
            wait = "reading"
        elif self._between_requests():
            wait = "request"
        elif self.cycle.more_body:
            wait = "body"
        if wait != self._waits_for:
            self._waits_for = wait
            self._waiting.pop(self, None)
            if wait is not None:
                self._waiting[self] = None

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None before the first request

    def _asked(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _too_slow(self) -> None:
        self._asking = None
        if self._between_requests() and not self.transport.is_closing():
            self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket whose client is not read from while it does not read, and sends no message of endless pieces."""

    unread: ClassVar[Unread] = _UNREAD
    _for_the_reader = False
    """Reading waits until the client has read."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread.began(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread.ended(self.transport)
        if self._for_the_reader:
            self._for_the_reader = False
            if not self.read_paused:
                self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unread.ended(self.transport)
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        super().handle_ping()
        if not self.writable.is_set() and not self.transport.is_closing():
            self._for_the_reader = True
            self.transport.pause_reading()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS and not self.close_sent:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)
