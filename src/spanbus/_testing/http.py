"""OTLP/HTTP for tests, on a real socket."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Self

from spanbus._testing.bodies import http_reply
from spanbus._testing.exchange import Answer, Received
from spanbus._testing.records import Records


class Receiver(Records):
    """OTLP/HTTP on a loopback port, in its own threads. Use it as a context manager.

    ``listening=False`` keeps the port closed, so that connections are refused, until :meth:`up`. ``tls`` serves https.
    """

    def __init__(self, *, listening: bool = True, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._tls = tls
        self._start_listening = listening
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._port = 0
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self.connections_seen = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """URL for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """Environment variable that makes an exporter send here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    def __enter__(self) -> Self:
        self._bind()
        if self._start_listening:
            self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self.down()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _bind(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = int(listener.getsockname()[1])
        self._listener = listener

    def up(self) -> None:
        """Accept connections."""
        if self._listener is None:
            self._bind()
        listener = self._listener
        if listener is None or self._acceptor is not None:
            return
        listener.listen(128)
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener,), name="receiver-accept", daemon=True
        )
        self._acceptor.start()

    def down(self) -> None:
        """Refuse connections and reset the open ones; the port stays reserved."""
        listener, acceptor = self._listener, self._acceptor
        if listener is not None and acceptor is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            listener.close()
            self._listener = self._acceptor = None
        with self._changed:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            _reset_when_closed(connection)
        for thread in threads:
            thread.join(5)
        if acceptor is not None and not self._closing.is_set():
            self._bind()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="receiver-connection", daemon=True
            )
            with self._changed:
                self.connections_seen += 1
                self._connections.add(connection)
                self._threads.add(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(plain, server_side=True)
                with self._changed:
                    self._connections.discard(plain)
                    self._connections.add(connection)
            while self._one(connection):
                pass
        except (OSError, ValueError):
            pass  # the client disconnected, or the receiver went down
        finally:
            with self._changed:
                self._connections.discard(plain)
                self._connections.discard(connection)
                self._threads.discard(threading.current_thread())
            with suppress(OSError):
                connection.close()
            plain.close()

    def _one(self, connection: socket.socket) -> bool:
        with self._changed:
            deaf = self._standing.how == "deaf" and not self._next
        if deaf:
            self._wait_for_the_end(connection)
            return False
        head = _read_until(connection, b"\r\n\r\n")
        if head is None:
            return False
        lines, rest = head[0].decode("latin-1").split("\r\n"), head[1]
        _method, path, _version = lines[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        sent = _read_body(connection, headers, rest)
        body = _decompressed(sent, headers.get("content-encoding", "identity"))
        answer = self._choose()
        if answer.largest_bytes is not None and len(body) > answer.largest_bytes:
            answer = Answer(413, "too large")
        received = Received(
            path, headers, sent, body, answer.status if answer.how == "reply" else 0, time.time_ns()
        )
        if received.taken and not received.readable():
            answer = Answer(400, "the body is not the OTLP request that belongs to the path")
            received = replace(received, status=400)
        if answer.delay_s and self._closing.wait(answer.delay_s):
            return False
        if answer.how == "hang":
            self._note(received)
            self._wait_for_the_end(connection)
            return False
        if answer.how == "reset":
            self._note(received)
            _abort(connection)
            return False
        reply = http_reply(received.signal, answer)
        if answer.how == "half":
            self._note(received)
            connection.sendall(reply[: max(1, len(reply) // 2)])
            _abort(connection)
            return False
        self._note(received)
        connection.sendall(reply)
        return headers.get("connection", "").lower() != "close"

    def _wait_for_the_end(self, connection: socket.socket) -> None:
        """Wait without reading until the client or the receiver ends the connection."""
        connection.settimeout(0.05)
        while not self._closing.is_set():
            try:
                if connection.fileno() < 0:
                    return
                if isinstance(connection, ssl.SSLSocket):
                    connection.recv(1)
                    continue
                if not connection.recv(1, socket.MSG_PEEK):
                    return
                if self._closing.wait(0.05):
                    return
            except TimeoutError:
                continue


def _abort(connection: socket.socket) -> None:
    """Reset a connection instead of closing it regularly."""
    _reset_when_closed(connection)
    with suppress(OSError):
        connection.close()


def _reset_when_closed(connection: socket.socket) -> None:
    """Wake the reader, and make the close by the serving thread a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RD)


def _read_until(connection: socket.socket, mark: bytes) -> tuple[bytes, bytes] | None:
    held = b""
    while mark not in held:
        piece = connection.recv(65536)
        if not piece:
            return None
        held += piece
    head, _, rest = held.partition(mark)
    return head, rest


def _read_body(connection: socket.socket, headers: Mapping[str, str], held: bytes) -> bytes:
    length = int(headers.get("content-length", "0"))
    pieces, have = [held], len(held)
    while have < length:
        piece = connection.recv(min(1 << 20, length - have))
        if not piece:
            raise ConnectionResetError
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)


def _decompressed(sent: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(sent)
    return zlib.decompress(sent) if encoding == "deflate" else sent
