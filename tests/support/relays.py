"""Relays that count the failures in metrics requests: one before the collector, one between its queue and its counters."""

from __future__ import annotations

import gzip
import http.client
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

FAILURES = "spanbus.phase.failures"
LARGEST = 64 << 20
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def failures_of_runs(body: bytes) -> int:
    """Return the number of failed phases of one-shot processes in a metrics request."""
    found = 0
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        said = {pair.key: pair.value.string_value for pair in group.resource.attributes}
        if said.get("spanbus.lifetime") == "run":
            found += sum(
                int(point.as_int or point.as_double)
                for scope in group.scope_metrics
                for metric in scope.metrics
                if metric.name == FAILURES
                for point in metric.sum.data_points
            )
    return found


class ClientRelay:
    """A relay before the OTLP/HTTP port of the collector. It closes the connection if the collector is down."""

    def __init__(self, port: int) -> None:
        self.unanswered = 0
        """Failures in requests that reached the collector but got no answer: it is unknown whether they were accepted."""
        relay = self
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                plain = (
                    gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
                )
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                self.close_connection = True
                try:
                    connection.connect()
                except OSError:
                    return
                try:
                    connection.request("POST", self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    said = answer.read()
                except (OSError, http.client.HTTPException):
                    if self.path == "/v1/metrics":
                        with lock:
                            relay.unanswered += failures_of_runs(plain)
                    return
                finally:
                    connection.close()
                with suppress(OSError):
                    self.send_response_only(answer.status)
                    for name in ("Content-Type", "Retry-After"):
                        if answer.headers[name]:
                            self.send_header(name, answer.headers[name])
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                    self.wfile.write(said)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class CountingRelay:
    """A relay between the collector's queue and its second receiver, which sees each batch."""

    def __init__(self) -> None:
        self.target = ""
        self.batches: list[int] = []
        """Failures in each batch, in order of arrival."""
        self.most_at_once = 0
        self.free = threading.Event()
        """While cleared, the answer to a batch with failures is held back: they are counted, but the sender does not know."""
        self.free.set()
        self.held = threading.Event()
        self._at_once = 0
        self._lock = threading.Condition()
        sizes = [
            ("grpc.max_receive_message_length", LARGEST),
            ("grpc.max_send_message_length", LARGEST),
        ]
        self._sizes = sizes
        self._server = grpc.server(ThreadPoolExecutor(4), options=sizes)
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        service, method = EXPORT.strip("/").split("/")
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {method: handler})]
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        failures = failures_of_runs(body)
        with self._lock:
            self.batches.append(failures)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with grpc.insecure_channel(self.target, options=self._sizes) as channel:
                export = cast("Callable[..., bytes]", channel.unary_unary(EXPORT))
                said = export(body, timeout=60)
                if failures and not self.free.is_set():
                    self.held.set()
                    self.free.wait(120)
                return said
        except grpc.RpcError as error:
            context.abort(cast("grpc.Call", error).code(), "the collector did not answer")
            raise
        finally:
            with self._lock:
                self._at_once -= 1
                self._lock.notify_all()

    def wait(self) -> int:
        """Wait until no batch is in flight, after the collector died; return the number of batches so far."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._at_once == 0, 60)
            return len(self.batches)

    def close(self) -> None:
        self.free.set()
        self._server.stop(0).wait(10)
