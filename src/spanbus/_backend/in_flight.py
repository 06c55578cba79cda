"""Memory limit for the bodies of all requests; slow clients are aborted to make room for others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

import anyio
from starlette.requests import Request

MOST_BYTES: Final = 40 << 20
PATIENCE_S: Final = 2.0
"""Seconds for which a body may be slow even without room for others."""
FAST_BYTES_S: Final = 1 << 20
"""Bytes per second below which a client counts as slow."""


class Full(Exception):
    """There is no room now."""


class TooSlow(Exception):
    """The body took too long, or others needed its room."""


class BodyTooLarge(ValueError):
    """The body exceeds its limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


class InFlight:
    """Memory for the bodies of all clients together. Not thread-safe: use it in the event loop."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes = most_bytes
        self.clock = clock
        self.size_bytes = 0
        self._receiving: dict[Body, None] = {}
        """Bodies being received, oldest first."""

    def body(self) -> Body:
        """Context manager for one body, which frees its memory at the end."""
        return Body(self)

    def began(self, body: Body) -> None:
        self._receiving[body] = None

    def ended(self, body: Body) -> None:
        self._receiving.pop(body, None)

    def take(self, size_bytes: int) -> None:
        """Reserve bytes, aborting slow clients if needed; raises :class:`Full` without room."""
        if self.size_bytes + size_bytes > self._most_bytes:
            self._cancel_slow(self.size_bytes + size_bytes - self._most_bytes)
        if self.size_bytes + size_bytes > self._most_bytes:
            raise Full
        self.size_bytes += size_bytes

    def _cancel_slow(self, size_bytes: int) -> None:
        for body in [each for each in self._receiving if each.is_slow()]:
            size_bytes -= body.size_bytes
            body.cancel()
            if size_bytes <= 0:
                return


class Body:
    """One body and its reserved memory."""

    def __init__(self, room: InFlight) -> None:
        self._room = room
        self.size_bytes = 0
        self._began_s = room.clock()
        self._scope = anyio.CancelScope()
        self._is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    async def read(self, request: Request, limit_bytes: int, time_s: float) -> bytes:
        """Read the body of ``request``. Raises :class:`BodyTooLarge`, :class:`TooSlow`, :class:`Full`, and ClientDisconnect."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        received = bytearray()
        self._room.began(self)
        try:
            with anyio.move_on_after(time_s), self._scope:
                async for chunk in request.stream():
                    if len(received) + len(chunk) > limit_bytes:
                        raise BodyTooLarge(limit_bytes)
                    if not self._is_cancelled:
                        self._room.take(len(chunk))
                        self.size_bytes += len(chunk)
                    received += chunk
                return bytes(received)
        finally:
            self._room.ended(self)
        raise TooSlow

    def is_slow(self) -> bool:
        """Whether the body arrives slower than ``FAST_BYTES_S``, after ``PATIENCE_S``."""
        age_s = self._room.clock() - self._began_s
        return age_s > PATIENCE_S and self.size_bytes < age_s * FAST_BYTES_S

    def cancel(self) -> None:
        """Abort the reading, and free the memory at once."""
        self._is_cancelled = True
        self.release()
        self._scope.cancel()

    def release(self) -> None:
        """Free the memory. May be called twice."""
        self._room.size_bytes -= self.size_bytes
        self.size_bytes = 0
