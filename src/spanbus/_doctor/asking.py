"""HTTP requests to servers that may be anything: bounded in time and size, redirects are not followed.

The result is an answer or the reason why there is none. A server's behaviour never raises.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar, cast
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import anyio
import anyio.to_thread

from spanbus._delivery.endpoints import shown_url
from spanbus._delivery.transport import proxy_for, reason_of
from spanbus._host import is_loopback
from spanbus._version import __version__
from spanbus.errors import InputError, SettingsError

LARGEST_ANSWER = 8 * 2**20

_GRACE_S = 1.0
_SHOWN = 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a server. Header names are lower-case; ``cut`` is set if the body exceeded the limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False
    skew_s: float | None = None
    """Offset of the server's clock from ours, by its ``Date`` header (one-second resolution); positive if it is ahead."""

    @property
    def program(self) -> str:
        """Value of the ``Server`` header."""
        return self.headers.get("server", "").strip()[:_SHOWN]

    @property
    def described(self) -> str:
        """Status, media type and program, for messages."""
        kind = self.headers.get("content-type", "").split(";")[0].strip()[:_SHOWN]
        words = [
            f"HTTP {self.status}",
            *([kind] if kind else []),
            *([f"from {self.program}"] if self.program else []),
        ]
        if 300 <= self.status < 400:
            words.append(f"a redirect to {shown_url(self.headers.get('location', 'nowhere'))}")
        return ", ".join(words)

    def json(self) -> object:
        """Return the body as JSON, or None if it is not valid."""
        if self.cut:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer. ``refused`` if nothing listens on the port."""

    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A server. ``url`` has no trailing slash and no password; ``configured`` if the user named it."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    configured: bool = False


def server(url: str, option: str, *, configured: bool = True) -> Server:
    """Parse a URL from the command line. Raises :class:`~spanbus.errors.InputError` with the name of the option."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        _ = parts.port
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and not any(letter.isspace() for letter in text)
        )
    except ValueError:
        good, parts = False, urlsplit("")
    if not good:
        raise InputError(
            f"{option} {shown_url(url)!r} is not a URL; give one such as http://127.0.0.1:9090"
        )
    userinfo, at, host = parts.netloc.rpartition("@")
    headers = (
        (("authorization", "Basic " + base64.b64encode(unquote(userinfo).encode()).decode()),)
        if at
        else ()
    )
    return Server(
        urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), headers, configured
    )


def ask(
    where: Server,
    path: str,
    env: Mapping[str, str],
    timeout_s: float,
    query: Sequence[tuple[str, str]] = (),
) -> Answer | Silence:
    """Send one GET request."""
    import urllib3

    url = f"{where.url}{path}" + (f"?{urlencode(query)}" if query else "")
    headers = {
        "user-agent": f"spanbus/{__version__} (doctor)",
        "accept": "application/json, text/plain;q=0.5",
        **dict(where.headers),
    }
    began, clock = time.monotonic(), time.time()
    try:
        proxy = None if on_loopback(url) else proxy_for(url, env)
        with urllib3.PoolManager() if proxy is None else urllib3.ProxyManager(proxy) as pool:
            response = pool.request(
                "GET",
                url,
                headers=headers,
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            took_s = time.monotonic() - began
            lower = {name.lower(): value for name, value in response.headers.items()}
            body, size = bytearray(), 0
            while size <= LARGEST_ANSWER:
                if time.monotonic() - began > timeout_s:
                    response.close()
                    return Silence("the answer did not end in time")
                piece = response.read1(65_536)
                if not piece:
                    break
                body += piece
                size += len(piece)
            response.close()
    except SettingsError as error:  # the proxy
        return Silence(str(error))
    except (urllib3.exceptions.HTTPError, OSError, ValueError, ssl.SSLError) as error:
        return Silence(reason_of(error), _refused(error))
    return Answer(
        response.status,
        lower,
        bytes(body[:LARGEST_ANSWER]),
        size > LARGEST_ANSWER,
        skew_s(lower.get("date"), clock + took_s / 2),
    )


def on_loopback(url: str) -> bool:
    """Whether the host of a URL is a loopback address, for which no proxy is used."""
    return is_loopback(urlsplit(url).hostname or "")


def _refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        inside = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        error = inside if isinstance(inside, BaseException) and inside is not error else None
    return False


def skew_s(date: str | None, asked_at_s: float) -> float | None:
    """Return by how many seconds the clock of a ``Date`` header was ahead of ours, or None if it is absent or invalid."""
    if not date:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - asked_at_s
    except (ValueError, OverflowError, TypeError):
        return None


async def within(timeout_s: float, work: Callable[[], T], otherwise: T) -> T:
    """Run ``work`` in a thread and return its result, or ``otherwise`` after the timeout. The thread is then abandoned."""
    with anyio.move_on_after(timeout_s + _GRACE_S):
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    return otherwise


def at(document: object, *path: str | int) -> object:
    """Look up ``path`` in a JSON document. Returns None if it does not exist."""
    for step in path:
        if isinstance(document, dict) and isinstance(step, str):
            document = cast("dict[str, object]", document).get(step)
        elif (
            isinstance(document, list)
            and isinstance(step, int)
            and step < len(cast("list[object]", document))
        ):
            document = cast("list[object]", document)[step]
        else:
            return None
    return document


def each(document: object, *path: str | int) -> list[object]:
    """Return the list at ``path``, or an empty one."""
    found = at(document, *path)
    return cast("list[object]", found) if isinstance(found, list) else []


def text(document: object, *path: str | int) -> str:
    """Return the string at ``path``, at most 300 characters, or an empty one."""
    found = at(document, *path)
    return found[:300] if isinstance(found, str) else ""
