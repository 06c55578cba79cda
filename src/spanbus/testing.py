"""A collector for tests: real sockets, decoded requests, every way to misbehave.

```python
with Receiver() as receiver:
    receiver.answer_next(Answer(503, retry_after_s=1), Answer.reset())      # the next two requests; then as before
    ...                                                                     # send to receiver.url
    assert receiver.wait_for(spans=10)
    assert [span.name for span in receiver.spans()] == [...]
```
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast

from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

if TYPE_CHECKING:
    import grpc

PROTOBUF = "application/x-protobuf"

_SIGNAL_OF_PATH = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}
_GRPC_PREFIX = "/opentelemetry.proto.collector."
_SIGNAL_OF_METHOD = {
    f"{_GRPC_PREFIX}trace.v1.TraceService/Export": "traces",
    f"{_GRPC_PREFIX}metrics.v1.MetricsService/Export": "metrics",
    f"{_GRPC_PREFIX}logs.v1.LogsService/Export": "logs",
}
_METRIC_KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver does with a request. 200 takes what it holds; the other codes take nothing.

    ``how``: ``reply`` answers; ``hang`` reads the request and never answers; ``reset`` reads it and resets the connection;
    ``half`` sends half of the answer and resets the connection; ``deaf`` accepts the connection and never reads.
    """

    status: int = 200
    message: str = ""
    rejected: int = 0
    """Records said to be rejected in an otherwise good answer (a partial success)."""
    retry_after_s: float | str | None = None
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    """Instead of the body that belongs to the answer."""
    how: Literal["reply", "hang", "reset", "half", "deaf"] = "reply"
    largest_bytes: int | None = None
    """Bodies above it (decompressed) get a 413 instead."""

    @classmethod
    def hang(cls) -> Answer:
        return cls(how="hang")

    @classmethod
    def reset(cls) -> Answer:
        return cls(how="reset")


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came. ``status`` is what it was answered with, 0 when it got no answer."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    sent: bytes
    """The body as sent."""
    body: bytes
    """The body, decompressed."""
    status: int
    at_ns: int

    @property
    def signal(self) -> str:
        """``traces``, ``metrics`` or ``logs``, empty for any other path."""
        found = _SIGNAL_OF_METHOD.get(self.path)
        if found is None:
            found = next((signal for path, signal in _SIGNAL_OF_PATH.items() if self.path.split("?")[0].endswith(path)), "")
        return found

    @property
    def taken(self) -> bool:
        return self.status == 200

    def readable(self) -> bool:
        """Whether the body is what the path says; anything is for a path that is not OTLP's."""
        try:
            for decode in (self.spans, self.metrics, self.logs):
                decode()
        except DecodeError:
            return False
        return True

    def spans(self) -> list[Span]:
        """Decoded; empty for other signals."""
        return [span for _, span in self.spans_with_resource()]

    def spans_with_resource(self) -> list[tuple[Resource, Span]]:
        if self.signal != "traces":
            return []
        request = ExportTraceServiceRequest.FromString(self.body)
        return [(group.resource, span) for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]

    def metrics(self) -> list[Metric]:
        """Decoded; empty for other signals."""
        if self.signal != "metrics":
            return []
        request = ExportMetricsServiceRequest.FromString(self.body)
        return [metric for group in request.resource_metrics for scope in group.scope_metrics for metric in scope.metrics]

    def points(self) -> int:
        """How many metric points it holds."""
        return sum(len(getattr(metric, kind).data_points) for metric in self.metrics() for kind in _METRIC_KINDS if metric.HasField(kind))

    def logs(self) -> list[LogRecord]:
        """Decoded; empty for other signals."""
        if self.signal != "logs":
            return []
        request = ExportLogsServiceRequest.FromString(self.body)
        return [record for group in request.resource_logs for scope in group.scope_logs for record in scope.log_records]


class _Records:
    """What came in, and what is to be answered: the half that both receivers share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._spans_taken = 0
        self._standing = Answer()
        self._next: deque[Answer] = deque()
        self._closing = threading.Event()

    def answer(self, answer: Answer) -> None:
        """Answer like this from now on."""
        with self._changed:
            self._standing = answer

    def answer_next(self, *answers: Answer) -> None:
        """Answer the next requests like this, each once."""
        with self._changed:
            self._next.extend(answers)

    @property
    def requests(self) -> list[Received]:
        """Everything that came, in the order of arrival, answered or not."""
        with self._changed:
            return list(self._received)

    def taken(self, signal: str | None = None) -> list[Received]:
        """The requests that were answered with 200."""
        return [request for request in self.requests if request.taken and signal in (None, request.signal)]

    def spans(self) -> list[Span]:
        """The spans of all requests that were taken."""
        return [span for request in self.taken("traces") for span in request.spans()]

    def metrics(self) -> list[Metric]:
        """The metrics of all requests that were taken."""
        return [metric for request in self.taken("metrics") for metric in request.metrics()]

    def logs(self) -> list[LogRecord]:
        """The log records of all requests that were taken."""
        return [record for request in self.taken("logs") for record in request.logs()]

    def sum_of(self, metric_name: str) -> float:
        """All delta points of one counter added up."""
        return sum(
            point.as_int if point.HasField("as_int") else point.as_double
            for metric in self.metrics() if metric.name == metric_name for point in metric.sum.data_points
        )

    def clear(self) -> None:
        """Forget what came."""
        with self._changed:
            self._received.clear()
            self._spans_taken = 0

    def wait_until(self, condition: Callable[[Self], bool], timeout_s: float = 10.0) -> bool:
        """Wait until ``condition(receiver)`` holds; it is looked at after every request. False after ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout_s)

    def wait_for(self, *, spans: int | None = None, requests: int | None = None, timeout_s: float = 10.0) -> bool:
        """Wait until at least so many spans were taken, so many requests came. False after ``timeout_s``."""

        def enough(records: _Records) -> bool:
            return (spans is None or records._spans_taken >= spans) and (requests is None or len(records._received) >= requests)

        return self.wait_until(enough, timeout_s)

    def _choose(self) -> Answer:
        with self._changed:
            return self._next.popleft() if self._next else self._standing

    def _note(self, received: Received) -> None:
        spans = len(received.spans()) if received.taken and received.signal == "traces" else 0
        with self._changed:
            self._received.append(received)
            self._spans_taken += spans
            self._changed.notify_all()


class Receiver(_Records):
    """OTLP/HTTP on a loopback port, in threads of its own. Use it as a context manager.

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
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The one environment variable that makes an exporter send here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    def __enter__(self) -> Self:
        self._bind()
        if self._start_listening:
            self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
        """Take connections."""
        if self._listener is None:
            self._bind()
        listener = self._listener
        if listener is None or self._acceptor is not None:
            return
        listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="receiver-accept", daemon=True)
        self._acceptor.start()

    def down(self) -> None:
        """Refuse connections, reset the open ones. The port stays ours."""
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
            thread = threading.Thread(target=self._serve, args=(connection,), name="receiver-connection", daemon=True)
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
            pass  # the client went away, or the receiver went down
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
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        sent = _read_body(connection, headers, rest)
        body = _decompressed(sent, headers.get("content-encoding", "identity"))
        answer = self._choose()
        if answer.largest_bytes is not None and len(body) > answer.largest_bytes:
            answer = Answer(413, "too large")
        received = Received(path, headers, sent, body, answer.status if answer.how == "reply" else 0, time.time_ns())
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
        reply = _reply(received.signal, answer)
        if answer.how == "half":
            self._note(received)
            connection.sendall(reply[: max(1, len(reply) // 2)])
            _abort(connection)
            return False
        self._note(received)
        connection.sendall(reply)
        return headers.get("connection", "").lower() != "close"

    def _wait_for_the_end(self, connection: socket.socket) -> None:
        """Until the client or the receiver ends the connection; what the client sends is not read."""
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


class GrpcReceiver(_Records):
    """OTLP/gRPC on a loopback port; needs ``grpcio``. An answer's ``status`` is a gRPC code here, where 200 means OK."""

    def __init__(self, *, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        super().__init__()
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self._port = port

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"{'http' if self._credentials is None else 'https'}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        import grpc

        records = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
                path = str(handler_call_details.method)

                def export(body: bytes, context: grpc.ServicerContext) -> bytes:
                    return records._export(path, body, context)

                return grpc.unary_unary_rpc_method_handler(export)

        server = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()])
        if self._credentials is None:
            self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        else:
            self._port = server.add_secure_port(f"127.0.0.1:{self._port}", self._credentials)
        server.start()
        self._server = server
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.stop(None).wait(5)

    def _export(self, path: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        import grpc

        answer = self._choose()
        headers = {str(key).lower(): value.decode("latin-1") if isinstance(value, bytes) else str(value) for key, value in context.invocation_metadata()}
        status = answer.status if answer.how == "reply" else 0
        received = Received(path, headers, body, body, status, time.time_ns())
        if answer.delay_s:
            self._closing.wait(answer.delay_s)
        self._note(received)
        if answer.how != "reply":
            while context.is_active() and not self._closing.wait(0.02):
                pass
            context.abort(grpc.StatusCode.CANCELLED, "no answer")
        if answer.status != 200:
            code = next(code for code in grpc.StatusCode if cast("tuple[int, str]", code.value)[0] == answer.status)
            if answer.retry_after_s is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", _retry_info(answer, answer.status)),))
            context.abort(code, answer.message)
        return _success(received.signal, answer)


@contextmanager
def black_hole() -> Generator[str]:
    """The URL of a port whose connection attempts get no reply at all: its backlog is full and is never emptied."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers: list[socket.socket] = []
        try:
            for _ in range(8):
                filler = socket.socket()
                filler.settimeout(0.2)
                fillers.append(filler)
                try:
                    filler.connect(address)
                except TimeoutError:
                    break
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()


def _abort(connection: socket.socket) -> None:
    """Reset instead of a decent end."""
    _reset_when_closed(connection)
    with suppress(OSError):
        connection.close()


def _reset_when_closed(connection: socket.socket) -> None:
    """Wake whoever reads; the thread that serves the connection closes it."""
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


def _success(signal: str, answer: Answer) -> bytes:
    message: Message
    if signal == "metrics":
        metrics = ExportMetricsServiceResponse()
        metrics.partial_success.rejected_data_points = answer.rejected
        metrics.partial_success.error_message = answer.message
        message = metrics
    elif signal == "logs":
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = answer.rejected
        logs.partial_success.error_message = answer.message
        message = logs
    else:
        traces = ExportTraceServiceResponse()
        traces.partial_success.rejected_spans = answer.rejected
        traces.partial_success.error_message = answer.message
        message = traces
    return message.SerializeToString() if answer.rejected or answer.message else b""


def _retry_info(answer: Answer, code: int) -> bytes:
    from google.rpc.error_details_pb2 import RetryInfo

    seconds = float(answer.retry_after_s or 0)
    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = int(seconds), int(seconds % 1 * 1e9)
    status = Status(code=code, message=answer.message)
    status.details.add().Pack(info)
    return status.SerializeToString()


def _reply(signal: str, answer: Answer) -> bytes:
    body = answer.body
    if body is None:
        body = _success(signal, answer) if answer.status == 200 else Status(message=answer.message).SerializeToString()
    headers = {"Content-Type": PROTOBUF, "Content-Length": str(len(body)), **answer.headers}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} {'OK' if answer.status == 200 else 'NO'}\r\n{head}\r\n".encode("latin-1") + body
