"""Status of the observers and publishers of a stream: holder and progress of each partition, heartbeats, clocks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError
from spanbus.integrations import nats_stream
from spanbus.integrations._nats_checkpoints import Checkpoint, subject_of
from spanbus.integrations._nats_client import DirectMessage, unix_ns
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_leases import LEASE_S, holder
from spanbus.integrations._nats_partition_reader import StreamMessage, measure_clock
from spanbus.integrations._nats_partitions import PARTITIONS
from spanbus.integrations._nats_publishers import Publishers

_SAMPLE: Final = 1_000
"""Number of newest messages used to measure clocks."""


class PartitionStatus(NamedTuple):
    """Status of a partition. ``behind`` counts the messages of all partitions after the last one processed here."""

    partition: int
    holder: str | None
    held: bool
    gone: bool
    checkpoint_age_s: float | None
    behind: int
    lag_s: float
    open_runs: int


class PublisherStatus(NamedTuple):
    """A publisher with open runs, alive or gone for ``since_s`` seconds."""

    name: str
    where: str
    alive: bool
    since_s: float


class ClockStatus(NamedTuple):
    """A publisher whose clock is more than a second ahead (positive) or behind (negative)."""

    publisher: str
    offset_s: float


class GroupStatus(NamedTuple):
    """Status of a group of observers and of the publishers that they read."""

    group: str
    partitions: tuple[PartitionStatus, ...]
    publishers: tuple[PublisherStatus, ...]
    clocks: tuple[ClockStatus, ...]


def status(
    servers: str | Sequence[str],
    stream: str = nats_stream.STREAM,
    *,
    group: str = "main",
    credentials: str | Path | None = None,
) -> GroupStatus:
    """Return the status of the group and the publishers. Raises :class:`~spanbus.errors.BackendError`, one line."""
    nats_stream.checked_name(group)
    with nats_stream.Admin(servers, credentials) as admin:
        info = admin.stream(stream)
        if info is None:
            raise BackendError(f"{admin.shown}: there is no stream {stream}")
        now_ns = unix_ns(str(info["ts"])) if info.get("ts") else time.time_ns()
        return GroupStatus(
            group,
            _partitions(admin, stream, group, info, now_ns),
            _publishers(admin, now_ns),
            _clocks(admin, stream, info),
        )


def clocks(
    servers: str | Sequence[str],
    stream: str = nats_stream.STREAM,
    *,
    credentials: str | Path | None = None,
) -> tuple[ClockStatus, ...]:
    """Return the clocks that are wrong, measured on the newest messages. Raises :class:`~spanbus.errors.BackendError`."""
    with nats_stream.Admin(servers, credentials) as admin:
        info = admin.stream(stream)
        return _clocks(admin, stream, info) if info is not None else ()


def samplers(
    servers: str | Sequence[str],
    stream: str = nats_stream.STREAM,
    *,
    group: str = "main",
    credentials: str | Path | None = None,
) -> tuple[str, ...]:
    """Return the samplers of the group's observers, from their checkpoints. Raises :class:`~spanbus.errors.BackendError`."""
    with nats_stream.Admin(servers, credentials) as admin:
        found: set[str] = set()
        for each in _checkpoints(admin, stream, group).values():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                found.add(Checkpoint.decode(each.body).sampler)
        return tuple(sorted(found - {""}))


def _checkpoints(admin: nats_stream.Admin, stream: str, group: str) -> dict[int, DirectMessage]:
    bucket = f"KV_{nats_stream.CHECKPOINTS}"
    if admin.stream(bucket) is None:
        return {}
    subjects = subject_of(group, stream, "*")
    return {
        int(each.subject.rpartition(".")[2]): each
        for each in admin.messages(bucket, 1, subjects, most=2 * PARTITIONS)
    }


def _partitions(
    admin: nats_stream.Admin, stream: str, group: str, info: Mapping[str, Any], now_ns: int
) -> tuple[PartitionStatus, ...]:
    found = _checkpoints(admin, stream, group)
    if not found:
        return ()
    return tuple(
        _partition(number, found.get(number), info, now_ns) for number in range(PARTITIONS)
    )


def _partition(
    number: int, message: DirectMessage | None, info: Mapping[str, Any], now_ns: int
) -> PartitionStatus:
    state = info["state"]
    last, last_ns = (
        int(state["last_seq"]),
        unix_ns(str(state["last_ts"])) if state["last_seq"] else 0,
    )
    if message is None:
        return PartitionStatus(number, None, False, False, None, last, 0.0, 0)
    try:
        checkpoint = Checkpoint.decode(message.body)
    except (ValueError, KeyError, TypeError, AttributeError):
        return PartitionStatus(number, None, False, False, None, last, 0.0, 0)
    high = checkpoint.high if checkpoint.stream == str(info["created"]) else 0
    age_s = max(0.0, (now_ns - message.stamp_ns) / 1e9)
    held = not checkpoint.left and age_s < LEASE_S
    behind = max(0, last - high)
    stamp_ns = checkpoint.stamp_ns or last_ns
    return PartitionStatus(
        number,
        holder(checkpoint.by) if held else None,
        held,
        not checkpoint.left and not held,
        round(age_s, 3),
        behind,
        round(max(0.0, (last_ns - stamp_ns) / 1e9), 3) if behind else 0.0,
        len(checkpoint.open),
    )


def _publishers(admin: nats_stream.Admin, now_ns: int) -> tuple[PublisherStatus, ...]:
    if admin.stream(f"KV_{nats_stream.ALIVE}") is None:
        return ()
    publishers = Publishers(admin.client, admin.run)
    publishers.refresh()
    return tuple(
        PublisherStatus(
            each.name,
            each.where,
            each.state == "alive",
            round(max(0.0, (now_ns - each.since_ns) / 1e9), 3),
        )
        for each in sorted(publishers.known.values(), key=lambda each: each.since_ns)
        if each.state != "left"
    )


def _clocks(
    admin: nats_stream.Admin, stream: str, info: Mapping[str, Any]
) -> tuple[ClockStatus, ...]:
    first = max(1, int(info["state"]["last_seq"]) - _SAMPLE + 1)
    measured = Clocks()
    for each in admin.messages(stream, first, "spanbus.v1.p.>", most=_SAMPLE):
        headers = cast("Mapping[str, str]", each.headers or {})
        sent = str(headers.get("Spanbus-Sent", ""))
        publisher = str(headers.get("Spanbus-Publisher", ""))
        sent_ns = int(sent) if sent.isdecimal() else 0
        read = StreamMessage(each.sequence, each.stamp_ns, each.body, 0, 0, publisher, sent_ns)
        measure_clock(measured, read)
    wrong = sorted(measured.wrong().items(), key=lambda each: -abs(each[1]))
    return tuple(ClockStatus(publisher, round(offset_s, 4)) for publisher, offset_s in wrong)
