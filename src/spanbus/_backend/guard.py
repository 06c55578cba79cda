"""Access control: checks of Host, Origin and token before every request.

Any web page in a user's browser can make requests to the loopback. The check of Host stops a foreign name that points at
127.0.0.1 (DNS rebinding). The checks of Origin and Sec-Fetch-Site stop scripts of other sites. The token keeps out other people.
On the loopback, programs may send OTLP, scrape and query without the token, as with similar tools; the page and the live stream
always need it. On any other address everything needs it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

import anyio
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spanbus._backend.sessions import Guesses, Sessions
from spanbus._host import is_loopback

_OPEN_ON_LOOPBACK = ("/v1/traces", "/v1/metrics", "/v1/logs", "/metrics", "/health")
_OPEN_PREFIX_ON_LOOPBACK = "/api/"
_PAGES = ("/", "/login", "/page/")
_GUESS_PAUSE_S = 1.0
"""Seconds by which the answer to a guessing client is delayed."""
_GUESSES_AT_ONCE = 32
"""Limit of delayed answers; above it, tokens of guessing clients are rejected unchecked."""

SECURITY_HEADERS = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    # With no-referrer a browser sends the login form with "Origin: null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def _split_host(value: str) -> str | None:
    """Host of a ``Host`` header, without its port; None if it is malformed."""
    value = value.strip()
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        return host if bracket and (not rest or (rest[0] == ":" and rest[1:].isdigit())) else None
    host, colon, port = value.partition(":")
    if not host or (colon and not port.isdigit()):
        return None
    return host


class Guard:
    """ASGI middleware in front of the whole application.

    Host may be the loopback, one of ``hosts`` and, unless ``loopback_only``, any IP address, because a rebinding attack needs a
    name. ``token_everywhere`` requires the token on the loopback too.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        loopback_only: bool,
        hosts: Iterable[str] = (),
        token_everywhere: bool = False,
        cookie: str = "spanbus",
        sessions: Sessions | None = None,
        guesses: Guesses | None = None,
        pause: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self._app = app
        self._token = token
        self._loopback_only = loopback_only
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token_everywhere = token_everywhere or not loopback_only
        self._cookie = cookie
        self._sessions = sessions if sessions is not None else Sessions()
        self._guesses = guesses if guesses is not None else Guesses()
        self._pause = pause
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            if refusal.status_code == 401 and self.presented(scope) is not None:
                await self._slow(_client(scope))
            await refusal(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_guarded)

    async def _slow(self, client: str) -> None:
        """Delay the answer to a guessing client. A right token is never delayed, so that nobody can lock its owner out."""
        slow = self._guesses.wait_s(client) > 0
        self._guesses.wrong(client)
        if slow:
            self._waiting += 1
            try:
                await self._pause(_GUESS_PAUSE_S)
            finally:
                self._waiting -= 1

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path: str = scope["path"]
        hosts = headers.getlist("host")
        host = _split_host(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self._host_allowed(host):
            return _refusal_response(
                403, "this Host is not served here; --allow-host NAME adds one"
            )
        if not self._origin_allowed(scope, headers, hosts[0], path):
            return _refusal_response(403, "requests of other sites are not served")
        shown = self.presented(scope)
        if (
            shown is not None
            and self._waiting >= _GUESSES_AT_ONCE
            and self._guesses.wait_s(_client(scope)) > 0
            and not self._has_session(scope)
        ):
            return _refusal_response(429, "too many wrong tokens", _GUESS_PAUSE_S)
        if shown is not None and not self.matches(shown):
            if path == "/login":  # a new attempt with an old cookie
                return None
            return _refusal_response(401, "the token is wrong")
        if shown is None and self._wants_token(path):
            if path in _PAGES or path.startswith("/page/"):
                return None  # the application answers with the login form
            return _refusal_response(401, "a token is needed: Authorization: Bearer TOKEN")
        return None

    def _host_allowed(self, host: str) -> bool:
        if is_loopback(host) or host.lower() in self._hosts:
            return True
        if self._loopback_only:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _origin_allowed(self, scope: Scope, headers: Headers, host: str, path: str) -> bool:
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (
            f"http://{host}".lower(),
            f"https://{host}".lower(),
        ):
            return False
        site = headers.get("sec-fetch-site")
        if site in (None, "same-origin", "none"):
            return True
        # A link on another site may open the page: the browser shows it to the user, not to that site.
        return (
            path == "/"
            and scope["type"] == "http"
            and scope["method"] == "GET"
            and headers.get("sec-fetch-mode") == "navigate"
        )

    def _wants_token(self, path: str) -> bool:
        if self._token_everywhere:
            return True
        return not (path in _OPEN_ON_LOOPBACK or path.startswith(_OPEN_PREFIX_ON_LOOPBACK))

    def matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())

    def presented(self, scope: Scope) -> str | None:
        """Return the token of a request, right or wrong, or ours for an open session; None if there is none."""
        headers = Headers(scope=scope)
        authorization = headers.get("authorization")
        if authorization is not None:
            scheme, _, value = authorization.partition(" ")
            if scheme.lower() == "bearer":
                return value.strip()
            if scheme.lower() == "basic":
                try:
                    return (
                        base64.b64decode(value.strip(), validate=True)
                        .decode("utf-8", "replace")
                        .partition(":")[2]
                    )
                except (ValueError, binascii.Error):
                    return ""
            return ""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if "token" in query:
            return query["token"][0]
        # A stale cookie is no guess. Cookies do not hold the token, because browsers send them to every port of the host.
        return self._token if self._has_session(scope) else None

    def _has_session(self, scope: Scope) -> bool:
        try:
            cookies = SimpleCookie(Headers(scope=scope).get("cookie", ""))
        except CookieError:
            return False
        morsel = cookies.get(self._cookie)
        return morsel is not None and self._sessions.is_open(morsel.value)

    @property
    def cookie(self) -> str:
        return self._cookie


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _refusal_response(status: int, why: str, retry_after_s: float | None = None) -> Response:
    headers = {"Connection": "close"}
    if retry_after_s is not None:
        headers["Retry-After"] = str(int(retry_after_s))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="spanbus", Basic realm="spanbus"'
    return PlainTextResponse(why + "\n", status, headers)
