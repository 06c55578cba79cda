"""Interfaces of a sender: source, destination, options and statistics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from spanbus._delivery.outcomes import Outcome
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal
from spanbus._sanitize import one_line

if TYPE_CHECKING:
    from spanbus._delivery.batches import Batch, Stored
    from spanbus._delivery.liveness import Liveness


class Source(Protocol):
    """Reading side of a spool."""

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None: ...

    def acknowledge(self, destination: str, batch: Batch) -> None: ...

    def pending(self, destination: str) -> int: ...

    def pending_in_memory(self, destination: str) -> int: ...

    @property
    def disk_error(self) -> str: ...


class Destination(Protocol):
    """Receiver of records. One thread calls ``send``, others ``interrupt``."""

    @property
    def name(self) -> str:
        """Name of the cursor in the spool."""
        ...

    @property
    def shown(self) -> str:
        """Name for messages, such as the URL."""
        ...

    def warm_up(self) -> None:
        """Do slow imports; called once in the sending thread, before the first record."""
        ...

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        """Send an empty request to see whether the destination answers."""
        ...

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome: ...

    def interrupt(self) -> None:
        """Abort the attempt under way, if possible."""
        ...

    def close(self) -> None: ...


_LONGEST_LINE = 2_000


def to_stderr(line: str) -> None:
    """Write one line to stderr, if there is one."""
    try:
        sys.stderr.write(f"{one_line(line, _LONGEST_LINE)}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # no stderr, or a closed one


def _random() -> float:
    from random import random  # lazy: it imports OpenSSL

    return random()


class SenderOptions(NamedTuple):
    """Limits, pauses and message texts. ``kept_in`` completes "… records wait in"; ``remedy`` tells the reader what to do."""

    kept_in: str = "memory"
    remedy: str = "they are lost when the program ends"
    batch_bytes: int = 1 << 20
    batch_records: int = 1024
    linger_s: float = 0.2
    """Linger: seconds that the first record of a batch waits for others."""
    attempt_s: float = 30.0
    """Limit of one attempt in seconds; a destination may have a shorter limit of its own."""
    backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    quiet_s: float = 5.0
    """Duration of an outage, in seconds, before it is reported."""
    prepare_every_s: float = 30.0
    life_signs: Liveness | None = None
    """Liveness of the destinations, shared with other programs."""
    taking_s: float = 0.0
    """Seconds that :meth:`Sender.stop` waits in total while a destination takes records, if longer than its own limit."""
    shortest_grace_s: float = 1.0
    longest_grace_s: float = 2.0
    """Seconds beyond its limit that :meth:`Sender.stop` waits for an answer under way from a live destination."""
    tell: Callable[[str], None] = to_stderr
    jitter: Callable[[], float] = _random


class LaneStatistics(NamedTuple):
    """Counts of one destination: records by signal (``unwanted`` also by reason), and the reason of its outage, None while
    it answers.
    """

    delivered: Mapping[Signal, int]
    rejected: Mapping[Signal, int]
    refused: Mapping[Signal, int]
    unwanted: Mapping[tuple[Signal, str], int]
    outage: str | None
