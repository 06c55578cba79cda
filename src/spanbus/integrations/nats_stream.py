"""Configuration of the event stream and its buckets, and the JetStream administration of ``spanbus nats``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from spanbus._closing import Closing
from spanbus._delivery.endpoints import shown_url
from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError, InputError
from spanbus.integrations._nats_client import (
    Client,
    DirectMessage,
    RequestFailed,
    credentials_of,
    servers_of,
)
from spanbus.integrations._nats_partitions import PARTITIONS

__all__ = ["STREAM", "SetUp", "StreamStatus", "Wanted", "set_up", "status"]

STREAM: Final = "SPANBUS"
CHECKPOINTS: Final = "spanbus_observe"
"""Bucket of the observers' checkpoints."""
ALIVE: Final = "spanbus_alive"
"""Bucket of the heartbeats of publishers with open runs."""
ALIVE_S: Final = 30
"""TTL of a heartbeat in seconds."""
BUCKETS: Final = 4_096
_OLDEST: Final = (2, 11)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LASTING: Final = ("retention", "storage", "subject_transform", "subjects")
"""Never changed on an existing stream: events would be lost, or runs would move to another partition."""
_NOT_FOUND: Final = 10059
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """User options of the stream. ``max_bytes`` and ``max_age_s`` limit what it keeps."""

    stream: str = STREAM
    replicas: int = 1
    max_age_s: float = 86_400.0
    max_bytes: int = 64 * 2**30

    def config(self) -> dict[str, object]:
        """Return the stream's configuration for JetStream's API."""
        return {
            "name": self.stream,
            "subjects": ["spanbus.v1.event.>"],
            "subject_transform": {
                "src": "spanbus.v1.event.*.*",
                "dest": f"spanbus.v1.p.{{{{partition({PARTITIONS},2)}}}}.{{{{partition({BUCKETS},2)}}}}",
            },
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "num_replicas": self.replicas,
            "compression": "s2",
            "max_age": int(self.max_age_s * 1e9),
            "max_bytes": self.max_bytes,
            "max_msg_size": 262_144,
            "duplicate_window": int(min(60.0, self.max_age_s) * 1e9),
            "allow_direct": True,
        }


def alive_bucket(replicas: int) -> dict[str, object]:
    """Return the configuration of the heartbeat bucket. Keys expire; the server keeps a delete marker for an hour."""
    return {
        **bucket(replicas, ALIVE),
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 3_600_000_000_000,
    }


def bucket(replicas: int, name: str = CHECKPOINTS) -> dict[str, object]:
    """Return the configuration of a key-value bucket, by default that of the checkpoints."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_bytes": 64 * 2**20,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


class Difference(NamedTuple):
    """A member of a stream's configuration with an unwanted value."""

    name: str
    there: object
    wanted: object

    @property
    def lasting(self) -> bool:
        """Whether the value cannot be changed on an existing stream."""
        return self.name in _LASTING

    def __str__(self) -> str:
        return f"{self.name} is {self.there!r}, wanted {self.wanted!r}"


Done = Literal["made", "changed", "as wanted", "missing", "different"]


class SetUp(NamedTuple):
    """Result of :func:`set_up`."""

    done: Done
    differences: tuple[Difference, ...]


class StreamStatus(NamedTuple):
    """Status of a stream. Times are ISO 8601, as reported by JetStream."""

    servers: str
    version: str
    stream: str
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    last_at: str
    replicas: int
    leader: str | None
    differences: tuple[str, ...]


def checked_name(stream: str) -> str:
    """Return a valid stream name. Raises :class:`~spanbus.errors.InputError`."""
    if not _NAME.fullmatch(stream):
        raise InputError(
            f"{stream[:100]!r} is no name of a stream: letters, digits, _ and -, at most 64"
        )
    return stream


def set_up(
    servers: str | Sequence[str],
    wanted: Wanted,
    *,
    credentials: str | Path | None = None,
    check: bool = False,
) -> SetUp:
    """Create or update the stream and its buckets; with ``check`` only compare.

    Raises :class:`~spanbus.errors.BackendError`, one line, if NATS cannot be reached, has no JetStream, is too old or
    refuses, and if an existing stream differs in a member that cannot be changed.
    """
    checked_name(wanted.stream)
    with Admin(servers, credentials) as admin:
        admin.account()
        found = [
            admin.set_up(config, check=check)
            for config in (
                wanted.config(),
                bucket(wanted.replicas),
                alive_bucket(wanted.replicas),
            )
        ]
    done: list[Done] = [each.done for each in found if each.done != "as wanted"]
    return SetUp(
        done[0] if done else "as wanted", tuple(one for each in found for one in each.differences)
    )


def status(
    servers: str | Sequence[str], stream: str = STREAM, *, credentials: str | Path | None = None
) -> StreamStatus:
    """Return the status of the stream. Raises :class:`~spanbus.errors.BackendError`, one line."""
    checked_name(stream)
    with Admin(servers, credentials) as admin:
        admin.account()
        there = admin.stream(stream)
        if there is None:
            raise BackendError(
                f"{admin.shown}: there is no stream {stream}; `spanbus nats setup` makes it"
            )
        config, state = there["config"], there["state"]
        replicas = int(config.get("num_replicas") or 1)
        wanted = Wanted(
            stream, replicas, float(config["max_age"]) / 1e9, int(config["max_bytes"])
        ).config()
        return StreamStatus(
            admin.shown,
            admin.version,
            stream,
            int(state["messages"]),
            int(state["bytes"]),
            int(state["first_seq"]),
            int(state["last_seq"]),
            str(state["last_ts"]),
            replicas,
            cast("dict[str, Any]", there.get("cluster") or {}).get("leader"),
            tuple(str(each) for each in differences_of(config, wanted)),
        )


def differences_of(
    there: Mapping[str, object], wanted: Mapping[str, object]
) -> tuple[Difference, ...]:
    """Return the members of ``wanted`` that differ in ``there``. An absent member equals 0 or false."""
    return tuple(
        Difference(name, there.get(name), value)
        for name, value in wanted.items()
        if there.get(name) != value and (there.get(name) or value)
    )


def incompatibility(there: Mapping[str, Any]) -> str | None:
    """Return the first difference that makes a stream impossible to observe, or None.

    Mirrors and streams with sources are not checked: they have the subjects of their origin.
    """
    if there.get("mirror") or there.get("sources"):
        return None
    wanted = Wanted().config()
    transform: Mapping[str, Any] = there.get("subject_transform") or {}
    if transform.get("dest") != cast("Mapping[str, object]", wanted["subject_transform"])["dest"]:
        there = {**there, "subject_transform": transform or None}
        return next(
            str(each) for each in differences_of(there, wanted) if each.name == "subject_transform"
        )
    return next(
        (str(each) for each in differences_of(there, wanted) if each.name == "retention"), None
    )


class Admin(Closing):
    """A connection for requests to JetStream's API."""

    def __init__(self, servers: str | Sequence[str], credentials: str | Path | None) -> None:
        urls = servers_of(servers, "nats")
        self.shown = ",".join(shown_url(each) for each in urls)
        self.version = ""
        self.client = Client(urls, credentials_of(credentials, "nats"))

    def close(self) -> None:
        self.client.close()

    def account(self) -> None:
        """Check that the server has JetStream and is new enough. Raises :class:`~spanbus.errors.BackendError`."""
        connection = self.run(self.client.connected())
        known = connection.connected_server_version
        self.version = f"{known.major}.{known.minor}.{known.patch}"
        if (known.major, known.minor) < _OLDEST:
            raise BackendError(
                f"{self.shown}: nats-server {self.version} is too old; {'.'.join(map(str, _OLDEST))} or newer is needed"
            )
        try:
            self.ask("INFO", None)
        except BackendError as error:
            if "nobody answers" in str(error) or "not enabled" in str(error):
                raise BackendError(
                    f"{self.shown}: JetStream is not enabled there; start nats-server with -js"
                ) from error
            raise

    def set_up(self, config: Mapping[str, object], *, check: bool) -> SetUp:
        """Create or update one stream; with ``check`` only compare."""
        name = str(config["name"])
        there = self.stream(name)
        if there is None:
            if not check:
                self.ask(f"STREAM.CREATE.{name}", config)
            return SetUp("missing" if check else "made", ())
        found = there["config"]
        differences = differences_of(found, config)
        if not differences:
            return SetUp("as wanted", ())
        if check:
            return SetUp("different", differences)
        lasting = [each for each in differences if each.lasting]
        if lasting:
            raise BackendError(
                f"{self.shown}: stream {name}: {lasting[0]}, which cannot be changed; name another with --stream, or remove it"
            )
        self.ask(f"STREAM.UPDATE.{name}", {**found, **config})
        return SetUp("changed", differences)

    def stream(self, name: str) -> Any:
        """Return the stream's configuration and state, or None if it does not exist."""
        found = self.run(self.client.ask(f"$JS.API.STREAM.INFO.{name}"))
        error = found.get("error")
        if error is None:
            return found
        if error.get("err_code") == _NOT_FOUND:
            return None
        raise BackendError(f"{self.shown}: stream {name}: {error.get('description')}")

    def ask(self, what: str, request: Mapping[str, object] | None) -> Mapping[str, object]:
        """Send one request to JetStream's API."""
        found = self.run(self.client.ask(f"$JS.API.{what}", request))
        error = found.get("error")
        if error is not None:
            why = str(error.get("description"))
            advice = "; give less by --max-bytes" if "storage" in why else ""
            if "overlap" in why:
                advice = f": {self._streams_of(request)}; name that one with --stream, or remove it"
            raise BackendError(f"{self.shown}: JetStream refuses: {why}{advice}")
        return cast("Mapping[str, object]", found)

    def _streams_of(self, config: Mapping[str, object] | None) -> str:
        """Return the names of existing streams with the same subjects."""
        subjects = cast("Sequence[str]", (config or {}).get("subjects") or [">"])
        found = self.run(self.client.ask("$JS.API.STREAM.NAMES", {"subject": subjects[0]}))
        return ", ".join(map(str, found.get("streams") or ["one that is not shown"]))

    def messages(self, stream: str, first: int, subjects: str, *, most: int) -> list[DirectMessage]:
        """Read messages of these subjects from sequence number ``first`` on, from any replica."""
        return cast(
            "list[DirectMessage]", self.run(self.client.batch(stream, first, most, subjects))
        )

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine of :attr:`client`. Raises :class:`~spanbus.errors.BackendError`."""
        try:
            return self.client.run(coroutine, _TIMEOUT_S)
        except RequestFailed as error:
            raise BackendError(f"{self.shown}: {error}") from error
