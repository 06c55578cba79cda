"""A NATS connection with its own event loop, for use from one thread: connect, publish with acknowledgement, request.

Reconnection by the library is off: each caller retries with its own back-off. When the connection is lost, pending
requests fail at once; the library would leave them waiting.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

from spanbus._delivery.endpoints import shown_url
from spanbus._named_tuple import NamedTuple
from spanbus._settings.values import InvalidValue
from spanbus._settings.values import servers as usable
from spanbus.errors import InputError, MissingExtra
from spanbus.integrations._nats_wire import Message

ANSWER_S: Final = 2.0
_BATCH_S: Final = 10.0
_BATCH_BYTES: Final = 8 * 2**20
_IDLE_S: Final = 20.0
"""Idle seconds after which a connection is checked before use: its event loop answers no pings between two calls."""
_REASON_CHARS: Final = 300
NO_JETSTREAM: Final = "nobody answers for JetStream; start nats-server with -js, or make what is missing with `spanbus nats setup`"
_ENDS: Final = ("204", "404", "408")
"""Statuses that end a batch: it is complete, or there are no more messages."""


class RequestFailed(Exception):
    """A NATS request failed; the message gives the reason."""


def servers_of(servers: str | Sequence[str], where: str = "carry") -> tuple[str, ...]:
    """Return the validated URLs. Raises :class:`~spanbus.errors.InputError`, with the invalid URL without its password."""
    given = servers.split(",") if isinstance(servers, str) else list(servers)
    found = tuple(each.strip() for each in given if each.strip())
    if not found:
        raise InputError(f"{where}: no server is named; give one such as nats://127.0.0.1:4222")
    for each in found:
        try:
            usable(each)
        except InvalidValue as error:
            raise InputError(f"{where}: {shown_url(each)!r} {error}") from None
    return tuple(map(_lower_scheme, found))


def _lower_scheme(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme.lower()}{separator}{rest}"


def credentials_of(path: str | Path | None, where: str = "carry") -> str | None:
    """Return the path of the credentials file, or None. Raises :class:`~spanbus.errors.InputError` if it is unreadable."""
    if path is None or not str(path):
        return None
    try:
        found = Path(path).expanduser()
        with found.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{where}: credentials {str(path)!r}: {error.strerror}") from error
    return str(found)


def library() -> Any:
    """Import the NATS client library. Raises :class:`~spanbus.errors.MissingExtra`."""
    try:
        import nats as found
    except ImportError as error:
        raise MissingExtra("nats", error.name) from error
    return cast("Any", found)


class DirectMessage(NamedTuple):
    """A message read by its sequence number; ``stamp_ns`` is the server's timestamp in Unix nanoseconds."""

    sequence: int
    stamp_ns: int
    subject: str
    headers: Mapping[str, str]
    body: bytes


class _Batch(NamedTuple):
    """The messages received so far in reply to one request, at most ``most``."""

    number: int
    most: int
    found: list[Any]


def _close(loop: asyncio.AbstractEventLoop, connection: Any) -> None:
    """Close connection and loop, within 0.3 s."""
    try:
        if connection is not None:
            loop.run_until_complete(_limited(connection.close(), 0.2))
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=0.1))
    except Exception:  # the connection is dropped in any case
        pass
    finally:
        loop.close()


class Client:
    """A NATS client. All methods except :meth:`interrupt` must be called from one thread, which runs the event loop."""

    def __init__(self, servers: Sequence[str], credentials: str | None) -> None:
        self._servers, self._credentials = list(servers), credentials
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._connection: Any = None
        self._inbox = ""
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._batch: _Batch | None = None
        self._last_used_s = 0.0
        self._last_error: str | None = None
        """Last asynchronous error of the connection, such as a permissions violation."""

    def run(self, coroutine: Any, timeout_s: float) -> Any:
        """Run ``coroutine`` in this client's event loop. Raises only :class:`RequestFailed`."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.new_event_loop()
        try:
            self._task = loop.create_task(_limited(coroutine, timeout_s))
            return loop.run_until_complete(self._task)
        except RequestFailed:
            raise
        except (TimeoutError, asyncio.CancelledError):
            self._connection = None
            raise RequestFailed(self._last_error or "no answer in time") from None
        except Exception as error:
            self._connection = None
            raise RequestFailed(_reason(error)) from error
        finally:
            self._task = None

    def interrupt(self) -> None:
        """Cancel the current :meth:`run`, from another thread."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop is closed
                pass

    def close(self) -> None:
        """Close connection and event loop. May be called twice.

        The loop cannot run in a thread with a running loop, such as that of an asyncio program: there another thread closes.
        """
        loop, self._loop = self._loop, None
        if loop is None or loop.is_running():
            return
        connection, self._connection = self._connection, None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _close(loop, connection)
            return
        thread = threading.Thread(target=_close, args=(loop, connection), daemon=True)
        thread.start()
        thread.join()

    # --- in the loop ------------------------------------------------------------------------------------------------------

    async def connected(self) -> Any:
        """Return the connection; if there is none, connect to the servers in turn."""
        now_s = time.monotonic()
        if self._connection is not None and self._connection.is_connected:
            if now_s - self._last_used_s < _IDLE_S:
                self._last_used_s = now_s
                return self._connection
            try:
                await self._connection.flush(timeout=1)
            except Exception:
                self._connection = None
            else:
                self._last_used_s = now_s
                return self._connection
        self._last_error = None
        problem: Exception = RequestFailed("no server is named")
        for server in list(self._servers):
            try:
                return await self._use(await self._connect(server))
            except Exception as error:
                problem = error
                self._servers.append(self._servers.pop(0))
        raise RequestFailed(self._last_error or _reason(problem)) from problem

    async def _connect(self, server: str) -> Any:
        connection = library().NATS()
        if server.startswith("tls:"):
            _require_tls(connection)
        try:
            await connection.connect(
                server,
                name="spanbus",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=2,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                closed_cb=self._on_disconnect,
                user_credentials=self._credentials,
            )
        except BaseException:  # a refused connection leaves its socket open
            with suppress(Exception):
                await connection.close()
            raise
        return connection

    async def _use(self, connection: Any) -> Any:
        self._inbox = connection.new_inbox()
        await connection.subscribe(f"{self._inbox}.*", cb=self._on_reply)
        self._connection, self._last_used_s = connection, time.monotonic()
        return connection

    async def store(self, messages: Sequence[Message], publisher: str) -> list[Mapping[str, Any]]:
        """Publish these messages and wait until JetStream has stored all of them. Returns its replies in order."""
        sent = (
            (
                message.subject,
                message.body,
                {
                    "Nats-Msg-Id": message.message_id,
                    "Spanbus-Publisher": publisher,
                    "Spanbus-Sent": str(time.time_ns()),
                },
            )
            for message in messages
        )
        return [_stored(reply) for reply in await self._publish_all(sent)]

    async def ask(self, subject: str, request: Mapping[str, object] | None = None) -> Any:
        """Send a request to JetStream's API and return the reply, which has a member ``error`` if the request was refused."""
        body = json.dumps(request).encode() if request is not None else b""
        return (await self.publish_all([(subject, body, {})]))[0]

    async def publish_all(
        self, messages: Sequence[tuple[str, bytes, Mapping[str, str]]]
    ) -> list[Mapping[str, Any]]:
        """Publish these messages (subject, body, headers) with acknowledgement. Returns JetStream's replies in order; a refused
        message has a member ``error``.
        """
        replies = await self._publish_all(messages)
        if any(_status(reply) == "503" for reply in replies):
            raise RequestFailed(NO_JETSTREAM)
        return [json.loads(reply.data) for reply in replies]

    async def _publish_all(
        self, messages: Iterable[tuple[str, bytes, Mapping[str, str]]]
    ) -> list[Any]:
        connection = await self.connected()
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Any]] = []
        for subject, body, headers in messages:
            self._number += 1
            answer = self._waiting[self._number] = loop.create_future()
            answers.append(answer)
            reply = f"{self._inbox}.{self._number}"
            await connection.publish(subject, body, reply=reply, headers=headers or None)
        try:
            return await _limited(asyncio.gather(*answers), ANSWER_S)
        except TimeoutError:
            raise RequestFailed(self._last_error or f"no answer within {ANSWER_S:g} s") from None
        finally:
            for answer in answers:
                answer.cancel()
            self._waiting.clear()

    async def batch(
        self, stream: str, first: int, most: int, subjects: str = ">"
    ) -> list[DirectMessage]:
        """Read up to ``most`` messages of these subjects, from sequence number ``first`` on."""
        request = {"seq": first, "batch": most, "max_bytes": _BATCH_BYTES, "next_by_subj": subjects}
        return [
            DirectMessage(
                int(message.headers["Nats-Sequence"]),
                unix_ns(str(message.headers.get("Nats-Time-Stamp", ""))),
                str(message.headers.get("Nats-Subject", "")),
                message.headers,
                bytes(message.data),
            )
            for message in await self._gather(f"$JS.API.DIRECT.GET.{stream}", request, most)
        ]

    async def pull(self, stream: str, consumer: str, most: int) -> list[Any]:
        """Fetch the next messages of a consumer, as the library returns them. Empty at the end of the stream."""
        request = {"batch": most, "max_bytes": _BATCH_BYTES, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        return await self._gather(subject, request, most)

    async def _gather(self, subject: str, request: Mapping[str, object], most: int) -> list[Any]:
        connection = await self.connected()
        self._number += 1
        complete = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        batch = self._batch = _Batch(self._number, most, [])
        reply = f"{self._inbox}.{self._number}"
        await connection.publish(subject, json.dumps(request).encode(), reply=reply)
        try:
            await _limited(complete, _BATCH_S)
        except TimeoutError:
            raise RequestFailed(self._last_error or f"no answer within {_BATCH_S:g} s") from None
        finally:
            self._batch = None
            self._waiting.clear()
        return batch.found

    def _collect(self, message: Any, batch: _Batch) -> bool:
        """Add a message to the batch. Returns False if the batch is complete."""
        status = _status(message)
        if status is not None:
            description = str(message.headers.get("Description") or "")
            if status not in _ENDS and "MaxBytes" not in description:
                self._fail(
                    NO_JETSTREAM
                    if status == "503"
                    else " ".join(description.split()) or "it cannot be read"
                )
                return True
            return False
        batch.found.append(message)
        return len(batch.found) < batch.most

    async def _on_reply(self, message: Any) -> None:
        batch = self._batch
        # messages of a consumer keep their own subject
        is_reply = message.subject.startswith(self._inbox)
        number = message.subject.rpartition(".")[2] if is_reply else ""
        if batch is not None and (not is_reply or number == str(batch.number)):
            if self._collect(message, batch):
                return
            number = str(batch.number)
        waiting = self._waiting.pop(int(number), None) if number.isdigit() else None
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        """Record an asynchronous error. A permissions violation fails all requests: the server sends no other reply."""
        self._last_error = _reason(error)
        if "permissions violation" in self._last_error.lower():
            self._fail(self._last_error)

    async def _on_disconnect(self) -> None:
        self._connection = None
        self._fail(self._last_error or "the connection was lost")

    def _fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done():
                one.set_exception(RequestFailed(why))


async def _limited(what: Any, timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        return await what


def _stored(answer: Any) -> Mapping[str, Any]:
    if _status(answer) == "503":
        raise RequestFailed("no stream takes these events; `spanbus nats setup` makes one")
    try:
        found: object = json.loads(answer.data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RequestFailed("the answer was none of JetStream's")
    reply = cast("Mapping[str, Any]", found)
    error: Any = reply.get("error")
    if error is not None:
        raise RequestFailed(str(error.get("description") or error))
    return reply


def unix_ns(stamp: str) -> int:
    """Convert a server's RFC 3339 timestamp, with up to nine fractional digits, to Unix nanoseconds."""
    whole, _, rest = stamp.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return int(seconds) * 1_000_000_000 + int(rest[:9].ljust(9, "0") or 0)


def _require_tls(connection: Any) -> None:
    """Make the connection fail, before credentials are sent, if the server does not require TLS.

    The library would continue in plain text, even for a ``tls://`` URL.
    """
    greeting = connection._connect_command

    def checked() -> bytes:
        if not connection._server_info.get("tls_required"):
            raise ConnectionError("the server does not speak TLS, and tls:// asks for it")
        return cast("bytes", greeting())

    connection._connect_command = checked


def _status(answer: Any) -> object:
    headers: Any = answer.headers
    return headers.get("Status") if headers else None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).removeprefix("nats: ").strip("'\"")[:_REASON_CHARS]
    if isinstance(error, ConnectionResetError):  # the server closed before its message was read
        return f"{text}, as by a server that refuses the authorization"
    return text or type(error).__name__
