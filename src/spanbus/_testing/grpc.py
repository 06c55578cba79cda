"""OTLP/gRPC for tests, on a real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    import grpc

from spanbus._testing.bodies import retry_info, success
from spanbus._testing.exchange import Received
from spanbus._testing.records import Records


class GrpcReceiver(Records):
    """OTLP/gRPC on a loopback port; needs ``grpcio``. The ``status`` of an answer is a gRPC code here, and 200 means OK."""

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
        """URL for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"{'http' if self._credentials is None else 'https'}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        import grpc

        records = self

        class Handler(grpc.GenericRpcHandler):
            def service(
                self, handler_call_details: grpc.HandlerCallDetails
            ) -> grpc.RpcMethodHandler[bytes, bytes]:
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

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.stop(None).wait(5)

    def _export(self, path: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        import grpc

        answer = self._choose()
        headers = {
            str(key).lower(): value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for key, value in context.invocation_metadata()
        }
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
            code = next(
                code
                for code in grpc.StatusCode
                if cast("tuple[int, str]", code.value)[0] == answer.status
            )
            if answer.retry_after_s is not None:
                context.set_trailing_metadata(
                    (("grpc-status-details-bin", retry_info(answer, answer.status)),)
                )
            context.abort(code, answer.message)
        return success(received.signal, answer)
