"""Connections of the backend, with limits for slow clients: timeouts, and eviction when there are too many."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, ClassVar, Final, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

REQUEST_HEAD_S = 10.0
"""Limit from the first byte to the last of a request's head, and from connecting to the first request."""
UNREAD_BYTES: Final = 48 << 20
"""Limit on unread answers of all clients together; above it the connection that is unread longest is aborted."""
UNREAD_S: Final = 60.0
"""Seconds within which a client must read at least 64 KiB of its answer."""
_A_LITTLE_BYTES: Final = 64 << 10
_MOST_FRAGMENTS: Final = 1_000
"""Frames of one WebSocket message."""

_Wait = Literal["request", "body", "reading"]


class Unread:
    """Connections with unread answers, oldest first, bounded in bytes and time. Not thread-safe: use it in one event loop."""

    def __init__(self, most_bytes: int = UNREAD_BYTES, time_s: float = UNREAD_S) -> None:
        self._most_bytes, self._time_s = most_bytes, time_s
        self._waiting: OrderedDict[asyncio.Transport, asyncio.TimerHandle] = OrderedDict()

    def began(self, transport: asyncio.Transport) -> None:
        """Add a transport above its high-water mark; abort the oldest until the total is within the limit."""
        if transport not in self._waiting:
            self._schedule_check(transport)
        sizes = {each: each.get_write_buffer_size() for each in self._waiting}
        total = sum(sizes.values())
        while total > self._most_bytes and len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            total -= sizes[oldest]
            self.ended(oldest)
            oldest.abort()

    def ended(self, transport: asyncio.Transport) -> None:
        """Remove a transport whose answer was read, or whose connection is lost."""
        timer = self._waiting.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def _schedule_check(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        size = transport.get_write_buffer_size()
        self._waiting[transport] = loop.call_later(self._time_s, self._check, transport, size)

    def _check(self, transport: asyncio.Transport, size_before: int) -> None:
        if size_before - transport.get_write_buffer_size() < _A_LITTLE_BYTES:
            self._waiting.pop(transport, None)
            transport.abort()
        else:
            self._schedule_check(transport)


_UNREAD = Unread()


class HttpConnection(H11Protocol):
    """HTTP/1.1 connection that is closed when its client does not finish a request in time."""

    unread: ClassVar[Unread] = _UNREAD
    """Unread answers of all connections."""

    _head_timer: asyncio.TimerHandle | None = None
    _waits_for: _Wait | None = None
    """Next action of the client; None while the server works."""
    _waiting: ClassVar[OrderedDict[H11Protocol, None]] = OrderedDict()
    """Connections that wait for their clients, longest wait first; they are closed to make room for others."""

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
        self._update_wait()
        self._head_timer = self.loop.call_later(REQUEST_HEAD_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._between_requests():
            self._head_timer = self.loop.call_later(REQUEST_HEAD_S, self._too_slow)
        super().data_received(data)
        if not self._between_requests():
            self._stop_head_timer()
        self._update_wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread.began(self.transport)
        self._update_wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread.ended(self.transport)
        self._update_wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_head_timer()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.unread.ended(self.transport)
        super().connection_lost(exc)
        self._waiting.pop(self, None)

    def _update_wait(self) -> None:
        """Move to the end of the waiting connections when the client has to do something else than before."""
        wait: _Wait | None = None
        if self not in self.connections:  # lost, or upgraded to a WebSocket
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

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._between_requests() and not self.transport.is_closing():
            self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """WebSocket that stops reading from a client that does not read, and limits the fragments of a message."""

    unread: ClassVar[Unread] = _UNREAD
    _reading_paused = False
    """Reading is paused until the client has read."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread.began(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread.ended(self.transport)
        if self._reading_paused:
            self._reading_paused = False
            if not self.read_paused:
                self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unread.ended(self.transport)
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        super().handle_ping()
        if not self.writable.is_set() and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS and not self.close_sent:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)
