"""A loopback server with scripted raw replies, sent at once or piece by piece."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

Reply = bytes | Callable[[], Iterable[bytes]]


def http(
    body: bytes,
    kind: str = "application/json",
    status: str = "200 OK",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return a complete HTTP response."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def html(status: str = "200 OK") -> bytes:
    return http(
        b"<!doctype html><title>Welcome</title>",
        "text/html; charset=utf-8",
        status,
        {"Server": "nginx"},
    )


class ScriptedServer:
    """A context manager that answers with ``replies`` by path prefix, longest first, and with ``otherwise`` to other paths."""

    def __init__(self, otherwise: Reply = b"", replies: Mapping[str, Reply] | None = None) -> None:
        self._otherwise = otherwise
        self._replies = dict(sorted((replies or {}).items(), key=lambda item: -len(item[0])))
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.asked: list[str] = []

    @property
    def closing(self) -> threading.Event:
        """Set when the test is over. A reply that sends slowly waits on it."""
        return self._closing

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(lambda connection=connection: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            head = connection.recv(65_536)
            words = head.split(b" ", 2)
            path = words[1].decode("latin-1") if len(words) > 2 else ""
            self.asked.append(path)
            reply = next(
                (reply for start, reply in self._replies.items() if path.startswith(start)),
                self._otherwise,
            )
            for piece in [reply] if isinstance(reply, bytes) else reply():
                if self._closing.is_set():
                    return
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):  # a close with unread bytes would reset the connection
                pass
