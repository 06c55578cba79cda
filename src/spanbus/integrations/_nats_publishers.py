"""Live and dead publishers, from the heartbeat keys that they renew and that the server expires."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

from spanbus._named_tuple import NamedTuple
from spanbus.integrations._nats_client import Client, DirectMessage
from spanbus.integrations.nats_stream import ALIVE

_BATCH: Final = 1_000
_PREFIX: Final = f"$KV.{ALIVE}."
_REMEMBERED_NS: Final = 24 * 3_600 * 1_000_000_000

Run = Callable[[Any], Any]


class Publisher(NamedTuple):
    """A publisher. ``state`` is ``alive``, ``gone`` (its key expired) or ``left`` (it shut down in order)."""

    name: str
    state: str
    since_ns: int
    where: str


class Publishers:
    """The publishers in the heartbeat bucket."""

    def __init__(self, client: Client, run: Run) -> None:
        self._client, self._run = client, run
        self._next = 1
        self.known: dict[str, Publisher] = {}

    def refresh(self) -> None:
        """Read the changes since the last call. Raises the errors of ``run``."""
        stream = f"KV_{ALIVE}"
        while found := self._run(self._client.batch(stream, self._next, _BATCH, f"{_PREFIX}>")):
            for message in cast("list[DirectMessage]", found):
                self._next = message.sequence + 1
                name = message.subject.removeprefix(_PREFIX)
                self.known[name] = _publisher(name, message, self.known.get(name))
            if len(found) < _BATCH:
                break

    def dead(self, now_ns: int, after_s: float) -> set[str]:
        """Return the names of publishers that have been gone for at least ``after_s`` seconds."""
        until_ns, long_ago_ns = now_ns - int(after_s * 1e9), now_ns - _REMEMBERED_NS
        for name, each in list(self.known.items()):
            if each.state != "alive" and each.since_ns < long_ago_ns:
                del self.known[name]
        return {
            name
            for name, each in self.known.items()
            if each.state == "gone" and each.since_ns <= until_ns
        }


def _publisher(name: str, message: DirectMessage, before: Publisher | None) -> Publisher:
    where = before.where if before is not None else ""
    headers = message.headers or {}
    if headers.get("Nats-Marker-Reason") == "MaxAge":
        done = before is not None and before.state == "left"
        return Publisher(name, "left" if done else "gone", message.stamp_ns, where)
    if headers.get("KV-Operation") in ("DEL", "PURGE"):
        return Publisher(name, "left", message.stamp_ns, where)
    try:
        document: Any = json.loads(message.body)
        where = str(document["where"])[:200]
        if document["runs"] == 0:
            return Publisher(name, "left", message.stamp_ns, where)
    except (ValueError, KeyError, TypeError):
        pass
    since_ns = (
        before.since_ns if before is not None and before.state == "alive" else message.stamp_ns
    )
    return Publisher(name, "alive", since_ns, where)
