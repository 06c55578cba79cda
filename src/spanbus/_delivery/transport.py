"""OTLP over HTTP: one request, one outcome.

Retries follow https://opentelemetry.io/docs/specs/otlp/#otlphttp-response, with two exceptions: 401 and 403 are retried, and
other 5xx answers are retried a few times before they count as a refusal. urllib3 is imported by the first request, in the
sending thread.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote, urlsplit

from spanbus._delivery.answers import error_message, partial_success, retry_after_s
from spanbus._delivery.endpoints import Endpoint
from spanbus._delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge
from spanbus._version import __version__
from spanbus.errors import SettingsError

if TYPE_CHECKING:
    from urllib3 import PoolManager
    from urllib3.connection import HTTPConnection
    from urllib3.response import BaseHTTPResponse

USER_AGENT: Final = f"spanbus/{__version__} (OTLP exporter, Python)"
ATTEMPTS_AT_SERVER_ERRORS: Final = 5

_GZIP_LEVEL = 1  # level 9 costs 17 times the CPU for 8 % fewer bytes
_LARGEST_ANSWER = 64 * 1024
_RETRYABLE = frozenset((401, 403, 408, 429, 502, 503, 504))
"""Retryable by OTLP, plus 401 and 403: a wrong key can be corrected, so records wait for that."""


class Transport(Protocol):
    """Sends OTLP requests to one endpoint."""

    def warm_up(self) -> None:
        """Do the imports that the first attempt would do."""
        ...

    def send(self, body: bytes, timeout_s: float) -> Outcome:
        """Make one attempt; raises only :class:`~spanbus.errors.SettingsError`, for certificates that cannot be used."""
        ...

    def interrupt(self) -> None:
        """Abort the attempt under way, if possible, from another thread. Nothing is sent afterwards."""
        ...

    def close(self) -> None: ...


class HttpTransport:
    """Transport with a persistent connection. ``env`` holds the proxy variables. One thread sends, another may interrupt.

    ``heard`` is called with each answer: status, headers, beginning of the body.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        env: Mapping[str, str],
        *,
        heard: Callable[[int, Mapping[str, str], bytes], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._heard = heard
        self._proxy = proxy_for(endpoint.url, env)
        self._pool: PoolManager | None = None
        self._interrupted = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: set[HTTPConnection] = set()
        headers = {
            "user-agent": USER_AGENT,
            "content-type": "application/x-protobuf",
            **dict(endpoint.headers),
        }
        if endpoint.compression != "none":
            headers["content-encoding"] = endpoint.compression
        self._headers = headers

    def warm_up(self) -> None:
        "localhost".encode("idna")  # imports the codec that the first host lookup needs
        self._connected()

    def send(self, body: bytes, timeout_s: float) -> Outcome:
        import urllib3

        pool = self._connected()
        sent = self._compressed(body)
        deadline = time.monotonic() + timeout_s
        try:
            response = pool.request(
                "POST",
                self._endpoint.url,
                body=sent,
                headers=self._headers,
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return Retry(reason_of(error))
        try:
            answer = _read(response, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not 200 <= response.status < 300:
                answer = b""  # the status is enough
            else:
                return Retry(reason_of(error))
        if self._heard is not None:
            self._heard(response.status, response.headers, answer)
        return self._outcome(response, answer, body)

    def interrupt(self) -> None:
        self._interrupted = True
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            sock = connection.sock
            if isinstance(sock, socket.socket):
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # wakes the waiting thread

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.clear()

    def _connected(self) -> PoolManager:
        if self._pool is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()  # the parent may have held it during the fork
            self._open = set()
            self._pool = self._new_pool()
        return self._pool

    def _new_pool(self) -> PoolManager:
        import urllib3
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

        transport = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                transport._opened(self)
                super().connect()

            def close(self) -> None:
                transport._closed(self)
                super().close()

        class Secure(Plain, HTTPSConnection):
            """TLS variant: ``super()`` in :class:`Plain` is HTTPSConnection here."""

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain  # pyright: ignore[reportAssignmentType]

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure  # pyright: ignore[reportAssignmentType]

        context = self._tls()
        if self._proxy is None:
            pool = urllib3.PoolManager(num_pools=2, maxsize=1, ssl_context=context)
        else:
            parts = urlsplit(self._proxy)
            proxy_headers = None
            if parts.username is not None:
                proxy_headers = urllib3.make_headers(
                    proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                )
            pool = urllib3.ProxyManager(
                self._proxy,
                num_pools=2,
                maxsize=1,
                proxy_headers=proxy_headers,
                ssl_context=context,
            )
        classes: dict[str, type[HTTPConnectionPool | HTTPSConnectionPool]] = {
            "http": PlainPool,
            "https": SecurePool,
        }
        pool.pool_classes_by_scheme = classes  # pyright: ignore[reportAttributeAccessIssue]
        return pool

    def _opened(self, connection: HTTPConnection) -> None:
        if self._interrupted:
            raise ConnectionAbortedError("interrupted")
        with self._lock:
            self._open.add(connection)

    def _closed(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.discard(connection)

    def _tls(self) -> ssl.SSLContext | None:
        endpoint = self._endpoint
        if not endpoint.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cafile=endpoint.ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_CERTIFICATE: {endpoint.ca} cannot be used ({reason_of(error)}); name a PEM file with the CA"
            ) from error
        if endpoint.client_certificate is not None:
            try:
                context.load_cert_chain(endpoint.client_certificate, endpoint.client_key)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: {endpoint.client_certificate} with key {endpoint.client_key} "
                    f"cannot be used ({reason_of(error)}); name PEM files that belong together"
                ) from error
        return context

    def _compressed(self, body: bytes) -> bytes:
        match self._endpoint.compression:
            case "gzip":
                return zlib.compress(body, _GZIP_LEVEL, wbits=31)
            case "deflate":
                return zlib.compress(body, _GZIP_LEVEL)
            case "none":
                return body

    def _outcome(self, response: BaseHTTPResponse, answer: bytes, body: bytes) -> Outcome:
        status = response.status
        content_type = response.headers.get("Content-Type", "application/x-protobuf").lower()
        if 200 <= status < 300:
            if answer and "html" in content_type:
                return Retry(f"HTTP {status} with a web page; no OTLP receiver answers here")
            return Delivered(*partial_success(answer, content_type)) if answer else Delivered()
        message = error_message(answer, content_type)
        reason = f"HTTP {status}{f': {message}' if message else ''}"
        if status == 413:
            return TooLarge(reason, body)
        after_s = retry_after_s(response.headers.get("Retry-After"), time.time_ns() / 1e9)
        if status in _RETRYABLE:
            return Retry(reason, after_s, heard=True)
        if status >= 500:
            return Retry(reason, after_s, ATTEMPTS_AT_SERVER_ERRORS, body, heard=True)
        if 300 <= status < 400:
            reason += f", a redirect to {response.headers.get('Location', 'nowhere').split('?')[0]!r}, which is not followed"
        return Refused(reason, body)


def proxy_for(url: str, env: Mapping[str, str]) -> str | None:
    """Proxy for a URL by ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (lower case first).

    Upper-case ``HTTP_PROXY`` is ignored in a CGI program, where a client can set it (https://httpoxy.org).
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if _bypassed(host, parts.port, env.get("no_proxy") or env.get("NO_PROXY") or ""):
        return None
    names = [f"{parts.scheme}_proxy", f"{parts.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in env:
        names = [name for name in names if name != "HTTP_PROXY"]
    proxy = next((value for name in names if (value := env.get(name, "").strip())), None)
    if proxy is None:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme.lower() not in ("http", "https"):
        raise SettingsError(
            f"the proxy {proxy.split('://')[0]}://… for {url.split('?', maxsplit=1)[0]} cannot be used; set an http:// or https:// proxy, or list the host in NO_PROXY"
        )
    return proxy


def _bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in (one.strip().lower() for one in no_proxy.split(",")):
        if not entry:
            continue
        if entry == "*":
            return True
        if address is not None and "/" in entry:
            with suppress(ValueError):
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            continue
        name, colon, wanted_port = (
            entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        )
        if colon and wanted_port != str(port):
            continue
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if host == name or (address is None and name and host.endswith(f".{name}")):
            return True
    return False


def _read(response: BaseHTTPResponse, deadline: float) -> bytes:
    """Read at most 64 KiB of the answer; keep the connection only if it was read to its end."""
    pieces: list[bytes] = []
    size = 0
    while size < _LARGEST_ANSWER and time.monotonic() < deadline:
        piece = response.read1(_LARGEST_ANSWER - size)
        if not piece:
            response.release_conn()
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    response.close()
    if size < _LARGEST_ANSWER:
        raise TimeoutError("timed out")
    return b"".join(pieces)


def reason_of(error: BaseException) -> str:
    """Short text of the innermost cause; urllib3 wraps system errors in objects that print their addresses."""
    innermost: BaseException = error
    while True:
        inside = (
            innermost.__cause__
            or next(
                (one for one in reversed(innermost.args) if isinstance(one, BaseException)), None
            )
            or getattr(innermost, "reason", None)
        )
        if not isinstance(inside, BaseException) or inside is innermost:
            break
        innermost = inside
    if isinstance(innermost, TimeoutError) or "Timeout" in type(innermost).__name__:
        return "no answer in time"
    if isinstance(innermost, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {innermost.verify_message}"
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    return " ".join(str(innermost).split())[:200] or type(innermost).__name__
