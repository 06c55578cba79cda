"""Server of the embedded backend: bind, listen, publish the address, stop without loss."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spanbus._backend.address import Address, ProcessId, read_address, remove_address, write_address
from spanbus._backend.app import Backend, BackendOptions
from spanbus._backend.archive import Archive
from spanbus._backend.connections import HttpConnection, WebSocketConnection
from spanbus._backend.receiver import Sink
from spanbus._host import is_loopback
from spanbus.errors import BackendError

logger = logging.getLogger(__name__)

DEFAULT_PORT = 4318
SHORTEST_TOKEN = 8


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of the server. ``port`` 0 takes a free one; ``connections`` is the number of concurrent clients."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    listen_anywhere: bool = False
    """Set by ``--listen``; without it only the loopback is allowed."""
    allow_hosts: tuple[str, ...] = ()
    token: str | None = None
    token_everywhere: bool = False
    jaeger_url: str | None = None
    connections: int = 2_000
    stop_within_s: float = 5.0


def _allow_descriptors(wanted: int) -> None:
    """Raise the limit of open files to ``wanted``, as far as the system permits."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _return_large_blocks() -> None:
    """Make glibc return freed large blocks to the system; by default it starts to keep blocks up to 32 MiB, in one heap per
    thread.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


_M_MMAP_THRESHOLD = -3


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; raises :class:`~spanbus.errors.BackendError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError, TypeError, ValueError) as error:  # also an invalid host
        listener.close()
        reason = error.strerror or error if isinstance(error, OSError) else error
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = (
            "; is another backend or collector running? --port N takes another, --port 0 a free one"
            if taken
            else ""
        )
        raise BackendError(f"cannot listen on {host} port {port}: {reason}{hint}") from None
    return listener


async def serve(
    store: Archive,
    options: ServeOptions,
    *,
    started: Callable[[Address], None],
    sink: Sink | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. ``started`` is called with the address once clients are answered. ``sink``, if given,
    takes the received requests instead of the store.

    Acknowledged requests are in the store. Requests under way at the signal are finished first, for at most ``stop_within_s``.
    Raises :class:`~spanbus.errors.BackendError` when it cannot listen.
    """
    if not is_loopback(options.host) and not options.listen_anywhere:
        raise BackendError(
            f"{options.host} is not the loopback; --listen {options.host} serves it to other machines, with the token"
        )
    if options.token is not None and not (
        options.token.isascii() and options.token.isprintable() and " " not in options.token
    ):
        raise BackendError(
            "the token has other characters than letters, digits and marks of ASCII, which no header carries as they are"
        )
    if options.token is not None and len(options.token) < SHORTEST_TOKEN:
        raise BackendError(
            f"the token has {len(options.token)} characters; it needs at least {SHORTEST_TOKEN}, or leave it out and one is made"
        )
    running = read_address(options.state_dir)
    if running is not None:
        raise BackendError(
            f"a backend for this state directory runs already (process {running.process.pid}): {running.url}"
        )
    _allow_descriptors(options.connections + 500)
    _return_large_blocks()
    listener = bind("127.0.0.1" if options.host == "localhost" else options.host, options.port)
    port = int(listener.getsockname()[1])
    token = options.token or secrets.token_urlsafe(24)
    loopback = is_loopback(options.host)
    backend = Backend(
        store,
        BackendOptions(
            token=token,
            loopback_only=loopback,
            hosts=options.allow_hosts if loopback else (*options.allow_hosts, socket.gethostname()),
            token_everywhere=options.token_everywhere,
            cookie=f"spanbus_{port}",
            jaeger_url=options.jaeger_url,
            state_dir=options.state_dir,
        ),
        sink,
    )
    shown = (
        options.host if loopback or options.host not in ("0.0.0.0", "::") else socket.gethostname()
    )
    bound = str(listener.getsockname()[0])  # numeric, because read_address rejects names
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound, bound)
    address = Address(f"http://{_bracketed(reach)}:{port}", token, ProcessId.own())
    config = uvicorn.Config(
        _answer_503_at_shutdown(backend.app),
        http=HttpConnection,
        ws=WebSocketConnection,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws_per_message_deflate=False,
        ws_max_size=65_536,
        limit_concurrency=options.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(options.stop_within_s),
        h11_max_incomplete_event_size=32_768,
        backlog=512,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_about_the_server)
    server = _Server(
        config,
        lambda: (
            _publish_address(options.state_dir, address),
            started(replace_host(address, shown)),
        ),
    )
    try:
        with suppress(KeyboardInterrupt), _survive_sigterm():
            await server.serve(sockets=[listener])
    finally:
        remove_address(options.state_dir, token)
        listener.close()


_CAUSED_BY_CLIENTS = (
    "Invalid HTTP request received",
    "ASGI callable returned without completing handshake",
    "Exceeded concurrency limit",
    "Unsupported upgrade request",
    "Invalid UTF-8 sequence received from client",
)


def _is_about_the_server(record: logging.LogRecord) -> bool:
    """Log filter without the messages that any client can cause, as often as it likes."""
    return not record.getMessage().startswith(_CAUSED_BY_CLIENTS)


def _publish_address(state_dir: Path, address: Address) -> None:
    try:
        write_address(state_dir, address)
    except OSError as error:
        logger.warning(
            "spanbus: other programs will not find this backend: %s: %s",
            state_dir,
            error.strerror or error,
        )


def _answer_503_at_shutdown(app: ASGIApp) -> ASGIApp:
    """Answer requests that are cancelled at the end of the shutdown with 503; uvicorn would log a traceback for each."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def tracking_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, tracking_send)
        except asyncio.CancelledError:
            if scope["type"] != "http" or begun:
                raise
            await PlainTextResponse(
                "the backend stops\n", 503, {"Retry-After": "1", "Connection": "close"}
            )(scope, receive, send)

    return answering


@contextmanager
def _survive_sigterm() -> Generator[None]:
    """Ignore the SIGTERM that uvicorn raises again after its shutdown, so that the address is removed and the store closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _nothing(number: int, frame: FrameType | None) -> None:
    del number, frame


class _Server(uvicorn.Server):
    """Server that calls ``ready`` once clients are answered."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


def replace_host(address: Address, host: str) -> Address:
    """The address with another host, as other machines reach it."""
    port = address.url.rpartition(":")[2]
    return address._replace(url=f"http://{_bracketed(host)}:{port}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
