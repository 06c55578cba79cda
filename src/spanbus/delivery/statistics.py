"""Delivery's own counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class DeliveryStatistics(NamedTuple):
    """A snapshot. Signals are ``traces``, ``metrics``, ``logs``; ``rejected`` and ``dropped`` are by signal and reason.

    ``waiting`` are the records that no destination has acknowledged yet, ``oldest_at_ns`` (Unix time) is when the oldest of
    them was written, ``outage`` what the destination last failed with, None while it answers.
    """

    spooled: Mapping[str, int]
    delivered: Mapping[str, int]
    rejected: Mapping[tuple[str, str], int]
    dropped: Mapping[tuple[str, str], int]
    spool_bytes: int = 0
    waiting: int = 0
    oldest_at_ns: int | None = None
    outage: str | None = None
