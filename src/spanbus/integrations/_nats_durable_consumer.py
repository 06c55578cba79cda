"""A durable pull consumer: each message is redelivered until it is acknowledged, at most five times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from spanbus.integrations._nats_client import Client, RequestFailed

ACK_WAIT_S: Final = 10.0
"""Seconds without an acknowledgement or a sign of progress after which a message is redelivered."""
MAX_DELIVER: Final = 5
_EXPIRES_S: Final = 5.0
_GRACE_S: Final = 2.0
_NO_CONSUMER: Final = 10_014
_EXISTS: Final = (10_013, 10_105, 10_148)
_API_TOKENS: Final = 9
"""Tokens of a reply subject without a domain: ``$JS.ACK``, stream, consumer, deliveries, two sequences, time, pending."""

Start = Literal["new", "all"]
AckKind = Literal[b"+ACK", b"-NAK", b"+WPI"]


@dataclass(slots=True, eq=False)
class DeliveredMessage:
    """One delivery of a message. ``deliveries`` counts from 1, ``stamp_ns`` is the server's timestamp in Unix nanoseconds,
    ``reply`` the subject for acknowledgements.
    """

    sequence: int
    deliveries: int
    subject: str
    stamp_ns: int
    body: bytes
    reply: str


class DurableConsumer:
    """A durable consumer. All methods run in the event loop of ``client``.

    ``take`` is called with each message, ``given_up`` with the sequence number of each message that the server stops
    redelivering.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        name: str,
        start: Start,
        take: Callable[[DeliveredMessage], None],
        given_up: Callable[[int], None],
    ) -> None:
        self._client, self._stream, self._name, self._start = client, stream, name, start
        self._take, self._given_up = take, given_up
        self._connection: Any = None
        self._subscriptions: list[Any] = []
        self._inbox = ""
        self._wanted = 0
        self._until_s = 0.0
        self._why: str | None = None
        self.changed = asyncio.Event()
        """A message arrived, or a request ended."""

    def config(self) -> dict[str, object]:
        """Return the consumer's configuration for JetStream's API."""
        return {
            "durable_name": self._name,
            "deliver_policy": self._start,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * 1e9),
            "max_deliver": MAX_DELIVER,
            "replay_policy": "instant",
        }

    async def open(self) -> None:
        """Connect, create the consumer if necessary, and subscribe. Raises :class:`RequestFailed`."""
        connection = await self._client.connected()
        await self._ensure_exists()
        self._why, self._wanted = None, 0
        self._inbox = connection.new_inbox()
        for each in self._subscriptions:  # the connection may be the same as before
            with suppress(Exception):
                await each.unsubscribe()
        advisory = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._stream}.{self._name}"
        self._subscriptions = [
            await connection.subscribe(self._inbox, cb=self._on_message),
            await connection.subscribe(advisory, queue=self._name, cb=self._on_max_deliveries),
        ]
        self._connection = connection

    async def _ensure_exists(self) -> None:
        where = f"{self._stream}.{self._name}"
        found = await self._client.ask(f"$JS.API.CONSUMER.INFO.{where}")
        if _code(found) == _NO_CONSUMER:
            request = {"stream_name": self._stream, "config": self.config(), "action": "create"}
            found = await self._client.ask(f"$JS.API.CONSUMER.CREATE.{where}", request)
            if _code(found) in _EXISTS:  # another process created it meanwhile
                found = await self._client.ask(f"$JS.API.CONSUMER.INFO.{where}")
        if (error := found.get("error")) is not None:
            advice = "; `spanbus nats setup` makes it" if "stream" in str(error) else ""
            raise RequestFailed(f"stream {self._stream}: {error.get('description')}{advice}")
        there, wanted = found["config"], self.config()
        for name in ("ack_policy", "max_deliver"):
            if there.get(name) != wanted[name]:
                raise RequestFailed(
                    f"consumer {self._name} is there with {name} {there.get(name)!r}, not {wanted[name]!r}; "
                    "take another name, or remove it"
                )

    async def ask_for(self, most: int) -> None:
        """Request up to ``most`` messages, unless a request is pending. Raises :class:`RequestFailed` after an error."""
        if self._why is not None or not self._connection.is_connected:
            raise RequestFailed(self._why or "the connection was lost")
        now_s = time.monotonic()
        if self._wanted > 0 and now_s < self._until_s:
            return
        self._wanted, self._until_s = most, now_s + _EXPIRES_S + _GRACE_S
        request = {"batch": most, "expires": int(_EXPIRES_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._connection.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def acknowledge(self, message: DeliveredMessage, kind: AckKind) -> None:
        """Acknowledge a message as done, not done, or in progress. If this is lost, the message is redelivered."""
        with suppress(Exception):
            await self._connection.publish(message.reply, kind)

    async def flush(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` until the server has received all acknowledgements."""
        with suppress(Exception):
            await self._connection.flush(timeout=max(timeout_s, 0.01))

    async def _on_message(self, message: Any) -> None:
        headers: Mapping[str, str] = message.headers or {}
        status = headers.get("Status")
        if status is None:
            self._wanted -= 1
            self._take(_delivered(message))
        elif status in ("404", "408"):  # no more messages at present
            self._wanted = 0
        elif status != "100":
            self._wanted = 0
            self._why = str(headers.get("Description") or "messages cannot be asked for")
        self.changed.set()

    async def _on_max_deliveries(self, message: Any) -> None:
        with suppress(ValueError, KeyError, TypeError):
            self._given_up(int(json.loads(message.data)["stream_seq"]))


def _delivered(message: Any) -> DeliveredMessage:
    tokens = str(message.reply).split(".")
    first = 4 if len(tokens) == _API_TOKENS else 6  # with a domain and an account
    deliveries, sequence, _, stamp_ns = (int(token) for token in tokens[first : first + 4])
    return DeliveredMessage(
        sequence,
        deliveries,
        str(message.subject),
        stamp_ns,
        bytes(message.data),
        str(message.reply),
    )


def _code(answer: Mapping[str, Any]) -> int | None:
    error = answer.get("error")
    return error.get("err_code") if error is not None else None
