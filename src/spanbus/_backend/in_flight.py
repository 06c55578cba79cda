"""Bodies of requests that are being received or wait: bounded together, and a client that dawdles makes place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

import anyio
from starlette.requests import Request

MOST_BYTES: Final = 40 << 20
PATIENCE_S: Final = 2.0
"""Seconds in which a body may be slow although there is no room for others."""
FAST_BYTES_S: Final = 1 << 20
"""Rate of a client that does not dawdle."""


class Full(Exception):
    """There is no room for more now."""


class TooSlow(Exception):
    """The body took too long, or others needed its room."""


class BodyTooLarge(ValueError):
    """The body has more bytes than are taken."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


class InFlight:
    """Room for the bodies of all clients together. Not thread-safe: the loop's alone."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes = most_bytes
        self.clock = clock
        self.size_bytes = 0
        self._receiving: dict[Body, None] = {}
        """The oldest first."""

    def body(self) -> Body:
        """Room for one body: a context that gives it back at its end."""
        return Body(self)

    def began(self, body: Body) -> None:
        self._receiving[body] = None

    def ended(self, body: Body) -> None:
        self._receiving.pop(body, None)

    def take(self, size_bytes: int) -> None:
        """Count bytes; :class:`Full` where those who come to the point leave no room for them."""
        if self.size_bytes + size_bytes > self._most_bytes:
            self._send_dawdlers_away(self.size_bytes + size_bytes - self._most_bytes)
        if self.size_bytes + size_bytes > self._most_bytes:
            raise Full
        self.size_bytes += size_bytes

    def _send_dawdlers_away(self, size_bytes: int) -> None:
        for body in [each for each in self._receiving if each.dawdles()]:
            size_bytes -= body.size_bytes
            body.send_away()
            if size_bytes <= 0:
                return


class Body:
    """One body and the room that it takes."""

    def __init__(self, room: InFlight) -> None:
        self._room = room
        self.size_bytes = 0
        self._began_s = room.clock()
        self._scope = anyio.CancelScope()
        self._is_sent_away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.give_back()

    async def read(self, request: Request, limit_bytes: int, time_s: float) -> bytes:
        """The body of ``request``. Raises :class:`BodyTooLarge`, :class:`TooSlow`, :class:`Full`, and ClientDisconnect."""
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
                    if not self._is_sent_away:
                        self._room.take(len(chunk))
                        self.size_bytes += len(chunk)
                    received += chunk
                return bytes(received)
        finally:
            self._room.ended(self)
        raise TooSlow

    def dawdles(self) -> bool:
        """Whether it was not received at the rate of a client that does not dawdle."""
        age_s = self._room.clock() - self._began_s
        return age_s > PATIENCE_S and self.size_bytes < age_s * FAST_BYTES_S

    def send_away(self) -> None:
        """End the reading; its room is free at once."""
        self._is_sent_away = True
        self.give_back()
        self._scope.cancel()

    def give_back(self) -> None:
        """Free its room; again does nothing."""
        self._room.size_bytes -= self.size_bytes
        self.size_bytes = 0
