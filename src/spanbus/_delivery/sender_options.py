"""Parts of a sender: the source that is read, the destination, the options of both."""

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
    """The part of a spool that is read."""

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None: ...

    def acknowledge(self, destination: str, batch: Batch) -> None: ...

    def pending(self, destination: str) -> int: ...

    def pending_in_memory(self, destination: str) -> int: ...

    @property
    def disk_error(self) -> str: ...


class Destination(Protocol):
    """A place that takes records. ``send`` is called by one thread, ``interrupt`` by others."""

    @property
    def name(self) -> str:
        """The name of its cursor in the spool."""
        ...

    @property
    def shown(self) -> str:
        """Name for people, such as its URL."""
        ...

    def warm_up(self) -> None:
        """Do slow imports; called once in the sending thread, before there is something to send."""
        ...

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        """Send an empty request to see whether it answers."""
        ...

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome: ...

    def interrupt(self) -> None:
        """End the attempt that is under way, if it can be ended."""
        ...

    def close(self) -> None: ...


_LONGEST_LINE = 2_000


def to_stderr(line: str) -> None:
    """Write one line to stderr, where there is one."""
    try:
        sys.stderr.write(f"{one_line(line, _LONGEST_LINE)}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # no stderr, or a closed one


def _random() -> float:
    from random import random  # OpenSSL comes with it

    return random()


class SenderOptions(NamedTuple):
    """Limits, pauses and words. ``kept_in`` completes the sentence "… records wait in", ``remedy`` says what to do."""

    kept_in: str = "memory"
    remedy: str = "they are lost when the program ends"
    batch_bytes: int = 1 << 20
    batch_records: int = 1024
    linger_s: float = 0.2
    """Linger: seconds that the first record of a batch waits for others."""
    attempt_s: float = 30.0
    """The longest that one attempt may take; a destination may have a shorter limit of its own."""
    backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    quiet_s: float = 5.0
    """Duration of an outage, in seconds, before it is reported."""
    prepare_every_s: float = 30.0
    life_signs: Liveness | None = None
    """Liveness of the destinations, as other programs know it."""
    taking_s: float = 0.0
    """Seconds that :meth:`Sender.stop` waits altogether for a destination that is taking records; no shorter than its
    own limit.
    """
    shortest_grace_s: float = 1.0
    longest_grace_s: float = 2.0
    """Seconds beyond its limit that :meth:`Sender.stop` waits for an answer under way from a live destination."""
    tell: Callable[[str], None] = to_stderr
    jitter: Callable[[], float] = _random


class LaneStatistics(NamedTuple):
    """Counts of one destination: records by signal (``unwanted`` by reason too), and since when it fails (Unix time),
    None while it answers.
    """

    delivered: Mapping[Signal, int]
    rejected: Mapping[Signal, int]
    refused: Mapping[Signal, int]
    unwanted: Mapping[tuple[Signal, str], int]
    outage: str | None
    outage_since_ns: int | None
