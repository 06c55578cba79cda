"""Statistics of delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from spanbus._named_tuple import NamedTuple

K = TypeVar("K")


class DeliveryStatistics(NamedTuple):
    """Snapshot of record counts by signal (``traces``, ``metrics``, ``logs``); ``rejected`` and ``dropped`` also by reason.

    ``waiting`` counts the unacknowledged records of the destination with the most. ``oldest_at_ns`` is when the oldest of
    them was written (Unix time). ``outage`` is the destination's last failure, None while it answers.
    """

    spooled: Mapping[str, int]
    delivered: Mapping[str, int]
    rejected: Mapping[tuple[str, str], int]
    dropped: Mapping[tuple[str, str], int]
    spool_bytes: int = 0
    waiting: int = 0
    oldest_at_ns: int | None = None
    outage: str | None = None


def total(own: DeliveryStatistics, others: Sequence[DeliveryStatistics]) -> DeliveryStatistics:
    """Sum of several snapshots."""
    for other in others:
        ages = [at_ns for at_ns in (own.oldest_at_ns, other.oldest_at_ns) if at_ns is not None]
        own = DeliveryStatistics(
            added(own.spooled, other.spooled),
            added(own.delivered, other.delivered),
            added(own.rejected, other.rejected),
            added(own.dropped, other.dropped),
            own.spool_bytes + other.spool_bytes,
            own.waiting + other.waiting,
            min(ages) if ages else None,
            own.outage or other.outage,
        )
    return own


def added(one: Mapping[K, int], other: Mapping[K, int]) -> Mapping[K, int]:
    """Sum of two mappings of counts."""
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
